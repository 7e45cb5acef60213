"""When is everything under an item known?

A *node* is one item's place in the tree of ancestry: for each flow of its level it is pending, a
value, absent or failed. A *scope* is the children that one invocation gave. Its producer closes it
by saying how many there were; each child's flows then settle. No clock is asked and no item means
"the end".

A node is *spent* when everything that must happen at it has happened: each stage of its level has
settled there, each scope it opened is spent, and each walk that leads through it has passed. A
spent node leaves its scope, and what it held is free.

Always true:
    S1  a scope completes once per attempt of its producer, when it is closed and settled
    S2  an empty scope completes at the moment it closes
    S3  what a dead attempt said is never counted: its nodes are `dead`
    S4  `node.open` is the number of obligations left; 0 means spent
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .path import Path

if TYPE_CHECKING:
    from .attempt import Invocation
    from .feed import Feed
    from .graph import Gather, Level


class Pending:
    """The type of `PENDING`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "PENDING"


class Absent:
    """The type of `ABSENT`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"


PENDING: Final = Pending()
ABSENT: Final = Absent()


class Failed:
    """A flow's state at a path where its stage failed for good. `error` is what to raise."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"Failed({self.error!r})"


class Node:
    """One item's place. `key` is its position in the parent's scope (a tuple below a merge).

    There are few invocations, scopes and feeds at a node, and often one: `invocations`, `scopes`
    and `feeds` are the first of each, whose `next` leads on to the others in the order in which
    they came. Several nodes of each request are alive at any time, and dicts of their own would be
    most of what they take.
    """

    __slots__ = (
        "bytes",
        "dead",
        "feeds",
        "invocations",
        "item_bytes",
        "key",
        "level",
        "merged",
        "open",
        "parent",
        "scopes",
        "source",
        "vals",
        "waiters",
    )

    def __init__(self, parent: Node | None, key: int | Path, level: Level) -> None:
        self.parent = parent
        self.key = key
        self.level = level
        self.vals: list[Any] = level.first_slots.copy()
        self.open = level.obligations
        self.dead = False
        self.bytes = 0  # all that is held until it is spent; of these its scope counts `item_bytes`
        self.item_bytes = 0
        self.invocations: Invocation | None = None
        self.scopes: Scope | None = None
        self.feeds: Feed | None = None
        self.waiters: Any = None  # a feed, a use and its place, or a list of several of them
        self.merged: dict[tuple[int, int], Node] | None = None
        self.source: Node | None = None  # below a merge: the node that this one stands for

    @property
    def path(self) -> Path:
        """The keys from the root down to here. There are as many as the pipeline has levels."""
        if self.parent is None:
            return ()
        key = self.key
        return self.parent.path + (key if isinstance(key, tuple) else (key,))

    def up(self, levels: int) -> Node:
        """The ancestor this many levels up."""
        node: Node = self
        while levels:
            assert node.parent is not None
            node = node.parent
            levels -= 1
        return node

    def wait(self, waiter: Any) -> None:
        """Be told when a flow of this node settles."""
        waiters = self.waiters
        if waiters is None:
            self.waiters = waiter
        elif type(waiters) is list:
            waiters.append(waiter)
        else:
            self.waiters = [waiters, waiter]

    def scope(self, level: Level) -> Scope:
        """The scope that holds this node's children on `level`; made when first asked for."""
        last, scope = None, self.scopes
        while scope is not None:
            if scope.level is level:
                return scope
            last, scope = scope, scope.next
        scope = Scope(self, level)
        if last is None:
            self.scopes = scope
        else:
            last.next = scope
        return scope

    def opened(self, level: Level) -> Scope | None:
        """The same, if it has been asked for."""
        scope = self.scopes
        while scope is not None and scope.level is not level:
            scope = scope.next
        return scope

    def feed(self, source: Gather) -> Feed | None:
        """The feed of a gathered argument of a use at this node, if it has been asked for."""
        feed = self.feeds
        while feed is not None and feed.source is not source:
            feed = feed.next
        return feed

    def __repr__(self) -> str:
        return f"<node {self.path} level {self.level.index}>"


class Scope:
    """The children of one node on one level, in the order in which their producer gave them.

    `children[i]` is None once child i is spent. `live` counts the others. `fresh` is how many
    children the running attempt has given or confirmed; beyond it lie those of an earlier attempt.
    """

    __slots__ = (
        "bytes",
        "children",
        "closed",
        "failed",
        "fresh",
        "level",
        "limit",
        "live",
        "next",
        "node",
        "paused",
        "producer",
        "spent",
        "waiters",
    )

    def __init__(self, node: Node, level: Level) -> None:
        self.node = node
        self.level = level
        self.children: list[Node | None] = []
        self.closed = False
        self.failed: Failed | None = None
        self.live = 0
        self.fresh = 0
        self.bytes = 0
        self.limit = 0
        self.spent = False
        self.paused = False
        self.producer: Invocation | None = None
        self.waiters: list[Feed] | None = None  # those that stand at its end
        self.next: Scope | None = None  # of this node

    def wait(self, feed: Feed) -> None:
        """Have a feed move on when there is another child, or an end."""
        if self.waiters is None:
            self.waiters = [feed]
        else:
            self.waiters.append(feed)
