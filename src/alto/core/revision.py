"""When an attempt says something else than the one before it.

Items are passed on while their producer still runs, so a later attempt may contradict them. A new
attempt is compared with what the place had given: equal items (by index, as they would be encoded)
keep everything that was derived from them. From the first difference on the old nodes die, with all
work below them, and new ones take their place. A value that changes at a node is put to every stage
that had taken it there, which then runs again and is compared in its turn.

A reader that had read something that is no longer so starts over. Whether it had is found out by
walking again: the items that it was given must still come in the same order from the same nodes.

A client that had been given an item gets the new one at the same path as `revised`, or hears that
it is `withdrawn`; an equal one is not given twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from . import commit, feeding, interest, lifecycle, pressure, settling
from .attempt import ACTIVE, Invocation, State, at, invocations_at, take_from
from .feed import END, Cursor, Feed, Forgotten
from .graph import Flow, Gather, Kind, Mode, Output, Use
from .path import Path, is_under
from .scope import ABSENT, PENDING, Failed, Node, Scope

if TYPE_CHECKING:
    from .execution import Execution

_NEVER: Final = object()


class Told:
    """What the client of a stream has been told that may yet change; made for the first of it."""

    __slots__ = ("items", "stale")

    def __init__(self) -> None:
        self.items: dict[tuple[str, Path], Any] = {}
        self.stale: set[tuple[str, Path]] = set()  # of `items`, those whose nodes are dead


def put(execution: Execution, node: Node, flow: Flow, value: Any) -> None:
    """A flow's value at a node is known, perhaps not for the first time."""
    old = node.vals[flow.slot]
    if old is PENDING:
        execution.settle(node, flow, value)
    elif not _equal(execution, old, value):
        revise(execution, node, flow, value)


def _equal(execution: Execution, old: Any, new: Any) -> bool:
    if old is new:
        return True
    if old is ABSENT or new is ABSENT or type(old) is Failed or type(new) is Failed:
        return False
    return execution.same(old, new)


def confirm(execution: Execution, scope: Scope, position: int, value: Any) -> bool:
    """Did an earlier attempt give the same item here? If not, it and all after it die."""
    child = scope.children[position]
    if child is None:
        raise Forgotten
    assert scope.level.opener is not None
    if _equal(execution, child.vals[scope.level.opener.out.slot], value):
        scope.fresh = position + 1
        return True
    truncate(execution, scope, position)
    return False


def truncate(execution: Execution, scope: Scope, position: int) -> None:
    """The children from `position` on were never so."""
    for child in scope.children[position:]:
        if child is None:
            continue
        if child.open > 0:
            scope.live -= 1
            scope.bytes -= child.item_bytes
        kill(execution, child)
    del scope.children[position:]
    for walker in scope.level.walkers:
        feed = _feed_of(execution, walker, scope.node)
        if feed is not None:
            review(execution, feed)


def changed(execution: Execution, scope: Scope) -> None:
    """A later attempt gave a further item: readers that had gone past the end look again."""
    for walker in scope.level.walkers:
        feed = _feed_of(execution, walker, scope.node)
        if feed is not None and _is_past(feed, scope):
            review(execution, feed)


def _is_past(feed: Feed, scope: Scope) -> bool:
    return feed.ended or (feed.queue is None and feed.cursor.is_past(scope))


def _feed_of(execution: Execution, walker: Gather | Output, node: Node) -> Feed | None:
    """The feed of `walker` that walks through `node`, if there is one already."""
    if isinstance(walker, Output):
        for feed in execution.outputs:
            if feed.source is walker:
                return feed
        return None
    use = walker.use
    assert use is not None
    if not node.level.is_under(use.level):
        return None
    place = node.up(node.level.depth - use.level.depth)
    return place.feed(walker)


def review(execution: Execution, feed: Feed) -> None:
    """What this feed walks over has changed: go on from there, or start its reader over."""
    if feed.node.dead:
        return
    source = feed.source
    if isinstance(source, Output):
        if feed.ended:
            execution.open_outputs += 1
        feed.reset()
        feed.forget()
        execution._moves.append(feed)
        return
    invocation = feed.invocation
    if invocation is None:
        feed.reset()
        return
    if source.mode is Mode.LIST and invocation.state is State.WAITING:
        feed.reset()
        feed.forget()
        execution._moves.append(feed)
        return
    if _still_so(feed):
        execution._moves.append(feed)
        return
    if source.mode is Mode.LIST:
        feed.reset()
        feed.forget()
    again(execution, invocation)


def _still_so(feed: Feed) -> bool:
    """Would a new walk give the same items again? If so the feed goes on from there."""
    cursor = Cursor(feed, feed.node, feed.source.steps, feed.slot)
    if feed.queue is not None:
        if any(node.dead or node.vals[feed.slot] is not value for node, value in feed.given):
            return False
        if feed.ended:
            count = 0
            while isinstance(found := cursor.advance(), Node):
                cursor.leave()
                count += 1
            if found is not END or count != len(feed.given):
                return False
        feed.cursor = cursor
        feed.queued = len(feed.given)
        return True
    for node, value in feed.given:
        if cursor.advance() is not node or node.vals[feed.slot] is not value:
            return False
        cursor.leave()
    if feed.ended and not feed.lost and cursor.advance() is not END:
        return False
    feed.cursor = cursor
    if feed.hungry:
        cursor.advance()  # registers it where it stands now
    return True


def again(execution: Execution, invocation: Invocation) -> None:
    """An attempt had read what is no longer so: the next one starts from the beginning."""
    state = invocation.state
    if state is State.DEAD or invocation.attempt == 0:
        return
    if state is State.CANCELLED:
        for gather in invocation.use.gathers:
            rewind(execution, feeding.feed_at(execution, gather, invocation.node))
        return
    was_over = state in (State.DONE, State.FAILED, State.ABSENT)
    if not was_over:
        lifecycle.stop(execution, invocation, State.DEAD)
    rerun = invocation.rerun
    if was_over and not rerun:
        execution.reruns += 1
        rerun = True
    lifecycle.restart(execution, invocation, rerun)


def rewind(execution: Execution, feed: Feed) -> bool:
    """Let a session read from the start, in the order in which it was given its items before. A
    `list` is still there, unless it was given up half-way. Whether interest had been lost."""
    source = feed.source
    assert isinstance(source, Gather)
    if source.mode is Mode.LIST and not feed.lost:
        return False
    given = feed.given
    feed.forget()
    if feed.queue is not None:
        feed.queue.extendleft([node for node, _ in given[::-1] if not node.dead])
    feed.reset()
    lost, feed.lost = feed.lost, False
    return lost


def revise(execution: Execution, node: Node, flow: Flow, value: Any) -> None:
    """A settled flow changes at a node: everybody who had taken it takes it again."""
    node.vals[flow.slot] = value
    if node.waiters is not None:
        settling.wake_waiters(execution, node)
    for use, position in flow.merged_by:
        _remerge(execution, node, use, position, value)
    for use in flow.item_of:
        for place in list(interest.nodes_under(node, use.level)):
            reevaluate(execution, use, place)
    for gather in flow.completed_by:
        feed = _feed_of(execution, gather, node)
        if feed is not None and feed.queue is not None and value is not ABSENT:
            known = node in feed.queue or any(node is given for given, _ in feed.given)
            if not known:
                feed.queue.append(node)
    for walker in flow.level.walkers:
        if walker.flow is flow:
            feed = _feed_of(execution, walker, node)
            if feed is not None:
                review(execution, feed)
    for gather in flow.gathered_by:  # of the very node: a walk without steps
        if not gather.steps:
            feed = _feed_of(execution, gather, node)
            if feed is not None:
                review(execution, feed)
    for output in flow.outputs:
        if not output.steps:
            feed = _feed_of(execution, output, node)
            if feed is not None:
                review(execution, feed)
        execution._output(output, node, value)


def _remerge(execution: Execution, node: Node, use: Use, position: int, value: Any) -> None:
    merged = node.merged.get((use.index, position)) if node.merged else None
    present = value is not ABSENT and type(value) is not Failed
    if merged is not None and not merged.dead and present:
        revise(execution, merged, use.out, value)
        return
    if merged is not None:
        waited_for = merged.open > 0
        kill(execution, merged)
        assert node.merged is not None
        del node.merged[use.index, position]
        if waited_for:
            pressure.obligation(execution, node)
    if present:
        execution.settle(merged_node(node, use, position), use.out, value)
    assert use.opens is not None
    for walker in use.opens.walkers:
        feed = _feed_of(execution, walker, node)
        if feed is not None:
            review(execution, feed)


def reevaluate(execution: Execution, use: Use, node: Node) -> None:
    """One of a use's items changed, or is known at last, at a node where it may have run."""
    decided(execution, use, node)
    if use.kind is Kind.STAGE:
        _reevaluate_stage(execution, use, node)
        return
    if node.vals[use.out.slot] is PENDING:
        settling.evaluate(execution, use, node)
        return
    value: Any = ABSENT
    if use.kind is Kind.EITHER:
        for _, flow in use.items:
            value = node.vals[flow.slot]
            if value is PENDING:
                leave_undecided(execution, use, node)
                return
            if value is not ABSENT:
                break
    else:
        values = [(node.up(up) if up else node).vals[slot] for up, slot in use.lookups]
        if any(item is PENDING for item in values):
            leave_undecided(execution, use, node)
            return
        failed = next((item for item in values if type(item) is Failed), None)
        if failed is not None:
            value = failed
        elif not any(item is ABSENT for item in values):
            value = settling.instant(execution, use, node)
    put(execution, node, use.out, value)


def leave_undecided(execution: Execution, use: Use, node: Node) -> None:
    """What stood here stands no more by what is known, and what comes instead hangs on an item that
    is not known yet. Until it is, what stood here stays, and the request does not end."""
    if execution.undecided is None:
        execution.undecided = {}
    execution.undecided.setdefault(node, []).append(use)
    execution.reruns += 1
    for (_, flow), (up, slot) in zip(use.items, use.lookups, strict=True):
        place = node.up(up)
        if place.vals[slot] is PENDING:
            place.wait((use, node))
            interest.revive(execution, flow, place)
            return


def is_undecided(execution: Execution, use: Use, node: Node) -> bool:
    undecided = execution.undecided
    return undecided is not None and use in undecided.get(node, ())


def decided(execution: Execution, use: Use, node: Node) -> None:
    """What stands at an undecided place is looked at anew, or nobody wants it any more."""
    if not is_undecided(execution, use, node):
        return
    undecided = execution.undecided
    assert undecided is not None
    uses = undecided[node]
    uses.remove(use)
    if not uses:
        del undecided[node]
    execution.reruns -= 1
    commit.over(execution, (use, node))


def _reevaluate_stage(execution: Execution, use: Use, node: Node) -> None:
    invocation = at(node, use)
    if invocation is None or invocation.state is State.DEAD:
        return
    values = [(node.up(up) if up else node).vals[slot] for up, slot in use.lookups]
    if invocation.state is State.CANCELLED and not interest.wanted(execution, use.out, node):
        return
    over = invocation.state in (State.DONE, State.FAILED, State.ABSENT)
    if not over:
        lifecycle.stop(execution, invocation, State.DEAD)
    if any(value is PENDING for value in values) and not any(value is ABSENT for value in values):
        if over:
            leave_undecided(execution, use, node)
        else:
            take_from(node, invocation)
            settling.evaluate(execution, use, node)
        return
    failed = next((value for value in values if type(value) is Failed), None)
    if failed is not None:
        again = over or invocation.rerun
        lifecycle.end_rerun(execution, invocation)
        settling.reached(execution, use, node, failed, use.items[0][1], again)
    elif any(value is ABSENT for value in values):
        lifecycle.end_rerun(execution, invocation)
        settling.absent(execution, use, node)
    else:
        rerun = invocation.rerun
        if over and not rerun:
            execution.reruns += 1
            rerun = True
        lifecycle.restart(execution, invocation, rerun)


def merged_node(node: Node, use: Use, position: int) -> Node:
    """The node below a merge that stands for `node`, an item of its argument `position`."""
    assert use.opens is not None
    above = node.up(node.level.depth - use.level.depth)
    rest = node.path[len(above.path) :]
    merged = Node(above, (position, *rest), use.opens)
    merged.source = node
    if merged.open:
        node.open += 1
    if node.merged is None:
        node.merged = {}
    node.merged[use.index, position] = merged
    return merged


def kill(execution: Execution, top: Node) -> None:
    """A node was never so: neither was anything below it."""
    stack = [top]
    while stack:
        node = stack.pop()
        if node.dead:
            continue
        node.dead = True
        if execution.undecided is not None:
            for use in list(execution.undecided.get(node, ())):
                decided(execution, use, node)
        if node.open > 0:
            execution.bytes -= node.bytes
        if execution.told is not None:
            _outdate(execution.told, node)
        for invocation in invocations_at(node):
            if invocation.state in ACTIVE:
                lifecycle.stop(execution, invocation, State.DEAD)
                lifecycle.end_rerun(execution, invocation)
        scope = node.scopes
        while scope is not None:
            commit.over(execution, scope)
            stack.extend(child for child in scope.children if child is not None)
            scope = scope.next
        stack.extend((node.merged or {}).values())


def _outdate(told: Told, node: Node) -> None:
    """What the client was told of a node that was never so is not so any more."""
    for flow in node.level.flows:
        for output in flow.outputs:
            key = (output.name, node.path)
            if key in told.items:
                told.stale.add(key)


def emit(execution: Execution, output: Output, node: Node) -> None:
    """Tell the client what an output is at a node; compare with what it was told before."""
    value = node.vals[output.flow.slot]
    if node.dead or value is PENDING or type(value) is Failed:
        return
    path = node.path
    key = (output.name, path)
    if not output.flow.level.retained:
        if value is not ABSENT:
            execution.emit(output.name, path, value)
        return
    if execution.told is None:
        execution.told = Told()
    told = execution.told
    before = told.items.get(key, _NEVER)
    told.stale.discard(key)
    if value is ABSENT:
        if before is not _NEVER:
            withdraw(execution, told, key)
        return
    told.items[key] = value
    if before is _NEVER:
        execution.emit(output.name, path, value)
    elif not _equal(execution, before, value):
        execution.emit(output.name, path, value, revised=True)


def withdraw(execution: Execution, told: Told, key: tuple[str, Path]) -> None:
    """Take back an item that the client was given."""
    told.items.pop(key, None)
    told.stale.discard(key)
    execution.emit(key[0], key[1], None, withdrawn=True)


def withdraw_under(execution: Execution, told: Told, scope: Scope) -> None:
    """A scope closed: what the client was given beyond its last item is gone."""
    if not told.stale:
        return
    above = scope.node.path
    below = {
        output.name for output in execution.graph.outputs if output.flow.level.is_under(scope.level)
    }
    for key in sorted(told.stale):
        name, path = key
        if name in below and is_under(path, above) and path[len(above)] >= scope.fresh:
            withdraw(execution, told, key)


def withdraw_all(execution: Execution) -> None:
    """The request is over: what was not given again is gone."""
    told = execution.told
    if told is not None:
        for key in sorted(told.stale):
            withdraw(execution, told, key)
