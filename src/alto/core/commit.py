"""When nothing can change an item any more.

An item is *committed* when its producer's attempt has closed and so has everything that it came
from: the scopes of its ancestors, and those that a gathered argument was read from, the empty ones
too. An attempt that was cancelled counts as closed: nobody lets it say anything else.

It is judged when all that follows from an event has been worked off: in the middle of that, what
has just changed and what will be run again for it cannot be told apart. Committed is for ever, so
what was once found to be is not looked at again; what is not yet waits for the scope or the attempt
that stands in the way, and is looked at again when that is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import interest, revision
from .attempt import Invocation, State, at
from .graph import Flow, Gather, Kind, Step, Use
from .path import Path
from .scope import Node, Scope

if TYPE_CHECKING:
    from .execution import Execution

Release = Callable[[], None]
Waiter = tuple[Flow, Node, Release, bool]

Obstacle = Scope | Invocation | tuple[Use, Node]
"""What may be in the way: an open scope, an attempt that is made again, an undecided place."""


def when_committed(
    execution: Execution, flow: Flow, node: Node, release: Release, last: bool = False
) -> None:
    """Call `release` when the value of `flow` at `node` can change no more. It is for the client
    (`last`): then at the end of the request at the latest; or it is what the stage holds back."""
    execution.unjudged.append((flow, node, release, last))


def judge(execution: Execution) -> None:
    """Look at the first of those that have not been looked at since something was over."""
    waiter = flow, node, release, last = execution.unjudged.popleft()
    if node.dead:
        return
    in_the_way = _open_above(node) or _open_behind(execution, flow.origin, node, own=not last)
    if in_the_way is None:
        release()
    else:
        execution.awaiting.setdefault(in_the_way, []).append(waiter)


def over(execution: Execution, what: Obstacle) -> None:
    """A scope has closed, an attempt is over, a place is decided, or none of it was ever so: what
    waited for it is looked at again."""
    execution.unjudged.extend(execution.awaiting.pop(what, ()))


def cancelled(execution: Execution, invocation: Invocation) -> None:
    """Nobody wants what this attempt would say: what waited for it waits no more."""
    if not execution.awaiting:
        return
    over(execution, invocation)
    node, opens = invocation.node, invocation.use.opens
    if opens is not None and node.scopes and opens.slot in node.scopes:
        over(execution, node.scopes[opens.slot])


def flush(execution: Execution) -> None:
    """The request is over: what the client still waits for is as it is."""
    awaiting, execution.awaiting = execution.awaiting, {}
    for waiters in awaiting.values():
        for _, node, release, last in waiters:
            if last and not node.dead:
                release()


def _open_above(node: Node) -> Scope | None:
    """The nearest scope of an ancestor whose producer is still at it."""
    place = node
    while place.parent is not None:
        if place.source is not None:
            scope = _open_above(place.source)
        else:
            scopes = place.parent.scopes  # None: it is spent, so they have closed
            scope = scopes.get(place.level.slot) if scopes else None
        if scope is not None and _is_open(scope):
            return scope
        place = place.parent
    return None


def _is_open(scope: Scope) -> bool:
    if scope.closed:
        return False
    opener = scope.level.opener
    invocation = at(scope.node, opener) if opener is not None else None
    return invocation is None or invocation.state is not State.CANCELLED


def _open_behind(
    execution: Execution, use: Use | None, node: Node, own: bool = False
) -> Obstacle | None:
    """What `use` took at `node` came from there, and it is not over. `own`: it is asked for what
    `use` itself holds back there, which does not wait for itself."""
    if use is None or not use.rerun:
        return None
    if use.kind is Kind.MERGE:
        source = node.source
        assert source is not None and isinstance(node.key, tuple)
        return _open_behind(execution, use.items[node.key[0]][1].origin, source)
    place = node.up(node.level.depth - use.level.depth)
    if (use, place) in execution.committed_places:
        return None
    if revision.is_undecided(execution, use, place):
        return use, place
    invocation = at(place, use) if use.kind is Kind.STAGE else None
    if invocation is not None and invocation.rerun and not own:
        return invocation
    for _, flow in use.items:
        above = place.up(place.level.depth - flow.level.depth)
        if found := _open_behind(execution, flow.origin, above):
            return found
    for gather in use.gathers:
        if found := _open_in(execution, gather, place):
            return found
    execution.committed_places.add((use, place))
    return None


def _open_in(execution: Execution, gather: Gather, place: Node) -> Obstacle | None:
    """The same for everything that a gathered argument has brought or may still bring. If it was
    read in part only that part counts, and what stands before it."""
    feed = place.feeds.get(gather.slot) if place.feeds else None
    if feed is None or not feed.lost:
        return _open_on_walk(execution, gather.flow, gather.steps, place, None)
    if not feed.given:
        return None
    if feed.queue is None:
        last = feed.given[-1][0].path
        return _open_on_walk(execution, gather.flow, gather.steps, place, last)
    for node, _ in feed.given:
        if found := _open_above(node) or _open_behind(execution, gather.flow.origin, node):
            return found
    return None


def _open_on_walk(
    execution: Execution, flow: Flow, steps: tuple[Step, ...], top: Node, last: Path | None
) -> Obstacle | None:
    """Along the walk from `top` to the items of `flow`, as far as the item at `last` or to its end:
    the scopes that it leads through, who opened them, and the items."""
    if not steps:
        return _open_behind(execution, flow.origin, top)
    step, further = steps[0], steps[1:]
    if step.merge is not None:
        return _open_on_merge(execution, flow, steps, top, last)
    scope = top.scopes.get(step.level.slot) if top.scopes else None
    if scope is None:
        return None
    if _is_open(scope):
        return scope
    if found := _open_behind(execution, step.level.opener, top):
        return found
    for child in scope.children:
        if child is None or child.dead:
            continue
        if last is not None and child.path > last:
            break
        if found := _open_on_walk(execution, flow, further, child, last):
            return found
    return None


def _open_on_merge(
    execution: Execution, flow: Flow, steps: tuple[Step, ...], top: Node, last: Path | None
) -> Obstacle | None:
    """The same through a merge: along the walk of each argument, then below its items."""
    step, further = steps[0], steps[1:]
    assert step.merge is not None
    above = len(top.path)
    for position, (argument, way) in enumerate(step.sources):
        end: Path | None = None
        if last is not None:
            if position > last[above]:
                break
            if position == last[above]:  # the path below a merge is (position, *the item's own)
                end = (*last[:above], *last[above + 1 :])
        if found := _open_on_walk(execution, argument, way, top, end):
            return found
        for source in interest.nodes_under(top, argument.level):
            merged = source.merged.get((step.merge.index, position)) if source.merged else None
            if merged is None or merged.dead or (last is not None and merged.path > last):
                continue
            if found := _open_on_walk(execution, flow, further, merged, last):
                return found
    return None
