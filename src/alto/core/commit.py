"""When nothing can change an item any more.

An item is *committed* when its producer's attempt has closed and so has everything that it came
from: the scopes of its ancestors, and those that a gathered argument was read from, the empty ones
too. An attempt that was cancelled counts as closed: nobody lets it say anything else, unless one
of those that read it may yet run again and want more of it.

It is judged when all that follows from an event has been worked off: in the middle of that, what
has just changed and what will be run again for it cannot be told apart. Committed is for ever, so
what was once found to be is not looked at again; what is not yet waits for the scope or the attempt
that stands in the way, and is looked at again when that is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import interest, pressure, revision
from .attempt import Invocation, State, at
from .graph import Flow, Gather, Kind, Step, Use, sources_of
from .path import Path
from .scope import ABSENT, Node, Scope

if TYPE_CHECKING:
    from .execution import Execution

Release = Callable[[], None]
Waiter = tuple[Flow, Node, Release, bool, int]

Places = dict[tuple[Use, Node], None]
"""Where what a use gives is committed; as a set that tells the order in which it grew."""

Obstacle = Scope | Invocation | tuple[Use, Node]
"""What may be in the way: an open scope, an attempt that is made again, an undecided place."""


class Commits:
    """What one request knows of what is committed, and what waits to be; made for the first."""

    __slots__ = ("awaiting", "places", "unjudged")

    def __init__(self) -> None:
        self.awaiting: dict[Obstacle, list[Waiter]] = {}
        self.unjudged: deque[Waiter] = deque()
        self.places: tuple[Places, Places] = ({}, {})


def when_committed(
    execution: Execution, flow: Flow, node: Node, release: Release, last: bool = False
) -> None:
    """Call `release` when the value of `flow` at `node` can change no more. It is for the client
    (`last`): then at the end of the request at the latest, and its bytes are held until then; or it
    is what the stage holds back, which holds them itself."""
    if execution.commits is None:
        execution.commits = Commits()
    execution.commits.unjudged.append((flow, node, release, last, 0))


def judge(execution: Execution, commits: Commits) -> bool:
    """Look at the first of those that have not been looked at since something was over. False:
    there is none."""
    if not commits.unjudged:
        return False
    flow, node, release, last, held = commits.unjudged.popleft()
    execution.bytes -= held
    if node.dead:
        return True
    look = _Look(execution, commits, last)
    in_the_way = look.above(node) or look.behind(flow.origin, node, own=not last)
    if in_the_way is None:
        release()
        return True
    value = node.vals[flow.slot]
    held = execution.size(value) if last and value is not ABSENT else 0
    commits.awaiting.setdefault(in_the_way, []).append((flow, node, release, last, held))
    execution.bytes += held
    if held and execution.bytes > execution.request_bytes:
        pressure.too_much_held(execution, flow, node)
    if execution.losses:
        look.forget()
    return True


def over(execution: Execution, what: Obstacle) -> None:
    """A scope has closed, an attempt is over, a place is decided, or none of it was ever so: what
    waited for it is looked at again."""
    commits = execution.commits
    if commits is not None and commits.awaiting:
        commits.unjudged.extend(commits.awaiting.pop(what, ()))


def cancelled(execution: Execution, invocation: Invocation) -> None:
    """Nobody wants what this attempt would say: what waited for it waits no more."""
    if execution.commits is None:
        return
    over(execution, invocation)
    node, opens = invocation.node, invocation.use.opens
    scope = node.opened(opens) if opens is not None else None
    if scope is not None:
        over(execution, scope)


def flush(execution: Execution) -> None:
    """The request is over: what the client still waits for is as it is."""
    if execution.commits is None:
        return
    awaiting, execution.commits.awaiting = execution.commits.awaiting, {}
    for waiters in awaiting.values():
        for _, node, release, last, _ in waiters:
            if last and not node.dead:
                release()


class _Look:
    """One look at what is in the way.

    A look for the client (`strict`) also asks whether a cancelled producer may be revived. The
    question goes round in circles, as one reader asks of the other: so a place is supposed to be
    committed while it is looked at. For what a stage holds back it is not asked, since those that
    it would wait for may wait for the stage.
    """

    def __init__(self, execution: Execution, commits: Commits, strict: bool) -> None:
        self.execution = execution
        self.strict = strict
        self.known = commits.places[strict]
        self.before = len(self.known)

    def forget(self) -> None:
        """What was found may rest on a place that was only supposed to be committed."""
        while len(self.known) > self.before:
            self.known.popitem()

    def above(self, node: Node) -> Obstacle | None:
        """What is in the way at the nearest scope of an ancestor whose producer is still at it."""
        place = node
        while place.parent is not None:
            if place.source is not None:
                found = self.above(place.source)
            else:
                scope = place.parent.opened(place.level)  # None: it is spent, so it has closed
                found = self.at_scope(scope) if scope is not None else None
            if found is not None:
                return found
            place = place.parent
        return None

    def at_scope(self, scope: Scope) -> Obstacle | None:
        """The scope, if its producer is still at it; or what may revive a cancelled one."""
        if scope.closed:
            return None
        opener = scope.level.opener
        invocation = at(scope.node, opener) if opener is not None else None
        if opener is None or invocation is None or invocation.state is not State.CANCELLED:
            return scope
        if not (self.strict and opener.rerun):
            return None
        for use in self.execution.graph.uses:
            if _may_want(use, opener):
                for place in interest.places(self.execution, use, scope.node):
                    if found := self.behind(use, place):
                        return found
        return None

    def behind(self, use: Use | None, node: Node, own: bool = False) -> Obstacle | None:
        """What `use` took at `node` came from there, and it is not over. `own`: it is asked for
        what `use` itself holds back there, which does not wait for itself."""
        if use is None or not use.rerun:
            return None
        if use.kind is Kind.MERGE:
            source = node.source
            assert source is not None and isinstance(node.key, tuple)
            return self.behind(use.items[node.key[0]][1].origin, source)
        place = node.up(node.level.depth - use.level.depth)
        if (use, place) in self.known:
            return None
        self.known[use, place] = None  # until something is found to be in the way
        found = self.at_place(use, place, own)
        if found is not None:
            self.known.pop((use, place), None)
        return found

    def at_place(self, use: Use, place: Node, own: bool) -> Obstacle | None:
        if revision.is_undecided(self.execution, use, place):
            return use, place
        invocation = at(place, use) if use.kind is Kind.STAGE else None
        if invocation is not None and invocation.rerun and not own:
            return invocation
        for _, flow in use.items:
            above = place.up(place.level.depth - flow.level.depth)
            if found := self.behind(flow.origin, above):
                return found
        for gather in use.gathers:
            if found := self.gathered(gather, place):
                return found
        return None

    def gathered(self, gather: Gather, place: Node) -> Obstacle | None:
        """The same for everything that a gathered argument has brought or may still bring. If it
        was read in part only that part counts, and what stands before it."""
        feed = place.feed(gather)
        if feed is None or not feed.lost:
            return self.on_walk(gather.flow, gather.steps, place, None)
        if not feed.given:
            return None
        if feed.queue is None:
            last = feed.given[-1][0].path
            return self.on_walk(gather.flow, gather.steps, place, last)
        for node, _ in feed.given:
            if found := self.above(node) or self.behind(gather.flow.origin, node):
                return found
        return None

    def on_walk(
        self, flow: Flow, steps: tuple[Step, ...], top: Node, last: Path | None
    ) -> Obstacle | None:
        """Along the walk from `top` to the items of `flow`, as far as the item at `last` or to its
        end: the scopes that it leads through, who opened them, and the items."""
        if not steps:
            return self.behind(flow.origin, top)
        step, further = steps[0], steps[1:]
        if step.merge is not None:
            return self.on_merge(flow, steps, top, last)
        scope = top.opened(step.level)
        if scope is None:
            return None
        if found := self.at_scope(scope) or self.behind(step.level.opener, top):
            return found
        for child in scope.children:
            if child is None or child.dead:
                continue
            if last is not None and child.path > last:
                break
            if found := self.on_walk(flow, further, child, last):
                return found
        return None

    def on_merge(
        self, flow: Flow, steps: tuple[Step, ...], top: Node, last: Path | None
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
            if found := self.on_walk(argument, way, top, end):
                return found
            for source in interest.nodes_under(top, argument.level):
                merged = source.merged.get((step.merge.index, position)) if source.merged else None
                if merged is None or merged.dead or (last is not None and merged.path > last):
                    continue
                if found := self.on_walk(flow, further, merged, last):
                    return found
        return None


def _may_want(use: Use, producer: Use) -> bool:
    """Whether `use`, run again, may have `producer` revived: it takes something else as well."""
    others = len(use.items) + len(use.gathers) > 1
    if use.kind is Kind.MERGE or not others or producer.index not in use.upstream:
        return False
    origins = (flow.origin for flow in sources_of(use))
    return any(
        origin is producer or (origin is not None and producer.index in origin.upstream)
        for origin in origins
    )
