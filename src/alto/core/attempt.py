"""One attempt of a stage at a node, and where it stands.

Always true:
    I1  an attempt is current while it stands in its node's `invocations`; any other is `dead`
    I2  only a running attempt may give anything
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from .feed import Feed
from .graph import Mode, Output, Use
from .path import Path
from .scope import Node, Scope


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

    __hash__ = object.__hash__  # an Enum hashes its name, in Python, each time


ACTIVE: Final = frozenset({State.WAITING, State.READY, State.RUNNING, State.BACKOFF, State.HELD})
WORKING: Final = frozenset({State.READY, State.RUNNING})


class Invocation:
    """One attempt of a stage at a node. `task` belongs to the driver, and so does `run`, which is
    there once the attempt runs."""

    __slots__ = (
        "attempt",
        "due",
        "failures",
        "feeds",
        "held",
        "held_bytes",
        "next",
        "node",
        "paused",
        "rerun",
        "run",
        "scope",
        "stalled",
        "state",
        "task",
        "use",
    )

    def __init__(
        self, use: Use, node: Node, attempt: int, rerun: bool = False, failures: int = 0
    ) -> None:
        self.use = use
        self.node = node
        self.attempt = attempt
        self.failures = failures  # of this place's attempts, those that raised
        self.state = State.WAITING
        self.feeds: tuple[Feed, ...] = ()
        self.scope: Scope | None = None
        self.held: list[Any] | None = None  # given and kept back, if it is to be committed
        self.held_bytes = 0
        self.paused = False
        self.rerun = rerun
        self.due: float | None = None
        self.stalled: float | None = None
        self.task: Any = None
        self.run: Any
        self.next: Invocation | None = None  # of this node

    @property
    def path(self) -> Path:
        return self.node.path

    def __repr__(self) -> str:
        return f"<{self.use.name} at {self.path} attempt {self.attempt} {self.state.value}>"


def at(node: Node, use: Use) -> Invocation | None:
    """The attempt of a stage that stands at a node."""
    invocation = node.invocations
    while invocation is not None and invocation.use is not use:
        invocation = invocation.next
    return invocation


def put_at(node: Node, use: Use, invocation: Invocation) -> None:
    """Let an attempt stand at its node, in the place of the one before it if there is one."""
    old = node.invocations
    if old is None:
        node.invocations = invocation
        return
    last: Invocation | None = None
    while old is not None and old.use is not use:
        last, old = old, old.next
    if old is not None:
        invocation.next = old.next
        old.next = None
    if last is None:
        node.invocations = invocation
    else:
        last.next = invocation


def take_from(node: Node, invocation: Invocation) -> None:
    """Let no attempt stand where this one does."""
    last, other = None, node.invocations
    while other is not invocation:
        assert other is not None
        last, other = other, other.next
    if last is None:
        node.invocations = invocation.next
    else:
        last.next = invocation.next
    invocation.next = None


def invocations_at(node: Node) -> list[Invocation]:
    """The attempts that stand at a node, in the order in which their places were first taken."""
    found: list[Invocation] = []
    invocation = node.invocations
    while invocation is not None:
        found.append(invocation)
        invocation = invocation.next
    return found


def is_list(feed: Feed) -> bool:
    source = feed.source
    return isinstance(source, Output) or source.mode is Mode.LIST
