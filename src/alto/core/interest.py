"""Who still wants what, and what stops when nobody does.

An item of a flow is wanted while an output, a stage that may still take it, or a feed that still
reads it wants it; a stage is wanted while its output is. Nothing of this is stored: while no reader
has returned early everything is wanted, and after that the question is answered by looking at the
graph and at what has settled. Losing interest in a flow below a node looks at the attempts there
that lead to the flow, the ones nearest to the loss first, and stops those that nobody wants.

Work stopped like this is `cancelled`, not absent: if a revision makes a reader start over, it is
wanted again and runs again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import commit, lifecycle, pressure, revision, settling
from .attempt import ACTIVE, Invocation, State, at, invocations_at, is_list
from .graph import Flow, Gather, Kind, Level, Mode, Use
from .scope import ABSENT, PENDING, Node

if TYPE_CHECKING:
    from .execution import Execution


def nodes_under(node: Node, level: Level) -> Iterator[Node]:
    """Every living node on `level` at or below `node`; none if the level lies elsewhere."""
    levels: list[Level] = []
    place: Level | None = level
    while place is not None and place is not node.level:
        levels.append(place)
        place = place.parent
    if place is None:
        return
    stack: list[tuple[Node, int]] = [(node, len(levels))]
    while stack:
        node, left = stack.pop()
        if left == 0:
            yield node
            continue
        step = levels[left - 1]
        stack.extend((child, left - 1) for child in reversed(_children(node, step)))


def _children(node: Node, level: Level) -> list[Node]:
    opener = level.opener
    assert opener is not None
    if opener.kind is not Kind.MERGE:
        scope = node.opened(level)
        if scope is None:
            return []
        return [child for child in scope.children if child is not None and not child.dead]
    found = []
    for position, (_, flow) in enumerate(opener.items):
        for source in nodes_under(node, flow.level):
            merged = source.merged.get((opener.index, position)) if source.merged else None
            if merged is not None and not merged.dead:
                found.append(merged)
    return found


def active(execution: Execution) -> list[Invocation]:
    """Every attempt of the request that is not over."""
    found: list[Invocation] = []
    for level in execution.graph.levels:
        if not level.uses:
            continue
        for node in nodes_under(execution.root, level):
            if node.invocations is not None:
                found.extend(i for i in invocations_at(node) if i.state in ACTIVE)
    return found


def settled(execution: Execution, use: Use, node: Node) -> bool:
    """Whether this use needs nothing more at this node."""
    if use.kind is Kind.EITHER:  # once its choice is made, even if that is not told yet
        for _, flow in use.items:
            value = node.vals[flow.slot]
            if value is not ABSENT:
                return value is not PENDING
        return True
    if revision.is_undecided(execution, use, node):
        return False
    if use.kind is not Kind.STAGE:
        return use.kind is not Kind.MERGE and node.vals[use.out.slot] is not PENDING
    invocation = at(node, use)
    return invocation is not None and invocation.state not in ACTIVE


def wanted(execution: Execution, flow: Flow, node: Node, again: bool = False) -> bool:
    """Whether anybody may still take an item of `flow` at or below `node`. With `again` the item
    is made anew: then whoever took it before, and is over, takes it once more."""
    if flow.outputs:
        return True
    for use in flow.item_of:
        if node.level.is_under(use.level):
            place = node.up(node.level.depth - use.level.depth)
            if _unconcerned(use, place) if again else settled(execution, use, place):
                continue
            anew = again or _runs_again(execution, use, place)
        else:
            anew = again
        if wanted(execution, use.out, _clip(node, use.out.level), anew):
            return True
    for gather in flow.gathered_by:
        if _gather_wanted(execution, gather, node, again):
            return True
    return any(
        wanted(execution, use.out, _clip(node, use.out.level), again) for use, _ in flow.merged_by
    )


def _gather_wanted(execution: Execution, gather: Gather, node: Node, again: bool) -> bool:
    use = gather.use
    assert use is not None
    if not node.level.is_under(use.level):
        return wanted(execution, use.out, _clip(node, use.out.level), again)
    place = node.up(node.level.depth - use.level.depth)
    feed = place.feed(gather)
    if again:
        if _unconcerned(use, place) or (feed is not None and feed.lost and not feed.given):
            return False
    elif settled(execution, use, place) or (feed is not None and (feed.lost or feed.ended)):
        return False
    return wanted(execution, use.out, place, again or _runs_again(execution, use, place))


def _runs_again(execution: Execution, use: Use, node: Node) -> bool:
    """Whether what this use gave here before is made anew."""
    invocation = at(node, use)
    if invocation is not None and invocation.rerun:
        return True
    return revision.is_undecided(execution, use, node)


def _unconcerned(use: Use, node: Node) -> bool:
    """Whether this use never took its items here, and will not."""
    invocation = at(node, use)
    return invocation is not None and invocation.state is State.CANCELLED


def _clip(node: Node, level: Level) -> Node:
    """`node`, or its nearest ancestor that lies above or at `level`."""
    while not level.is_under(node.level):
        assert node.parent is not None
        node = node.parent
    return node


def _upstream(execution: Execution, flow: Flow) -> list[Use]:
    origin = flow.origin
    if origin is None:
        return []
    indices = sorted(origin.upstream | {origin.index})
    return [execution.graph.uses[index] for index in indices]


def places(execution: Execution, use: Use, node: Node) -> list[Node]:
    """Where `use` may run for the sake of what lies below `node`."""
    place = _clip(node, use.level)
    return list(nodes_under(place, use.level))


def lost(execution: Execution, flow: Flow, node: Node) -> None:
    """A reader of `flow` below `node` has gone: stop what nobody wants any more."""
    execution.losses = True
    for use in reversed(_upstream(execution, flow)):
        if use.kind is not Kind.STAGE:
            continue
        for place in places(execution, use, node):
            invocation = at(place, use)
            if invocation is None or invocation.state not in ACTIVE:
                continue
            if not wanted(execution, use.out, place, again=invocation.rerun):
                cancel(execution, invocation)
    for place, uses in list((execution.undecided or {}).items()):
        for use in list(uses):
            if not wanted(execution, use.out, place, again=True):
                revision.decided(execution, use, place)


def lost_items(execution: Execution, use: Use, node: Node) -> None:
    """A use that will not run at `node` needs none of its items there."""
    for _, flow in use.items:
        if node.level.is_under(flow.level):
            place = node.up(node.level.depth - flow.level.depth)
            if place.vals[flow.slot] is PENDING:
                lost(execution, flow, place)


def cancel(execution: Execution, invocation: Invocation) -> None:
    """Stop an attempt that nobody wants; what it read interests it no more."""
    lifecycle.stop(execution, invocation, State.CANCELLED)
    lifecycle.end_rerun(execution, invocation)
    for feed in invocation.feeds:
        if not feed.ended and not feed.lost:
            feed.lost = True
            feed.skip()
    commit.cancelled(execution, invocation)
    pressure.obligation(execution, invocation.node)


def revive(execution: Execution, flow: Flow, node: Node) -> None:
    """A reader of `flow` below `node` starts over: what was cancelled and is wanted runs again."""
    for use in _upstream(execution, flow):
        if use.kind is not Kind.STAGE:
            continue
        for place in places(execution, use, node):
            invocation = at(place, use)
            if invocation is None or invocation.state is not State.CANCELLED:
                continue
            if not wanted(execution, use.out, place):
                continue
            if invocation.attempt == 0:
                settling.evaluate(execution, use, place)
            else:
                lifecycle.restart(execution, invocation, rerun=False)


def doomed(execution: Execution, level: Level, node: Node) -> bool:
    """A scope on `level` ended in failure: does an output or a `list` need all of it?"""
    if level.outputs_below:
        return True
    for walker in level.walkers:
        if isinstance(walker, Gather) and walker.mode is Mode.LIST and walker.use is not None:
            if not node.level.is_under(walker.use.level):
                continue
            place = node.up(node.level.depth - walker.use.level.depth)
            feed = place.feed(walker)
            started = feed is not None and feed.invocation is not None and not feed.lost
            if started and wanted(execution, walker.use.out, place):
                return True
    return False


def slowest_reader(execution: Execution, invocation: Invocation) -> str:
    """Who holds up the items of a fan-out, for an error message."""
    level = invocation.use.opens or invocation.use.level
    for walker in level.walkers:
        if isinstance(walker, Gather) and walker.use is not None:
            place = _clip(invocation.node, walker.use.level)
            feed = place.feed(walker)
            if feed is None or is_list(feed) or not (feed.hungry or feed.ended):
                return walker.use.name
    for use in level.uses:
        return use.name
    return "the client"
