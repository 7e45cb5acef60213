"""One request: events in, actions out. No clock, no tasks, no luck of its own.

The state is a tree of nodes (core/scope.py). An invocation of a stage at a node is

    waiting ──▶ ready ──▶ running ──▶ done | failed | absent
                 ▲           │
                 └─ backoff ◀┘             and cancelled, from anywhere, when nobody wants its output

A flow that settles at a node (a value, absent, or failed) wakes what takes it there: stages whose
arguments are then complete become ready, operators settle at once, feeds move on. Everything that
follows from one event is worked off a list, never by recursion.

Interest (core/interest.py) is looked at only after somebody has lost it. Re-runs (core/revision.py)
compare a new attempt with what an earlier one gave.

Always true:
    E1  an attempt that is not the current one of its place changes nothing
    E2  a request finishes once; after that nothing is asked for and nothing is counted
    E3  an invocation is ready at most once per attempt, and only when all its items are present
    E4  a failure is raised only when a consumer or an output reaches it

The driver sets `now` before it calls in, works off `ready` and `actions`, and calls `tick` at
`wake_at()`.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..errors import AltoError, DeadlineExceeded, StageError
from . import interest, revision
from .events import Action, Broke, Closed, Done, Emit, Event, Finish, Given, Go, Start, Stop, Wake
from .feed import END, WAIT, Feed, Forgotten
from .graph import Default, Flow, Gather, Graph, Kind, Level, Mode, Output, Use
from .path import Path, show
from .scope import ABSENT, PENDING, Failed, Node, Scope


class State(Enum):
    """Where an invocation's attempt stands."""

    WAITING = "waiting"  # for a `list` argument
    READY = "ready"
    RUNNING = "running"
    BACKOFF = "backoff"
    HELD = "held"  # over, its output kept back until all above has closed
    DONE = "done"
    FAILED = "failed"
    ABSENT = "absent"
    CANCELLED = "cancelled"  # nobody wants its output; may be wanted again after a revision
    DEAD = "dead"  # its place is gone, or another attempt has taken it


ACTIVE = frozenset({State.WAITING, State.READY, State.RUNNING, State.BACKOFF, State.HELD})
WORKING = frozenset({State.READY, State.RUNNING})


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one request. Bytes are estimates of the user's values.

    `scope_items`, `scope_bytes`: how far a producer may run ahead of the slowest reader of its
    items, unless somebody waits for it. `request_bytes`: all that a request may hold; then it
    fails. `replay_bytes`: what is kept beyond need, for re-runs.
    """

    scope_items: int = 1024
    scope_bytes: int = 16 << 20
    request_bytes: int = 1 << 30
    replay_bytes: int = 64 << 20


class Invocation:
    """One attempt of a stage at a node. `task` belongs to the driver."""

    __slots__ = (
        "attempt",
        "due",
        "execution",
        "failures",
        "feeds",
        "held",
        "node",
        "paused",
        "rerun",
        "scope",
        "stalled",
        "state",
        "task",
        "use",
    )

    def __init__(self, execution: Execution, use: Use, node: Node, attempt: int) -> None:
        self.execution = execution
        self.use = use
        self.node = node
        self.attempt = attempt
        self.failures = 0  # of this place's attempts, those that raised
        self.state = State.WAITING
        self.feeds: list[Feed] = []
        self.scope: Scope | None = None
        self.held: list[Any] | None = None
        self.paused = False
        self.rerun = False
        self.due: float | None = None
        self.stalled: float | None = None
        self.task: Any = None

    @property
    def path(self) -> Path:
        return self.node.path

    def __repr__(self) -> str:
        return f"<{self.use.name} at {self.path} attempt {self.attempt} {self.state.value}>"


def _same(a: Any, b: Any) -> bool:
    return bool(a == b)


def _no_size(value: Any) -> int:
    return 64


class Execution:
    """The dataflow of one request over `graph`.

    `size(value)` estimates bytes; `same(a, b)` compares two items as they would be encoded;
    `rng` gives the jitter of back-offs. With `stream=True` every output item is emitted as soon
    as it exists, else only `results()` is kept.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        name: str = "",
        rng: random.Random | None = None,
        limits: Limits = Limits(),
        size: Callable[[Any], int] = _no_size,
        same: Callable[[Any, Any], bool] = _same,
        stream: bool = False,
        keep: bool = True,
        committed: bool = False,
    ) -> None:
        self.graph = graph
        self.name = name
        self.now = 0.0
        self.rng = rng or random.Random(0)
        self.limits = limits
        self.size = size
        self.same = same
        self.stream = stream
        self.keep = keep
        self.committed = committed
        self.ready: deque[Invocation] = deque()
        self.actions: list[Action] = []
        self.finished = False
        self.error: BaseException | None = None
        self.root = Node(None, (), graph.root)
        self.outputs: list[Feed] = []
        self.open_outputs = len(graph.outputs)
        self.running = 0  # attempts that are ready or running
        self.idle = 0  # of those: paused, or sessions that wait for input
        self.reruns = 0  # attempts under way at places that had settled before
        self.losses = False
        self.client_room = True
        self.bytes = 0
        self.paused: list[Invocation] = []
        self.retired: deque[Node] = deque()
        self.retired_bytes = 0
        self.client: dict[tuple[str, Path], Any] = {}
        self.stale: set[tuple[str, Path]] = set()
        self._work: deque[tuple[Node, Flow, Any]] = deque()
        self._moves: deque[Feed] = deque()
        self._timers: list[tuple[float, int, str, Invocation | None]] = []
        self._serial = 0

    # ---------------------------------------------------------------- the driver's side

    def begin(self, arguments: Mapping[str, Any], deadline: float | None = None) -> None:
        """The request's parameters are known. `deadline` is in the clock of `now`."""
        if deadline is not None:
            self._timer(deadline, "deadline", None)
        for output in self.graph.outputs:
            feed = Feed(self, self.root, output, hold=output.flow.level.retained)
            self.outputs.append(feed)
        for name, flow in self.graph.parameters.items():
            self._work.append((self.root, flow, arguments[name]))
        for use in self.graph.uses:
            if not use.items and use.kind is Kind.STAGE:
                self._start(use, self.root)
        self._moves.extend(self.outputs)
        self._drain()

    def handle(self, event: Event, now: float) -> list[Action]:
        """One event as a value; the actions that follow, `Start` for what became ready."""
        self.now = now
        if isinstance(event, Given | Closed | Done | Broke):
            invocation = self.find(event.stage, event.path, event.attempt)
            if invocation is not None:
                if isinstance(event, Given):
                    self.give(invocation, event.value)
                elif isinstance(event, Closed):
                    self.close(invocation)
                elif isinstance(event, Done):
                    self.done(invocation, event.value)
                else:
                    self.broke(invocation, event.error, event.retryable)
        else:
            self.tick()
        return self.take_actions()

    def take_actions(self) -> list[Action]:
        """Everything asked for since the last call, as values; ready invocations become running."""
        actions: list[Action] = []
        while self.ready:
            invocation = self.ready.popleft()
            if invocation.state is State.READY:
                self.started(invocation)
                actions.append(Start(invocation))
        actions.extend(self.actions)
        self.actions.clear()
        return actions

    def find(self, stage: str, path: Path, attempt: int) -> Invocation | None:
        """The invocation of the stage so called at this path, if that attempt is the current one."""
        for use in self.graph.uses:
            if use.name == stage and use.kind is Kind.STAGE:
                for node in interest.nodes_under(self.root, use.level):
                    if node.path == path:
                        invocation = _at(node, use)
                        if invocation is not None and invocation.attempt == attempt:
                            return invocation
        return None

    def started(self, invocation: Invocation) -> bool:
        """The driver begins to run an invocation of `ready`. False: it is not wanted any more."""
        if invocation.state is not State.READY:
            return False
        invocation.state = State.RUNNING
        timeout = invocation.use.rules.timeout
        if timeout is not None:
            invocation.due = self.now + timeout
            self._timer(invocation.due, "attempt", invocation)
        return True

    def arguments(self, invocation: Invocation, stream: Callable[[Feed], Any]) -> dict[str, Any]:
        """The keyword arguments of an attempt; `stream(feed)` makes what a session iterates."""
        use, node = invocation.use, invocation.node
        arguments = dict(use.constants)
        for (name, _), (up, slot) in zip(use.items, use.lookups, strict=True):
            if name is not None:
                arguments[name] = (node.up(up) if up else node).vals[slot]
        for feed in invocation.feeds:
            gather = feed.source
            assert isinstance(gather, Gather)
            if gather.mode is Mode.LIST:
                arguments[gather.parameter] = feed.values
            else:
                arguments[gather.parameter] = stream(feed)
        return arguments

    def give(self, invocation: Invocation, value: Any) -> bool:
        """An item of a fan-out. False: pause until `Go` (or `Stop`)."""
        if invocation.state is not State.RUNNING:
            return False
        if invocation.held is not None:
            invocation.held.append(value)
            return True
        scope = invocation.scope
        assert scope is not None
        self._append(invocation, scope, value)
        if self._work:
            self._drain()
        if invocation.state is not State.RUNNING:
            return False
        if scope.live >= scope.limit or scope.bytes >= self.limits.scope_bytes:
            return self._may_run_ahead(invocation, scope)
        return True

    def close(self, invocation: Invocation) -> None:
        """A fan-out has given all its items."""
        if invocation.state is not State.RUNNING:
            return
        if invocation.held is not None:
            self._leave_running(invocation, State.HELD)
            self._when_committed(invocation.node, lambda: self._release(invocation))
        else:
            self._leave_running(invocation, State.DONE)
            self._close(invocation, None)
        self._drain()

    def done(self, invocation: Invocation, value: Any) -> None:
        """A stage with one output has given it."""
        if invocation.state is not State.RUNNING:
            return
        if invocation.use.rules.committed:
            self._leave_running(invocation, State.HELD)
            invocation.held = [value]
            self._when_committed(invocation.node, lambda: self._release(invocation))
        else:
            self._leave_running(invocation, State.DONE)
            self._put(invocation, value)
        self._drain()

    def broke(self, invocation: Invocation, error: BaseException, retryable: bool = True) -> None:
        """An attempt raised. `retryable`: the stage's `retry_on` covers it."""
        if invocation.state is not State.RUNNING:
            return
        rules = invocation.use.rules
        self._leave_running(invocation, State.FAILED, keep_feeds=True)
        if self.losses and not interest.wanted(self, invocation.use.out, invocation.node):
            invocation.state = State.CANCELLED
            self._release_feeds(invocation)
            self._obligation(invocation.node)
            self._end_rerun(invocation)
        elif retryable and invocation.failures < rules.retries:
            invocation.state = State.BACKOFF
            pause = min(rules.backoff_s * 2.0**invocation.failures, rules.backoff_max_s)
            invocation.failures += 1
            pause *= 0.5 + self.rng.random() / 2
            self._timer(self.now + pause, "backoff", invocation)
        else:
            self._release_feeds(invocation)
            self._give_up(invocation, error)
        self._drain()

    def pull(self, feed: Feed) -> Any:
        """The next item for a session; END; WAIT (a `Wake` follows); or a `Failed`, which fails the
        request: the driver stops this attempt."""
        invocation = feed.invocation
        if self.finished or invocation is None or invocation.state is not State.RUNNING:
            return END
        try:
            value = feed.pull()
        except Forgotten:
            self._forgotten(feed)
            return WAIT
        if type(value) is Failed:
            self.fail(value.error)
            return WAIT
        if self._moves or self.actions or self._work:
            self._drain()
        return value

    def cancel(self, error: BaseException) -> None:
        """The caller gives up."""
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the request with an error: stop everything."""
        self._finish(error)

    def set_client_room(self, room: bool) -> None:
        """Whether the client takes more output items now; without room the walks that free items
        stand still, so producers slow down."""
        self.client_room = room
        if room:
            self._moves.extend(feed for feed in self.outputs if not feed.ended)
            self._drain()

    def wake_at(self) -> float | None:
        """When `tick` must be called at the latest."""
        while self._timers:
            when, _, kind, invocation = self._timers[0]
            if kind == "attempt" and (
                invocation is None or invocation.state is not State.RUNNING
            ):
                heapq.heappop(self._timers)
                continue
            return when
        return None

    def tick(self) -> None:
        """Let every timer that is due take effect."""
        while not self.finished and self._timers and self._timers[0][0] <= self.now:
            _, _, kind, invocation = heapq.heappop(self._timers)
            if kind == "deadline":
                self.fail(DeadlineExceeded(f"request {self.name}: its time ran out. {self.story()}"))
            elif kind == "backoff" and invocation is not None:
                if invocation.state is State.BACKOFF:
                    self._retry(invocation)
            elif invocation is not None and invocation.state is State.RUNNING:
                self._attempt_due(invocation)
        self._drain()

    def results(self) -> dict[str, Any]:
        """Each output: a value (None if absent) at the request's level, else a list in path order."""
        results: dict[str, Any] = {}
        for feed in self.outputs:
            if feed.source.flow.level is self.graph.root:
                results[feed.source.name if isinstance(feed.source, Output) else ""] = (
                    feed.values[0] if feed.values else None
                )
            else:
                results[feed.source.name if isinstance(feed.source, Output) else ""] = feed.values
        return results

    def story(self) -> str:
        """What the request waits for, for error messages."""
        waits = []
        for invocation in interest.active(self):
            if len(waits) == 5:
                waits.append("...")
                break
            waits.append(f"{invocation.use.name} at {show(invocation.path)}")
        return "It was running " + ", ".join(waits) + "." if waits else "Nothing was running."

    # ---------------------------------------------------------------- settling

    def settle(self, node: Node, flow: Flow, value: Any) -> None:
        """Queue that a flow is known at a node."""
        self._work.append((node, flow, value))

    def _drain(self) -> None:
        """Work off everything that follows, then see whether the request is over or stuck."""
        work, moves = self._work, self._moves
        try:
            while (work or moves) and not self.finished:
                if work:
                    self._settled(*work.popleft())
                else:
                    self._move(moves.popleft())
        except Forgotten:
            self._forgotten(None)
        if self.finished:
            work.clear()
            moves.clear()
        elif not self.open_outputs and not self.reruns:
            self._finish(None)
        elif self.paused and self.running <= self.idle and self.client_room:
            self._grow()

    def _settled(self, node: Node, flow: Flow, value: Any) -> None:
        if node.dead:
            return
        node.vals[flow.slot] = value
        if node.waiters is not None:
            self._wake_waiters(node)
        present = value is not ABSENT and type(value) is not Failed
        if not flow.watched:  # the common case: one stage takes this and nothing else
            use = flow.primary_of[0]
            if present:
                self._start(use, node)
            else:
                self._evaluate(use, node)
            return
        for output in flow.outputs:
            self._output(output, node, value)
        for use in flow.primary_of:
            if use.solo and present and use.kind is Kind.STAGE:
                self._start(use, node)
            else:
                self._evaluate(use, node)
        for gather in flow.completed_by:
            assert gather.use is not None
            if value is not ABSENT:
                feed = self._feed(gather, node.up(node.level.depth - gather.use.level.depth))
                assert feed.queue is not None
                feed.queue.append(node)
                self._moves.append(feed)
        for use, position in flow.merged_by:
            if present:
                self.settle(revision.merged_node(node, use, position), use.out, value)

    def _wake_waiters(self, node: Node) -> None:
        waiters, node.waiters = node.waiters, None
        assert waiters is not None
        for waiter in waiters:
            if type(waiter) is Feed:
                self._moves.append(waiter)
            else:
                use, place = waiter
                if not place.dead:
                    self._evaluate(use, place)

    def _evaluate(self, use: Use, node: Node) -> None:
        """Are this use's items known at this node? Then it starts, or it never will."""
        if use.kind is Kind.EITHER:
            self._either(use, node)
            return
        for (_, flow), (up, slot) in zip(use.items, use.lookups, strict=True):
            place = node.up(up) if up else node
            value = place.vals[slot]
            if value is PENDING:
                place.wait((use, node))
                return
            if value is ABSENT:
                self._absent(use, node)
                return
            if type(value) is Failed:
                self._reached(use, node, value, flow)
                return
        if use.kind is Kind.INSTANT:
            if node.vals[use.out.slot] is PENDING:
                self.settle(node, use.out, self.instant(use, node))
        else:
            self._start(use, node)

    def _either(self, use: Use, node: Node) -> None:
        if node.vals[use.out.slot] is not PENDING:
            return
        for _, flow in use.items:
            value = node.vals[flow.slot]
            if value is PENDING:
                node.wait((use, node))
                return
            if value is not ABSENT:
                self.settle(node, use.out, value)
                if type(value) is not Failed:
                    self._unneeded(use, node, flow)
                return
        self.settle(node, use.out, ABSENT)

    def _unneeded(self, use: Use, node: Node, chosen: Flow) -> None:
        """The later arguments of an `either` whose choice is made."""
        for _, flow in use.items:
            if flow is not chosen and node.vals[flow.slot] is PENDING:
                interest.lost(self, flow, node)

    def instant(self, use: Use, node: Node) -> Any:
        """The value of an operator whose items are present; one that raises is `Failed`."""
        values = [(node.up(up) if up else node).vals[slot] for up, slot in use.lookups]
        assert use.function is not None
        try:
            return use.function(*values)
        except Exception as error:
            wrapped = StageError(
                f"pipeline {self.graph.name}, {use.name} at {show(node.path)}: the predicate raised "
                f"{type(error).__name__}: {error}",
                stage=use.name,
                path=node.path,
            )
            wrapped.__cause__ = error
            return Failed(wrapped)

    def _absent(self, use: Use, node: Node) -> None:
        """This use never runs here."""
        if use.kind is Kind.INSTANT:
            if node.vals[use.out.slot] is PENDING:
                self.settle(node, use.out, ABSENT)
            return
        invocation = Invocation(self, use, node, 0)
        invocation.state = State.ABSENT
        _put_at(node, use, invocation)
        for gather in use.gathers:
            self._lose(self._feed(gather, node))
        if self.losses:
            interest.lost_items(self, use, node)
        self._nothing(invocation)

    def _nothing(self, invocation: Invocation) -> None:
        """No output at this place: absent, or a scope that closes at once."""
        use, node = invocation.use, invocation.node
        if use.opens is None:
            revision.put(self, node, use.out, ABSENT)
            self._obligation(node)
        else:
            scope = node.scope(use.opens)
            scope.producer = invocation
            scope.fresh = 0
            self._close(invocation, None)

    def _reached(self, use: Use, node: Node, failed: Failed, flow: Flow) -> None:
        """An argument failed. Operators pass it on; a stage that is wanted fails the request."""
        if use.kind is Kind.INSTANT:
            if node.vals[use.out.slot] is PENDING:
                self.settle(node, use.out, failed)
        elif not self.losses or interest.wanted(self, use.out, node):
            self.fail(failed.error)
        else:
            invocation = Invocation(self, use, node, 0)
            invocation.state = State.CANCELLED
            _put_at(node, use, invocation)
            self._obligation(node)

    # ---------------------------------------------------------------- invocations

    def _start(
        self, use: Use, node: Node, attempt: int = 1, rerun: bool = False, failures: int = 0
    ) -> None:
        """All items are present: make the attempt, and run it unless a `list` is not complete."""
        invocation = Invocation(self, use, node, attempt)
        invocation.failures = failures
        invocation.rerun = rerun
        _put_at(node, use, invocation)
        if self.losses and not interest.wanted(self, use.out, node):
            invocation.state = State.CANCELLED
            for gather in use.gathers:
                self._lose(self._feed(gather, node))
            self._obligation(node)
            self._end_rerun(invocation)
            return
        if use.gathers:
            for gather in use.gathers:
                feed = self._feed(gather, node)
                feed.invocation = invocation
                feed.lost = False
                invocation.feeds.append(feed)
                if gather.mode is Mode.LIST and not feed.ended:
                    self._moves.append(feed)
            if use.lists and not self._lists_complete(invocation):
                return
        self._make_ready(invocation)

    def _lists_complete(self, invocation: Invocation) -> bool:
        return all(feed.ended for feed in invocation.feeds if _is_list(feed))

    def _make_ready(self, invocation: Invocation) -> None:
        use = invocation.use
        invocation.state = State.READY
        if use.opens is not None:
            scope = invocation.scope = invocation.node.scope(use.opens)
            scope.producer = invocation
            scope.limit = scope.limit or self.limits.scope_items
            if use.rules.committed:
                invocation.held = []
        self.running += 1
        self.ready.append(invocation)

    def _leave_running(
        self, invocation: Invocation, state: State, keep_feeds: bool = False
    ) -> None:
        """An attempt stops working, for whatever reason."""
        if invocation.state in WORKING:
            self.running -= 1
            if invocation.paused:
                self._unpause(invocation)
                self.paused.remove(invocation)
            for feed in invocation.feeds:
                if feed.hungry:
                    feed.hungry = False
                    self.idle -= not _is_list(feed)
        invocation.state = state
        if invocation.feeds and not keep_feeds:
            self._release_feeds(invocation)

    def _release_feeds(self, invocation: Invocation) -> None:
        """The reader is over: what it has not read interests it no more."""
        for feed in invocation.feeds:
            if not feed.ended:
                self._lose(feed)

    def _lose(self, feed: Feed) -> None:
        """Nobody reads this feed any more."""
        if feed.lost or feed.ended:
            return
        feed.lost = True
        feed.hungry = False
        if not feed.skip() and not feed.ended:
            interest.lost(self, feed.source.flow, feed.node)

    def _put(self, invocation: Invocation, value: Any) -> None:
        """The one output of an attempt is known."""
        node, use = invocation.node, invocation.use
        if type(value) is not Failed:
            size = self.size(value)
            node.bytes += size
            self.bytes += size
            if self.bytes > self.limits.request_bytes:
                self._over_limit(invocation)
                return
        revision.put(self, node, use.out, value)
        self._obligation(node)
        self._end_rerun(invocation)

    def _append(self, invocation: Invocation, scope: Scope, value: Any) -> None:
        """One more item of a fan-out: a new node, or one that an earlier attempt gave already."""
        use = invocation.use
        assert use.opens is not None
        position = scope.fresh
        if position < len(scope.children) and revision.confirm(self, scope, position, value):
            return
        node = Node(scope.node, position, use.opens)
        node.bytes = self.size(value)
        self.bytes += node.bytes
        scope.bytes += node.bytes
        scope.children.append(node)
        scope.fresh = position + 1
        scope.live += 1
        if scope.waiters:
            self._moves.extend(scope.waiters)
            scope.waiters.clear()
        if invocation.rerun or invocation.attempt > 1:
            revision.changed(self, scope)
        self._work.append((node, use.out, value))
        if node.open == 0:
            self.spend(node)

    def _close(self, invocation: Invocation, failed: Failed | None) -> None:
        """The producer of a scope is over."""
        use, node = invocation.use, invocation.node
        assert use.opens is not None
        scope = node.scope(use.opens)
        if scope.fresh < len(scope.children):
            revision.truncate(self, scope, scope.fresh)
        scope.closed = True
        scope.failed = failed
        if failed is not None and interest.doomed(self, use.opens, node):
            self.fail(failed.error)
            return
        if scope.waiters:
            self._moves.extend(scope.waiters)
            scope.waiters.clear()
        if self.stale:
            revision.withdraw_under(self, scope)
        if scope.on_commit:
            waiting, scope.on_commit = scope.on_commit, None
            for place, release in waiting:
                self._when_committed(place, release)
        self._end_rerun(invocation)
        self._maybe_spent(scope)

    def _release(self, invocation: Invocation) -> None:
        """Everything above a committed attempt has closed: its output may go on."""
        if invocation.state is not State.HELD:
            return
        held, invocation.held = invocation.held or [], None
        invocation.state = State.DONE
        if invocation.use.opens is None:
            self._put(invocation, held[0])
            return
        assert invocation.scope is not None
        for value in held:
            self._append(invocation, invocation.scope, value)
        self._close(invocation, None)

    def _when_committed(self, node: Node, release: Callable[[], None]) -> None:
        """Call `release` when every scope above `node` has closed."""
        place = node
        while place.parent is not None:
            scope = place.parent.scopes.get(place.level.slot) if place.parent.scopes else None
            if scope is not None and not scope.closed:
                if scope.on_commit is None:
                    scope.on_commit = []
                scope.on_commit.append((node, release))
                return
            place = place.parent
        if not node.dead:
            release()

    def _give_up(self, invocation: Invocation, error: BaseException) -> None:
        """The last attempt failed: `on_error` says what stands at its place."""
        use = invocation.use
        on_error = use.rules.on_error
        if isinstance(on_error, Default):
            invocation.state = State.DONE
            if use.opens is None:
                self._put(invocation, on_error.value)
                return
            assert invocation.scope is not None
            for value in (invocation.held or []) + list(on_error.value):
                self._append(invocation, invocation.scope, value)
            self._close(invocation, None)
        elif on_error == "drop":
            invocation.state = State.ABSENT
            if use.opens is None:
                self._nothing(invocation)
                self._end_rerun(invocation)
            else:
                assert invocation.scope is not None
                for value in invocation.held or []:
                    self._append(invocation, invocation.scope, value)
                self._close(invocation, None)
        else:
            failed = Failed(self._stage_error(invocation, error))
            if use.opens is None:
                self._put(invocation, failed)
            else:
                self._close(invocation, failed)

    def _stage_error(self, invocation: Invocation, error: BaseException) -> StageError:
        count = invocation.failures + 1
        attempts = f"{count} attempts" if count > 1 else "its only attempt"
        detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        wrapped = StageError(
            f"pipeline {self.graph.name}, stage {invocation.use.name} at {show(invocation.path)} "
            f"failed in {attempts}: {detail}",
            stage=invocation.use.name,
            path=invocation.path,
            attempts=count,
        )
        wrapped.__cause__ = error
        return wrapped

    def _retry(self, invocation: Invocation) -> None:
        """The back-off is over: another attempt at the same place."""
        self.restart(invocation, rerun=invocation.rerun)

    def restart(self, invocation: Invocation, rerun: bool) -> None:
        """Replace an attempt by the next one, from the start of its inputs."""
        node, use = invocation.node, invocation.use
        invocation.state = State.DEAD
        for gather in use.gathers:
            revision.rewind(self, self._feed(gather, node))
        if use.opens is not None:
            scope = node.scope(use.opens)
            scope.fresh = 0
            scope.closed = False
            scope.failed = None
        self._start(use, node, invocation.attempt + 1, rerun, invocation.failures)

    def stop(self, invocation: Invocation, state: State) -> None:
        """Take an attempt out of the running. The driver hears of it if it knew of it."""
        known = invocation.state is State.RUNNING
        self._leave_running(invocation, state, keep_feeds=True)
        if known:
            self.actions.append(Stop(invocation))

    def _attempt_due(self, invocation: Invocation) -> None:
        """An attempt's time may be up; time in which it waited for ALTO does not count."""
        due, timeout = invocation.due, invocation.use.rules.timeout
        assert due is not None and timeout is not None
        if invocation.stalled is not None:
            due = self.now + (due - invocation.stalled)
            if due <= self.now:
                due = self.now + timeout
        if due > self.now:
            self._timer(due, "attempt", invocation)
            return
        self.actions.append(Stop(invocation))
        self.broke(
            invocation,
            DeadlineExceeded(
                f"stage {invocation.use.name} at {show(invocation.path)}: attempt "
                f"{invocation.attempt} took longer than timeout={timeout:g} s"
            ),
            invocation.use.rules.retry_timeout,
        )

    def _end_rerun(self, invocation: Invocation) -> None:
        if invocation.rerun:
            invocation.rerun = False
            self.reruns -= 1

    # ---------------------------------------------------------------- feeds

    def _feed(self, gather: Gather, node: Node) -> Feed:
        """The feed of a gathered argument at a node; made when first asked for."""
        if node.feeds is None:
            node.feeds = {}
        feed = node.feeds.get(gather.slot)
        if feed is None:
            assert gather.use is not None
            feed = node.feeds[gather.slot] = Feed(self, node, gather, gather.use.hold)
        return feed

    def _move(self, feed: Feed) -> None:
        """A feed's cursor may be able to go on."""
        if feed.ended or feed.node.dead:
            return
        if feed.lost:
            feed.skip()
            return
        source = feed.source
        if isinstance(source, Output):
            self._move_output(feed)
            return
        invocation = feed.invocation
        if invocation is None:
            return
        if source.mode is not Mode.LIST:
            if feed.hungry and invocation.state is State.RUNNING:
                feed.hungry = False
                self.idle -= 1
                self._unstall(invocation)
                self.actions.append(Wake(feed))
            return
        if invocation.state is not State.WAITING:
            return
        feed.hungry = False
        found = feed.fill()
        if type(found) is Failed:
            if not self.losses or interest.wanted(self, invocation.use.out, feed.node):
                self.fail(found.error)
        elif feed.ended and self._lists_complete(invocation):
            self._make_ready(invocation)

    def _move_output(self, feed: Feed) -> None:
        if self.stream and not self.client_room:
            return
        feed.hungry = False
        if self.keep:
            found = feed.fill()
            if type(found) is Failed:
                self.fail(found.error)
        elif feed.skip() and not feed.ended:
            found = feed.cursor.advance()
            if type(found) is Failed:
                self.fail(found.error)
        if feed.ended:
            self.open_outputs -= 1

    def starve(self, feed: Feed) -> None:
        """A feed waits. If it stands at the end of a paused scope, its producer is waited for."""
        invocation = feed.invocation
        if invocation is not None and not _is_list(feed):
            self.idle += 1
            if invocation.due is not None and invocation.stalled is None:
                invocation.stalled = self.now
        if self.paused:
            for other in list(self.paused):
                scope = other.scope
                if scope is not None and feed in scope.waiters:
                    self._resume(other)

    # ---------------------------------------------------------------- flow control

    def _may_run_ahead(self, invocation: Invocation, scope: Scope) -> bool:
        """A full scope: its producer goes on only if somebody waits at its end."""
        waited_for = any(feed.hungry or _is_list(feed) for feed in scope.waiters)
        if self.bytes > self.limits.request_bytes:
            self._over_limit(invocation)
            return False
        if waited_for and self.client_room:
            return True
        invocation.paused = True
        scope.paused = True
        self.paused.append(invocation)
        self.idle += 1
        if invocation.due is not None and invocation.stalled is None:
            invocation.stalled = self.now
        self._drain()
        return not invocation.paused

    def _resume(self, invocation: Invocation) -> None:
        self.paused.remove(invocation)
        self._unpause(invocation)
        self._unstall(invocation)
        self.actions.append(Go(invocation))

    def _unpause(self, invocation: Invocation) -> None:
        invocation.paused = False
        self.idle -= 1
        if invocation.scope is not None:
            invocation.scope.paused = False

    def _unstall(self, invocation: Invocation) -> None:
        """The attempt's clock runs again."""
        if invocation.stalled is None or invocation.due is None:
            return
        if invocation.paused or any(feed.hungry for feed in invocation.feeds):
            return
        invocation.due += self.now - invocation.stalled
        invocation.stalled = None

    def _grow(self) -> None:
        """Nothing can go on but producers that are paused: the smallest buffer grows (Parks 1995)."""
        if any(invocation.state is State.READY for invocation in self.ready):
            return
        if any(kind == "backoff" for _, _, kind, _ in self._timers):
            return
        smallest = min(self.paused, key=lambda p: (p.scope.limit if p.scope else 0, p.use.index))
        assert smallest.scope is not None
        smallest.scope.limit = max(smallest.scope.limit, smallest.scope.live) * 2
        self._resume(smallest)

    def _over_limit(self, invocation: Invocation) -> None:
        behind = interest.slowest_reader(self, invocation)
        self.fail(
            StageError(
                f"pipeline {self.graph.name}, request {self.name}: it holds {self.bytes:,} bytes, more "
                f"than request_bytes={self.limits.request_bytes:,}. {invocation.use.name} produces "
                f"faster than {behind} reads. Let {behind} read its input as it comes, give smaller "
                "items, or raise [limits] request_bytes.",
                stage=invocation.use.name,
                path=invocation.path,
                attempts=invocation.attempt,
            )
        )

    def _forgotten(self, feed: Feed | None) -> None:
        name = feed.source.flow.name if feed is not None else "an input"
        self.fail(
            StageError(
                f"pipeline {self.graph.name}, request {self.name}: a stage must run again, but {name} is "
                f"no longer held (replay_bytes={self.limits.replay_bytes:,}). Raise [limits] "
                "replay_bytes, or use delivery='committed' on the stage that retries.",
                stage=name,
            )
        )

    def _obligation(self, node: Node) -> None:
        node.open -= 1
        if node.open == 0:
            self.spend(node)

    def spend(self, node: Node) -> None:
        """Everything that had to happen at this node has happened: let it go."""
        while True:
            parent = node.parent
            if parent is None or type(node.key) is tuple:
                return
            assert parent.scopes is not None
            scope = parent.scopes.get(node.level.slot)
            if scope is None or node.dead:
                return
            scope.live -= 1
            scope.bytes -= node.bytes
            self.bytes -= node.bytes
            if node.level.retained:
                self._retire(node)
            else:
                assert isinstance(node.key, int)
                scope.children[node.key] = None
            if scope.paused and scope.live <= scope.limit // 2:
                producer = scope.producer
                if producer is not None and scope.bytes < self.limits.scope_bytes:
                    self._resume(producer)
            if not self._scope_spent(scope):
                return
            parent.open -= 1
            if parent.open != 0:
                return
            node = parent

    def _scope_spent(self, scope: Scope) -> bool:
        if scope.spent or scope.live or not scope.closed:
            return False
        scope.spent = True
        return True

    def _maybe_spent(self, scope: Scope) -> None:
        if self._scope_spent(scope):
            self._obligation(scope.node)

    def _retire(self, node: Node) -> None:
        """Keep a spent node for re-runs as long as `replay_bytes` allow."""
        self.retired.append(node)
        self.retired_bytes += node.bytes + 512
        while self.retired_bytes > self.limits.replay_bytes and self.retired:
            old = self.retired.popleft()
            self.retired_bytes -= old.bytes + 512
            if old.parent is not None and old.parent.scopes is not None and not old.dead:
                scope = old.parent.scopes[old.level.slot]
                assert isinstance(old.key, int)
                scope.children[old.key] = None

    # ---------------------------------------------------------------- outputs and the end

    def _output(self, output: Output, node: Node, value: Any) -> None:
        """An output settled somewhere: tell the client."""
        if type(value) is Failed:
            self.fail(value.error)
            return
        if self.stream:
            if self.committed:
                self._when_committed(node, lambda: revision.emit(self, output, node))
            else:
                revision.emit(self, output, node)

    def emit(
        self, output: str, path: Path, value: Any, revised: bool = False, withdrawn: bool = False
    ) -> None:
        self.actions.append(Emit(output, path, value, revised, withdrawn))

    def _timer(self, when: float, kind: str, invocation: Invocation | None) -> None:
        self._serial += 1
        heapq.heappush(self._timers, (when, self._serial, kind, invocation))

    def _finish(self, error: BaseException | None) -> None:
        if self.finished:
            return
        if error is None and self.stale:
            revision.withdraw_all(self)
        for invocation in interest.active(self):
            self.stop(invocation, State.CANCELLED)
        self.finished = True
        self.error = error
        self.ready.clear()
        self._timers.clear()
        self.paused.clear()
        self.actions.append(Finish(error))
        if error is not None and not isinstance(error, AltoError):
            self.error = error


def _at(node: Node, use: Use) -> Invocation | None:
    return None if node.invocations is None else node.invocations.get(use.slot)


def _put_at(node: Node, use: Use, invocation: Invocation) -> None:
    if node.invocations is None:
        node.invocations = {use.slot: invocation}
    else:
        node.invocations[use.slot] = invocation


def _is_list(feed: Feed) -> bool:
    source = feed.source
    return isinstance(source, Output) or source.mode is Mode.LIST


__all__ = ["ACTIVE", "END", "WAIT", "Execution", "Invocation", "Level", "Limits", "State"]
