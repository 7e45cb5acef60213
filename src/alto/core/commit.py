"""When nothing can change an item any more.

An item is *committed* when its producer's attempt has closed and so has everything that it came
from: the scopes of its ancestors, and those that a gathered argument was read from. An attempt that
was cancelled counts as closed: nobody lets it say anything else.

Committed is for ever, so what was once found to be is not looked at again; what is not yet waits
for the scope or the attempt that stands in the way, and is looked at again when that is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import interest
from .attempt import ACTIVE, Invocation, State, at
from .feed import Feed
from .graph import Flow, Gather, Kind, Use
from .scope import Node, Scope

if TYPE_CHECKING:
    from .execution import Execution

Release = Callable[[], None]
Waiter = tuple[Flow, Node, Release, bool]


def when_committed(
    execution: Execution, flow: Flow, node: Node, release: Release, last: bool = False
) -> None:
    """Call `release` when the value of `flow` at `node` can change no more. It is for the client
    (`last`): then at the end of the request at the latest; or it is what the stage holds back."""
    if node.dead:
        return
    in_the_way = _open_above(node) or _open_behind(execution, flow.origin, node, own=not last)
    if in_the_way is None:
        release()
    else:
        execution.awaiting.setdefault(in_the_way, []).append((flow, node, release, last))


def over(execution: Execution, what: Scope | Invocation) -> None:
    """A scope has closed, or an attempt is over: look again at what waited for it."""
    for flow, node, release, last in execution.awaiting.pop(what, ()):
        when_committed(execution, flow, node, release, last)


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
) -> Scope | Invocation | None:
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
    invocation = at(place, use) if use.kind is Kind.STAGE else None
    if invocation is not None and invocation.rerun and invocation.state in ACTIVE and not own:
        return invocation
    for _, flow in use.items:
        above = place.up(place.level.depth - flow.level.depth)
        if found := _open_behind(execution, flow.origin, above):
            return found
    for gather in use.gathers:
        if found := _open_below(execution, gather, place):
            return found
    execution.committed_places.add((use, place))
    return None


def _open_below(execution: Execution, gather: Gather, place: Node) -> Scope | Invocation | None:
    """The same for everything that a gathered argument has brought or may still bring."""
    feed = place.feeds.get(gather.slot) if place.feeds else None
    if feed is not None and feed.lost:
        return _open_in_part(execution, gather, place, feed)
    for level in gather.flow.level.chain()[place.level.depth + 1 :]:
        opener = level.opener
        assert opener is not None
        if opener.kind is Kind.MERGE:
            continue
        for top in interest.nodes_under(place, opener.level):
            scope = top.scopes.get(level.slot) if top.scopes else None
            if scope is not None and _is_open(scope):
                return scope
    for below in interest.nodes_under(place, gather.flow.level):
        if found := _open_behind(execution, gather.flow.origin, below):
            return found
    return None


def _open_in_part(
    execution: Execution, gather: Gather, place: Node, feed: Feed
) -> Scope | Invocation | None:
    """Of an argument that was read in part only that part counts, and what stands before it."""
    if not feed.given:
        return None
    nodes = [node for node, _ in feed.given]
    if feed.queue is None:
        last = nodes[-1].path
        everything = interest.nodes_under(place, gather.flow.level)
        nodes = [node for node in everything if node.path <= last]
    for node in nodes:
        if found := _open_above(node) or _open_behind(execution, gather.flow.origin, node):
            return found
    return None
