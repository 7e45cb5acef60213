"""What happened (events) and what the core asks for (actions), as values.

A driver on the hot path calls the methods of `Execution` directly; these objects are the same
things for tests, the wire and replay: `Execution.handle(event, now)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .path import Path

if TYPE_CHECKING:
    from .execution import Invocation
    from .feed import Feed


@dataclass(slots=True)
class Given:
    """An attempt of a fan-out gave one item."""

    stage: str
    path: Path
    attempt: int
    value: Any


@dataclass(slots=True)
class Closed:
    """An attempt of a fan-out has given all its items."""

    stage: str
    path: Path
    attempt: int


@dataclass(slots=True)
class Done:
    """An attempt of a stage with one output is over."""

    stage: str
    path: Path
    attempt: int
    value: Any


@dataclass(slots=True)
class Broke:
    """An attempt raised."""

    stage: str
    path: Path
    attempt: int
    error: BaseException
    retryable: bool = True


@dataclass(slots=True)
class Tick:
    """Time has passed; `now` says how far."""


Event = Given | Closed | Done | Broke | Tick


@dataclass(slots=True)
class Start:
    """Run this invocation. The driver reads its arguments with `Execution.arguments`."""

    invocation: Invocation


@dataclass(slots=True)
class Stop:
    """Nobody waits for this attempt any more: cancel it. What it still says is not counted."""

    invocation: Invocation


@dataclass(slots=True)
class Go:
    """A producer that `give` had told to pause may go on."""

    invocation: Invocation


@dataclass(slots=True)
class Wake:
    """A session's feed that answered WAIT has something now: pull again."""

    feed: Feed


@dataclass(slots=True)
class Emit:
    """An output item for the client. `revised` replaces what was given at this path before;
    `withdrawn` takes it back (then `value` is None)."""

    output: str
    path: Path
    value: Any
    revised: bool = False
    withdrawn: bool = False


@dataclass(slots=True)
class Finish:
    """The request is over: `error` is None, or what to raise. Every attempt has been stopped."""

    error: BaseException | None


Action = Start | Stop | Go | Wake | Emit | Finish
