"""A walk over the tree in path order, and what is read from it.

A `Cursor` walks from a node down to every item of one flow below it, depth first. It is the whole
gather buffer: what has been produced waits in the tree, and "the head that is waited for" is where
the cursor stands. Reading n items costs O(n) whatever the order in which they were finished.

A `Feed` is one reader: a gathered argument of an invocation, or an output of the pipeline. It owns
a cursor and knows what to do when the cursor can move: wake a session, fill a list, pass items on,
or, when its reader has lost interest, just let them pass so that their nodes can be freed.

`AsCompleted` reads a queue of finished nodes; its cursor only tells when everything is known.

Always true:
    F1  a feed that waits is registered with the scope or node that its cursor stands at
    F2  a node is left once by each cursor that walks through it
    F3  what a feed has given and may have to justify after a re-run is in `given`, in that order
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from .graph import Gather, Level, Mode, Output, Step
from .path import is_under
from .scope import ABSENT, PENDING, Failed, Node, Scope

if TYPE_CHECKING:
    from .attempt import Invocation
    from .execution import Execution


class Signal(Enum):
    """What a cursor or a pull answers when there is no item."""

    WAIT = "wait"
    END = "end"


WAIT: Final = Signal.WAIT
END: Final = Signal.END


class Forgotten(Exception):
    """A walk met an item that was freed because `replay_bytes` were used up."""


class Cursor:
    """One walk. `advance` tells what is at the current place; `leave` moves past it.

    It stands at `node`, so many steps down, in front of the child at `position`, or in front of
    that argument of a merge; at its end there is no node. Where it stands above that is in the
    nodes: each has its position in the parent's scope for a key.
    """

    __slots__ = ("depth", "feed", "last", "node", "position", "slot", "steps", "subs")

    def __init__(
        self, feed: Feed | None, top: Node | None, steps: tuple[Step, ...], slot: int
    ) -> None:
        self.feed = feed
        self.steps = steps
        self.slot = slot
        self.last = len(steps)
        self.depth = -1 if top is None else 0
        self.node = top
        self.position = 0
        self.subs: dict[int, Cursor] | None = None

    def advance(self) -> Node | Failed | Signal:
        """The node of the next item that has a value; WAIT (registered to be told); END; or the
        failure that stands in the way."""
        while True:
            node = self.node
            if node is None:
                return END
            depth = self.depth
            if depth == self.last:
                value = node.vals[self.slot]
                if value is PENDING:
                    assert self.feed is not None
                    node.wait(self.feed)
                    return WAIT
                if value is ABSENT:
                    self.leave()
                    continue
                return value if type(value) is Failed else node
            step = self.steps[depth]
            if step.merge is not None:
                child = self._advance_merge(node, step)
                if child is None:
                    self.leave()
                    continue
                if not isinstance(child, Node):
                    return child
            else:
                scope = node.scope(step.level)
                position = self.position
                if position >= len(scope.children):
                    if not scope.closed:
                        assert self.feed is not None
                        if scope.waiters is None or scope.waiters[-1] is not self.feed:
                            scope.wait(self.feed)
                        return WAIT
                    if scope.failed is not None:
                        return scope.failed
                    self.leave()
                    continue
                found = scope.children[position]
                if found is None:
                    raise Forgotten
                child = found
            self.node = child
            self.position = 0
            self.depth = depth + 1

    def _advance_merge(self, node: Node, step: Step) -> Node | Failed | Signal | None:
        """The next node below a merge; None when its last argument is at its end."""
        depth = self.depth
        if self.subs is None:
            self.subs = {}
        while True:
            sub = self.subs.get(depth)
            if sub is None:
                if self.position == len(step.sources):
                    return None
                flow, steps = step.sources[self.position]
                sub = self.subs[depth] = Cursor(self.feed, node, steps, flow.slot)
            found = sub.advance()
            if found is END:
                del self.subs[depth]
                self.position += 1
                continue
            if isinstance(found, Node):
                assert found.merged is not None and step.merge is not None
                return found.merged[step.merge.index, self.position]
            return found

    def leave(self) -> None:
        """Move past the current place; its node has one obligation less."""
        depth = self.depth
        if depth == 0:
            self.depth = -1
            self.node = None
            return
        node = self.node
        assert node is not None
        depth = self.depth = depth - 1
        self.node = node.parent
        key = node.key
        if isinstance(key, tuple):
            assert self.subs is not None
            self.subs[depth].leave()
            self.position = key[0]
        else:
            self.position = key + 1
        node.open -= 1
        if node.open == 0:
            assert self.feed is not None
            self.feed.execution.spend(node)

    def is_past(self, scope: Scope) -> bool:
        """Whether it has left the end of `scope`, which lies on its way, behind. At another item
        below the same argument of a merge it may be said to have."""
        there = scope.node.path
        for depth, (node, position) in enumerate(self._way()):
            here = node.path
            if not is_under(there, here):
                return here > there and not is_under(here, there)
            if depth == self.last:
                return False
            step = self.steps[depth]
            if step.merge is None:
                continue
            if not scope.level.is_under(step.level):
                return self._is_past_argument(depth, position, scope)
            if depth == self.depth:
                return position >= there[len(here)]
        return self.depth < 0

    def _way(self) -> list[tuple[Node, int]]:
        """The nodes on the way to where it stands, the top first, and its position at each."""
        node = self.node
        if node is None:
            return []
        way = [(node, self.position)]
        while len(way) <= self.depth:
            key = node.key
            assert node.parent is not None
            node = node.parent
            way.append((node, key[0] if isinstance(key, tuple) else key))
        way.reverse()
        return way

    def _is_past_argument(self, depth: int, current: int, scope: Scope) -> bool:
        """The same for a scope on the way to the arguments of the merge at `depth`, where it stands
        in the argument at `current`."""
        for position, (_, way) in enumerate(self.steps[depth].sources):
            if position <= current and _leads_through(way, scope.level):
                sub = self.subs.get(depth) if self.subs else None
                if position < current or (sub is not None and sub.is_past(scope)):
                    return True
        return False


def _leads_through(steps: tuple[Step, ...], level: Level) -> bool:
    return any(
        step.level is level or any(_leads_through(way, level) for _, way in step.sources)
        for step in steps
    )


_OVER = Cursor(None, None, (), 0)
"""A walk past its end, for any feed."""


class Feed:
    """One reader of a flow, below `node`. `source` is the gathered argument or the output."""

    __slots__ = (
        "cursor",
        "ended",
        "execution",
        "given",
        "held_bytes",
        "hold",
        "hungry",
        "invocation",
        "lost",
        "next",
        "node",
        "queue",
        "queued",
        "reader",
        "slot",
        "source",
        "values",
    )

    def __init__(
        self, execution: Execution, node: Node, source: Gather | Output, hold: bool
    ) -> None:
        self.execution = execution
        self.node = node
        self.source = source
        self.slot = source.flow.slot
        self.hold = hold
        self.cursor = Cursor(self, node, source.steps, self.slot)
        self.invocation: Invocation | None = None
        self.reader: Any = None  # the driver's side of a session
        self.held_bytes = 0  # of `values`
        self.given: Sequence[tuple[Node, Any]] = [] if hold else ()
        self.values: list[Any] | None = None  # of a list, or of an output; once there are any
        completed = isinstance(source, Gather) and source.mode is Mode.COMPLETED
        self.queue: deque[Node] | None = deque() if completed else None
        self.next: Feed | None = None  # of this node
        self.queued = 0  # taken from the queue, not yet passed by the cursor
        self.hungry = False
        self.ended = False
        self.lost = False

    def let_go(self) -> None:
        """Nobody reads or walks any more: what refers back to the feed is cut."""
        self.invocation = None
        self.cursor = _OVER

    def follow(self, node: Node) -> bool:
        """The scope at whose end it waits has a new child: nothing is known at `node` yet, so it
        waits there. False: where it waits is for its walk to say."""
        source = self.source
        if source.merges:
            return False
        depth = node.level.depth - self.node.level.depth
        if depth == len(source.steps):
            node.wait(self)
        else:
            node.scope(source.steps[depth].level).wait(self)
        return True

    def reset(self) -> None:
        """Start over from the first item."""
        self.cursor = Cursor(self, self.node, self.source.steps, self.slot)
        self.values = None
        self.execution.hold(self.node, -self.held_bytes)
        self.held_bytes = 0
        self.ended = False
        self.hungry = False
        self.queued = 0

    def pull(self) -> Any:
        """The next value for a session, END, WAIT (the feed is hungry then), or a `Failed`."""
        if self.ended:
            return END
        if self.queue is not None:
            return self._pull_completed(self.queue)
        cursor = self.cursor
        found = cursor.advance()
        if isinstance(found, Node):
            value = found.vals[self.slot]
            if self.hold:
                self._note(found, value)
            cursor.leave()
            return value
        return self._no_item(found)

    def _pull_completed(self, queue: deque[Node]) -> Any:
        while queue:
            node = queue.popleft()
            value = node.vals[self.slot]
            if node.dead or value is ABSENT or value is PENDING:
                continue
            if type(value) is Failed:
                return value
            if self.hold:
                self._note(node, value)
            self.queued += 1
            if isinstance(self.cursor.advance(), Node) and self.queued:
                self.queued -= 1
                self.cursor.leave()
            return value
        found: Any
        while isinstance(found := self.cursor.advance(), Node):
            self.cursor.leave()
        self.queued = 0
        return self._no_item(found)

    def _no_item(self, found: Any) -> Any:
        if found is END:
            self.ended = True
        elif found is WAIT:
            self.hungry = True
            self.execution.starve(self)
        return found

    def _note(self, node: Node, value: Any) -> None:
        given = self.given
        assert isinstance(given, list)
        given.append((node, value))

    def forget(self) -> None:
        """What it has given need not be justified any more."""
        if self.given:
            self.given = []

    def fill(self) -> Any:
        """Take all that is there into `values`; answers WAIT, END or a `Failed`."""
        cursor, slot, size = self.cursor, self.slot, self.execution.size
        values = self.values
        taken = 0
        while isinstance(found := cursor.advance(), Node):
            value = found.vals[slot]
            if values is None:
                values = self.values = []
            values.append(value)
            taken += size(value)
            if self.hold:
                self._note(found, value)
            cursor.leave()
        if taken:
            self.held_bytes += taken
            self.execution.hold(self.node, taken)
        return self._no_item(found)

    def skip(self) -> bool:
        """Let pass what is there, for a reader that has lost interest. True at the end."""
        cursor = self.cursor
        while isinstance(found := cursor.advance(), Node):
            cursor.leave()
        if found is END:
            self.ended = True
        return found is END or type(found) is Failed
