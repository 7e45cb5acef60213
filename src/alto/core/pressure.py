"""How far a producer may run ahead, and when a node is let go.

A scope that holds as many items as its limit pauses its producer, unless somebody waits at its end:
the producer that is waited for is never paused. The items that a scope holds are those that some
reader has not passed yet. When nothing but paused producers could go on, the smallest buffer grows
(T. Parks, Bounded Scheduling of Process Networks, 1995), up to the request's byte limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import StageError
from . import interest
from .attempt import Invocation, State, is_list
from .events import Go
from .feed import Feed
from .graph import Flow
from .scope import Node, Scope

if TYPE_CHECKING:
    from .execution import Execution


def heavy(execution: Execution, scope: Scope) -> bool:
    """Whether the bytes that are held are a reason to pause a producer. Half of what a request may
    hold is kept free for what its items turn into."""
    return scope.bytes >= execution.scope_bytes or execution.bytes > execution.request_bytes // 2


def hold_back(execution: Execution, invocation: Invocation, value: Any) -> bool:
    """Keep an item of a committed fan-out until its attempt closes. False: there is no room."""
    assert invocation.held is not None
    size = execution.size(value)
    invocation.held.append(value)
    invocation.held_bytes += size
    execution.bytes += size
    if execution.bytes > execution.request_bytes:
        over_limit(execution, invocation)
        execution._drain()
        return False
    return True


def let_go(execution: Execution, invocation: Invocation) -> list[Any]:
    """What was kept back of an attempt is so no longer."""
    held, invocation.held = invocation.held or [], None
    execution.bytes -= invocation.held_bytes
    invocation.held_bytes = 0
    return held


def may_run_ahead(execution: Execution, invocation: Invocation, scope: Scope) -> bool:
    """A full scope: its producer goes on only if somebody waits at its end."""
    waited_for = any(feed.hungry or is_list(feed) for feed in scope.waiters or ())
    if waited_for and execution.bytes > execution.request_bytes:
        over_limit(execution, invocation)
        return False
    if waited_for and execution.client_room:
        return True
    invocation.paused = True
    scope.paused = True
    execution.paused = (*execution.paused, invocation)
    execution.idle += 1
    stall(execution, invocation)
    execution._drain()
    if invocation.paused:
        return False
    # It was not told to pause yet, so it must not be told to go on.
    execution.actions = [
        action
        for action in execution.actions or ()
        if not (type(action) is Go and action.invocation is invocation)
    ]
    return invocation.state is State.RUNNING


def resume(execution: Execution, invocation: Invocation) -> None:
    unpause(execution, invocation)
    unstall(execution, invocation)
    execution.ask(Go(invocation))


def unpause(execution: Execution, invocation: Invocation) -> None:
    execution.paused = tuple([other for other in execution.paused if other is not invocation])
    invocation.paused = False
    execution.idle -= 1
    if invocation.scope is not None:
        invocation.scope.paused = False


def stall(execution: Execution, invocation: Invocation) -> None:
    """The attempt waits for ALTO: its clock stands still."""
    if invocation.due is not None and invocation.stalled is None:
        invocation.stalled = execution.now


def unstall(execution: Execution, invocation: Invocation) -> None:
    """The attempt's clock runs again."""
    if invocation.stalled is None or invocation.due is None:
        return
    if invocation.paused or any(feed.hungry for feed in invocation.feeds):
        return
    invocation.due += execution.now - invocation.stalled
    invocation.stalled = None


def grow(execution: Execution, among: Sequence[Invocation] = ()) -> None:
    """Nothing can go on but producers that are paused, or those `among` them: the smallest buffer
    grows (Parks 1995)."""
    if any(invocation.state is State.READY for invocation in execution.ready):
        return
    if any(kind == "backoff" for _, _, kind, _ in execution._timers or ()):
        return
    paused = among or execution.paused
    smallest = min(paused, key=lambda p: (p.scope.limit if p.scope else 0, p.use.index))
    assert smallest.scope is not None
    if execution.bytes > execution.request_bytes:
        over_limit(execution, smallest)
        return
    smallest.scope.limit = max(smallest.scope.limit, smallest.scope.live) * 2
    resume(execution, smallest)


def over_limit(execution: Execution, invocation: Invocation) -> None:
    for other in execution.paused:  # it may have too much to hold for what another one produced
        if other.scope is not None and other.scope.bytes > _ahead(invocation):
            invocation = other
    behind = interest.slowest_reader(execution, invocation)
    execution.fail(
        StageError(
            f"pipeline {execution.graph.name}, request {execution.name}: it holds "
            f"{execution.bytes:,} bytes, more than request_bytes="
            f"{execution.limits.request_bytes:,}. {invocation.use.name} produces "
            f"faster than {behind} reads. Let {behind} read its input as it comes, give smaller "
            "items, or raise [limits] request_bytes.",
            stage=invocation.use.name,
            path=invocation.path,
            attempts=invocation.attempt,
        )
    )


def too_much_held(execution: Execution, flow: Flow, node: Node) -> None:
    """More waits to be given to a client as committed than a request may hold."""
    execution.fail(
        StageError(
            f"pipeline {execution.graph.name}, request {execution.name}: it holds "
            f"{execution.bytes:,} bytes, more than request_bytes="
            f"{execution.limits.request_bytes:,}. With delivery='committed' the items of "
            f"{flow.name} are held for the client until all that they come from has closed. Let "
            "the client take them as they come (delivery='provisional'), give smaller items, or "
            "raise [limits] request_bytes.",
            stage=flow.name,
            path=node.path,
        )
    )


def _ahead(invocation: Invocation) -> int:
    return invocation.scope.bytes if invocation.scope is not None else 0


def forgotten(execution: Execution, feed: Feed | None) -> None:
    name = feed.source.flow.name if feed is not None else "an input"
    execution.fail(
        StageError(
            f"pipeline {execution.graph.name}, request {execution.name}: a stage must run again, "
            f"but {name} is no longer held (replay_bytes={execution.limits.replay_bytes:,}). "
            "Raise [limits] replay_bytes, or use delivery='committed' on the stage that retries.",
            stage=name,
        )
    )


def obligation(execution: Execution, node: Node) -> None:
    node.open -= 1
    if node.open == 0:
        spend(execution, node)


def spend(execution: Execution, node: Node) -> None:
    """Everything that had to happen at this node has happened: let it go."""
    while True:
        parent = node.parent
        if node.source is not None:  # below a merge: the item that it stands for waits for it
            node = node.source
            node.open -= 1
            if node.open != 0:
                return
            continue
        if parent is None:
            return
        scope = parent.opened(node.level)
        if scope is None or node.dead:
            return
        scope.live -= 1
        scope.bytes -= node.item_bytes
        execution.bytes -= node.bytes
        if node.level.retained:
            retire(execution, node)
        else:
            assert isinstance(node.key, int)
            scope.children[node.key] = None
            close_node(node)
        if scope.paused and scope.live <= scope.limit // 2:
            producer = scope.producer
            if producer is not None and not heavy(execution, scope):
                resume(execution, producer)
        if not scope_spent(execution, scope):
            return
        parent.open -= 1
        if parent.open != 0:
            return
        node = parent


def close_node(node: Node) -> None:
    """Nothing happens at this node any more. What it holds refers back to it: unless that is cut
    it stays until some garbage collection comes by, and makes that come by more often."""
    invocation = node.invocations
    while invocation is not None:
        invocation.scope = None
        invocation = invocation.next
    feed = node.feeds
    while feed is not None:
        feed.let_go()
        feed = feed.next
    node.invocations = node.scopes = node.feeds = None


def scope_spent(execution: Execution, scope: Scope) -> bool:
    if scope.spent or scope.live or not scope.closed:
        return False
    scope.spent = True
    return True


def maybe_spent(execution: Execution, scope: Scope) -> None:
    if scope_spent(execution, scope):
        obligation(execution, scope.node)


def retire(execution: Execution, node: Node) -> None:
    """Keep a spent node for re-runs as long as `replay_bytes` allow."""
    retired = execution.retired
    if retired is None:
        retired = execution.retired = deque()
    retired.append(node)
    execution.retired_bytes += node.bytes + 512
    while execution.retired_bytes > execution.limits.replay_bytes and retired:
        old = retired.popleft()
        execution.retired_bytes -= old.bytes + 512
        scope = old.parent.opened(old.level) if old.parent is not None else None
        if scope is not None and not old.dead:
            assert isinstance(old.key, int)
            scope.children[old.key] = None


def starve(execution: Execution, feed: Feed) -> None:
    """A feed waits. If it stands at the end of a paused scope, its producer is waited for. With
    more held than a request may, it stays paused: others may yet take what is held."""
    invocation = feed.invocation
    if invocation is not None and not is_list(feed):
        execution.idle += 1
        stall(execution, invocation)
    if execution.paused and execution.bytes <= execution.request_bytes:
        for other in execution.paused:
            scope = other.scope
            if scope is not None and scope.waiters is not None and feed in scope.waiters:
                resume(execution, other)
