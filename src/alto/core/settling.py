"""What follows when a flow is known at a node: who takes it there, and what that makes known.

Stages whose items are all present start; operators settle at once; a missing item makes the whole
use absent; a failed one fails the request if the use is still wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import StageError
from . import commit, feeding, interest, lifecycle, pressure, revision
from .attempt import Invocation, State, at, put_at
from .feed import Feed
from .graph import Flow, Gather, Kind, Use
from .path import show
from .scope import ABSENT, PENDING, Failed, Node

if TYPE_CHECKING:
    from .execution import Execution


def settled(execution: Execution, node: Node, flow: Flow, value: Any) -> None:
    if node.dead:
        return
    vals, slot = node.vals, flow.slot
    if vals[slot] is not PENDING:  # queued twice: what it came from changed before it was settled
        revision.put(execution, node, flow, value)
        return
    vals[slot] = value
    present = value is not ABSENT and type(value) is not Failed
    if flow.merged_by and present:  # first: what follows may walk through these nodes
        for use, position in flow.merged_by:
            execution.settle(revision.merged_node(node, use, position), use.out, value)
    waiters = node.waiters
    if type(waiters) is list:
        wake_waiters(execution, node)
    elif waiters is not None:  # as mostly there is one: what `wake_waiters` does then
        node.waiters = None
        _wake(execution, node, waiters)
    if flow.outputs:
        for output in flow.outputs:
            execution._output(output, node, value)
    for use in flow.primary_of:
        if present and use.solo:
            lifecycle.start(execution, use, node)
        else:
            evaluate(execution, use, node)
    if flow.completed_by and value is not ABSENT:
        for gather in flow.completed_by:
            completed(execution, gather, node)


def completed(execution: Execution, gather: Gather, node: Node) -> None:
    """An `AsCompleted` argument has one more item."""
    assert gather.use is not None
    place = node.up(node.level.depth - gather.use.level.depth)
    feed = feeding.feed_at(execution, gather, place)
    assert feed.queue is not None
    feed.queue.append(node)
    execution._moves.append(feed)


def wake_waiters(execution: Execution, node: Node) -> None:
    waiters = node.waiters
    node.waiters = None
    if type(waiters) is list:
        for waiter in waiters:
            _wake(execution, node, waiter)
    else:
        _wake(execution, node, waiters)


def _wake(execution: Execution, node: Node, waiter: Feed | tuple[Use, Node]) -> None:
    if isinstance(waiter, Feed):
        flow = waiter.source.flow
        if flow.level is node.level and node.vals[flow.slot] is PENDING:
            node.wait(waiter)  # something else than what it waits for is known
        else:
            execution._moves.append(waiter)
        return
    use, place = waiter
    if execution.undecided and revision.is_undecided(execution, use, place):
        revision.reevaluate(execution, use, place)
    elif not place.dead and not ((use.rerun or execution.losses) and _is_made(use, place)):
        evaluate(execution, use, place)


def _is_made(use: Use, node: Node) -> bool:
    """Whether an attempt stands there already: what waits may be told twice."""
    invocation = at(node, use) if use.kind is Kind.STAGE else None
    return invocation is not None and not (
        invocation.state is State.CANCELLED and invocation.attempt == 0
    )


def evaluate(execution: Execution, use: Use, node: Node) -> None:
    """Are this use's items known at this node? Then it starts, or it never will."""
    if use.kind is Kind.EITHER:
        either(execution, use, node)
        return
    for (_, flow), (up, slot) in zip(use.items, use.lookups, strict=True):
        place = node.up(up) if up else node
        value = place.vals[slot]
        if value is PENDING:
            place.wait((use, node))
            return
        if value is ABSENT:
            absent(execution, use, node)
            return
        if type(value) is Failed:
            reached(execution, use, node, value, flow)
            return
    if use.kind is Kind.INSTANT:
        if node.vals[use.out.slot] is PENDING:
            execution.settle(node, use.out, instant(execution, use, node))
    else:
        lifecycle.start(execution, use, node)


def either(execution: Execution, use: Use, node: Node) -> None:
    if node.vals[use.out.slot] is not PENDING:
        return
    for _, flow in use.items:
        value = node.vals[flow.slot]
        if value is PENDING:
            node.wait((use, node))
            return
        if value is not ABSENT:
            execution.settle(node, use.out, value)
            if type(value) is not Failed:
                unneeded(execution, use, node, flow)
            return
    execution.settle(node, use.out, ABSENT)


def unneeded(execution: Execution, use: Use, node: Node, chosen: Flow) -> None:
    """The later arguments of an `either` whose choice is made."""
    for _, flow in use.items:
        if flow is not chosen and node.vals[flow.slot] is PENDING:
            interest.lost(execution, flow, node)


def instant(execution: Execution, use: Use, node: Node) -> Any:
    """The value of an operator whose items are present; one that raises is `Failed`."""
    values = [(node.up(up) if up else node).vals[slot] for up, slot in use.lookups]
    assert use.function is not None
    try:
        return use.function(*values)
    except Exception as error:
        wrapped = StageError(
            f"pipeline {execution.graph.name}, {use.name} at {show(node.path)}: the predicate "
            f"raised {type(error).__name__}: {error}",
            stage=use.name,
            path=node.path,
        )
        wrapped.__cause__ = error
        return Failed(wrapped)


def absent(execution: Execution, use: Use, node: Node) -> None:
    """This use never runs here."""
    if use.kind is Kind.INSTANT:
        if node.vals[use.out.slot] is PENDING:
            execution.settle(node, use.out, ABSENT)
        return
    invocation = Invocation(use, node, 0)
    invocation.state = State.ABSENT
    put_at(node, use, invocation)
    for gather in use.gathers:
        feeding.lose(execution, feeding.feed_at(execution, gather, node))
    if execution.losses:
        interest.lost_items(execution, use, node)
    nothing(execution, invocation)


def nothing(execution: Execution, invocation: Invocation) -> None:
    """No output at this place: absent, or a scope that closes at once."""
    use, node = invocation.use, invocation.node
    if use.opens is None:
        revision.put(execution, node, use.out, ABSENT)
        pressure.obligation(execution, node)
    else:
        scope = node.scope(use.opens)
        scope.producer = invocation
        scope.fresh = 0
        lifecycle.close(execution, invocation, None)


def reached(
    execution: Execution, use: Use, node: Node, failed: Failed, flow: Flow, again: bool = False
) -> None:
    """An argument failed. Operators pass it on; a stage that is wanted fails the request."""
    if use.kind is Kind.INSTANT:
        if node.vals[use.out.slot] is PENDING:
            execution.settle(node, use.out, failed)
    elif not execution.losses or interest.wanted(execution, use.out, node, again):
        execution.fail(failed.error)
    else:
        invocation = Invocation(use, node, 0)
        invocation.state = State.CANCELLED
        put_at(node, use, invocation)
        pressure.obligation(execution, node)
        commit.cancelled(execution, invocation)
