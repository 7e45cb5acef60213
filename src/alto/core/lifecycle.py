"""The life of an attempt: made, ready, over; tried again, given up, stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import DeadlineExceeded, StageError, StageMistake
from . import commit, feeding, interest, pressure, revision, settling
from .attempt import WORKING, Invocation, State, is_list, put_at
from .default import Default
from .events import Stop
from .feed import Feed
from .graph import Mode, Use
from .path import show
from .scope import ABSENT, PENDING, Failed, Node, Scope

if TYPE_CHECKING:
    from .execution import Execution


def start(
    execution: Execution,
    use: Use,
    node: Node,
    attempt: int = 1,
    rerun: bool = False,
    failures: int = 0,
) -> None:
    """All items are present: make the attempt, and run it unless a `list` is not complete."""
    invocation = Invocation(use, node, attempt, rerun, failures)
    if node.invocations is None:  # as mostly: what `put_at` does then
        node.invocations = invocation
    else:
        put_at(node, use, invocation)
    if execution.losses and not interest.wanted(execution, use.out, node, again=rerun):
        invocation.state = State.CANCELLED
        for gather in use.gathers:
            feeding.lose(execution, feeding.feed_at(execution, gather, node))
        pressure.obligation(execution, node)
        end_rerun(execution, invocation)
        commit.cancelled(execution, invocation)
        return
    if use.gathers:
        feeds: list[Feed] = []
        for gather in use.gathers:
            feed = feeding.feed_at(execution, gather, node)
            feed.invocation = invocation
            feed.lost = False
            feeds.append(feed)
            if gather.mode is Mode.LIST and not feed.ended:
                execution._moves.append(feed)
        invocation.feeds = tuple(feeds)
        if use.lists and not lists_complete(execution, invocation):
            return
    make_ready(execution, invocation)


def lists_complete(execution: Execution, invocation: Invocation) -> bool:
    return all(feed.ended for feed in invocation.feeds if is_list(feed))


def make_ready(execution: Execution, invocation: Invocation) -> None:
    use = invocation.use
    invocation.state = State.READY
    if use.opens is not None:
        scope = invocation.scope = invocation.node.scope(use.opens)
        scope.producer = invocation
        scope.limit = scope.limit or execution.scope_items
        if use.rules.committed:
            invocation.held = []
    execution.running += 1
    execution.ready.append(invocation)


def leave_running(
    execution: Execution, invocation: Invocation, state: State, keep_feeds: bool = False
) -> None:
    """An attempt stops working, for whatever reason."""
    if invocation.state in WORKING:
        execution.running -= 1
        if invocation.paused:
            pressure.unpause(execution, invocation)
        for feed in invocation.feeds:
            if feed.hungry:
                feed.hungry = False
                execution.idle -= not is_list(feed)
    invocation.state = state
    if invocation.feeds and not keep_feeds:
        feeding.release_feeds(execution, invocation)


def restart(execution: Execution, invocation: Invocation, rerun: bool) -> None:
    """Replace an attempt by the next one, from the start of its inputs."""
    node, use = invocation.node, invocation.use
    invocation.state = State.DEAD
    pressure.let_go(execution, invocation)
    feeds = [feeding.feed_at(execution, gather, node) for gather in use.gathers]
    lost = [feed for feed in feeds if revision.rewind(execution, feed)]
    if use.opens is not None:
        scope = node.scope(use.opens)
        scope.fresh = 0
        scope.closed = False
        scope.failed = None
    start(execution, use, node, invocation.attempt + 1, rerun, invocation.failures)
    for feed in lost:  # what it now reads is wanted again
        interest.revive(execution, feed.source.flow, node)
    commit.over(execution, invocation)


def stop(execution: Execution, invocation: Invocation, state: State) -> None:
    """Take an attempt out of the running. The driver hears of it if it knew of it."""
    known = invocation.state is State.RUNNING
    pressure.let_go(execution, invocation)
    leave_running(execution, invocation, state, keep_feeds=True)
    if known:
        execution.ask(Stop(invocation))


def put(execution: Execution, invocation: Invocation, value: Any) -> None:
    """The one output of an attempt is known."""
    node, flow = invocation.node, invocation.use.out
    if type(value) is not Failed:
        size = execution.size(value)
        if node.source is None:  # what `hold` does: this is asked of every output
            node.bytes += size
            execution.bytes += size
        else:
            execution.hold(node, size)
        if execution.bytes > execution.request_bytes:
            pressure.over_limit(execution, invocation)
            return
    if node.vals[flow.slot] is PENDING:
        execution._work.append((node, flow, value))
    else:
        revision.put(execution, node, flow, value)
    node.open -= 1
    if node.open == 0:
        pressure.spend(execution, node)
    if invocation.rerun:
        end_rerun(execution, invocation)


def append(execution: Execution, invocation: Invocation, scope: Scope, value: Any) -> None:
    """One more item of a fan-out: a new node, or one that an earlier attempt gave already."""
    use = invocation.use
    assert use.opens is not None
    position = scope.fresh
    if position < len(scope.children) and revision.confirm(execution, scope, position, value):
        return
    node = Node(scope.node, position, use.opens)
    size = node.bytes = node.item_bytes = execution.size(value)
    execution.bytes += size
    scope.bytes += size
    scope.children.append(node)
    scope.fresh = position + 1
    scope.live += 1
    waiters = scope.waiters
    if waiters is not None:
        scope.waiters = None
        for feed in waiters:
            if not feed.follow(node):
                execution._moves.append(feed)
    if invocation.rerun or invocation.attempt > 1:
        revision.changed(execution, scope)
    execution._work.append((node, use.out, value))
    if node.open == 0:
        pressure.spend(execution, node)


def close(execution: Execution, invocation: Invocation, failed: Failed | None) -> None:
    """The producer of a scope is over."""
    use, node = invocation.use, invocation.node
    assert use.opens is not None
    scope = node.scope(use.opens)
    if scope.fresh < len(scope.children):
        revision.truncate(execution, scope, scope.fresh)
    scope.closed = True
    scope.failed = failed
    if failed is not None and interest.doomed(execution, use.opens, node):
        execution.fail(failed.error)
        return
    if scope.waiters is not None:
        execution._moves.extend(scope.waiters)
        scope.waiters = None
    if execution.told is not None:
        revision.withdraw_under(execution, execution.told, scope)
    end_rerun(execution, invocation)
    if execution.commits is not None:
        commit.over(execution, scope)
    pressure.maybe_spent(execution, scope)


def give_up(execution: Execution, invocation: Invocation, error: BaseException) -> None:
    """The last attempt failed: `on_error` says what stands at its place."""
    use = invocation.use
    on_error = use.rules.on_error
    if on_error == "fail":
        pressure.let_go(execution, invocation)
        failed = Failed(stage_error(execution, invocation, error))
        if use.opens is None:
            put(execution, invocation, failed)
        else:
            close(execution, invocation, failed)
        return
    if isinstance(on_error, Default):
        values = [on_error.value] if use.opens is None else list(on_error.value)
    else:
        values = [ABSENT] if use.opens is None else []
    if use.rules.committed:
        feeding.keep_back(execution, invocation, values)
    else:
        finish(execution, invocation, values)


def finish(execution: Execution, invocation: Invocation, values: list[Any]) -> None:
    """The attempt is over: its one output, or the last items of its fan-out, go on."""
    invocation.state = State.DONE
    if invocation.use.opens is not None:
        assert invocation.scope is not None
        for value in values:
            append(execution, invocation, invocation.scope, value)
        close(execution, invocation, None)
    elif values[0] is ABSENT:
        settling.nothing(execution, invocation)
        end_rerun(execution, invocation)
    else:
        put(execution, invocation, values[0])


def stage_error(execution: Execution, invocation: Invocation, error: BaseException) -> StageError:
    count = invocation.failures + 1
    attempts = f"{count} attempts" if count > 1 else "its only attempt"
    cause: BaseException | None = error
    if isinstance(error, StageMistake):
        detail, cause = str(error), error.__cause__
    else:
        detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    wrapped = StageError(
        f"pipeline {execution.graph.name}, stage {invocation.use.name} at {show(invocation.path)} "
        f"failed in {attempts}: {detail}",
        stage=invocation.use.name,
        path=invocation.path,
        attempts=count,
    )
    wrapped.__cause__ = cause
    return wrapped


def retry(execution: Execution, invocation: Invocation) -> None:
    """The back-off is over: another attempt at the same place."""
    restart(execution, invocation, rerun=invocation.rerun)


def attempt_due(execution: Execution, invocation: Invocation) -> None:
    """An attempt's time may be up; time in which it waited for ALTO does not count."""
    due, timeout = invocation.due, invocation.use.rules.timeout
    assert due is not None and timeout is not None
    if invocation.stalled is not None:
        due = execution.now + (due - invocation.stalled)
        if due <= execution.now:
            due = execution.now + timeout
    if due > execution.now:
        execution._timer(due, "attempt", invocation)
        return
    execution.ask(Stop(invocation))
    execution.broke(
        invocation,
        DeadlineExceeded(
            f"stage {invocation.use.name} at {show(invocation.path)}: attempt "
            f"{invocation.attempt} took longer than timeout={timeout:g} s"
        ),
        invocation.use.rules.retry_timeout,
    )


def end_rerun(execution: Execution, invocation: Invocation) -> None:
    if invocation.rerun:
        invocation.rerun = False
        execution.reruns -= 1
        commit.over(execution, invocation)
