"""What a pool is told and what it asks for, as values: for the driver, for tests, for replays."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import AltoError, EngineError
from .calls import Usage
from .peers import Summary
from .prefix import Prompt
from .scheduling import CallId, ReplicaId

# --- Events: what happened


@dataclass(slots=True)
class Submitted:
    """A reader asks for the answer to a call. If it was growing before, its prewarm ends here.

    `avoid` wrote an answer to this before that could not be read.
    """

    call: CallId
    prompt: Prompt
    stage: str = ""
    request: str = ""
    deadline: float | None = None
    max_tokens: int | None = None
    avoid: ReplicaId | None = None
    priority: int = 0
    """Higher first."""
    rest_s: float | None = None
    """Expected time from this call to the end of its request."""
    leads: bool = False
    """It is on the way to the first thing that its request shows."""


@dataclass(slots=True)
class Grew:
    """More is known of the prompt of a call that is not yet submitted: this is all of it so far.
    `alone`: no more will follow, nor will the call; it is what calls to come begin with."""

    call: CallId
    prompt: Prompt
    stage: str = ""
    request: str = ""
    deadline: float | None = None
    max_tokens: int | None = None
    alone: bool = False


@dataclass(slots=True)
class Warmed:
    """The prewarm of a growing call ended. Not told of one that the driver has closed because it
    was dropped, or because its call was submitted or left."""

    call: CallId
    replica: ReplicaId
    usage: Usage | None = None
    failed: bool = False


@dataclass(slots=True)
class Began:
    """The first piece of text of a try came."""

    call: CallId
    replica: ReplicaId


@dataclass(slots=True)
class Ended:
    """A try wrote its whole text, so many characters long."""

    call: CallId
    replica: ReplicaId
    chars: int
    usage: Usage | None = None


@dataclass(slots=True)
class Broke:
    """A try failed.

    `rest` is the prompt to go on with elsewhere, and `rest_tokens` what may still be written, when
    text had been given on and the driver can resume it.
    """

    call: CallId
    replica: ReplicaId
    error: EngineError
    rest: Prompt | None = None
    rest_tokens: int | None = None


@dataclass(slots=True)
class Left:
    """The reader does not want the call any more. Its tries, and its prewarm, are closed by the
    driver."""

    call: CallId


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFacts:
    """What an engine's own metrics say of its prefix cache. None: of that it says nothing."""

    capacity_tokens: float | None = None
    """What it can keep."""
    slots: int | None = None
    """It keeps one prompt in each of so many slots, and runs as many calls; see `slots.py`."""
    asked_tokens: float | None = None
    """Prompt tokens since the engine started, whoever sent them,"""
    found_tokens: float | None = None
    """and those of them that were in its cache. Given together."""


@dataclass(slots=True)
class Reported:
    """An engine's own metrics: calls in its batch and in its queue, whoever sent them."""

    replica: ReplicaId
    running: int
    waiting: int
    cache: CacheFacts | None = None


@dataclass(slots=True)
class Allowed:
    """A server said how much it still allows, and in how many seconds all will be there again.
    None: of that it said nothing."""

    requests: tuple[int, float] | None = None
    tokens: tuple[int, float] | None = None


@dataclass(slots=True)
class Heard:
    """Another pool before the same replicas said what it has on them; None: it has left.

    `peer` names it for as long as it lives; one that starts anew needs another name, as it counts
    its summaries from 1.
    """

    peer: str
    summary: Summary | None


@dataclass(slots=True)
class Woke:
    """`wake_at()` has come."""


Event = Submitted | Grew | Warmed | Began | Ended | Broke | Left | Reported | Allowed | Heard | Woke


# --- Actions: what the driver has to do


@dataclass(slots=True)
class Send:
    """Start the call on this replica; beside the one it has, if it has one (a hedge)."""

    call: CallId
    replica: ReplicaId


@dataclass(slots=True)
class Warm:
    """Let this replica read the prompt that a growing call has so far."""

    call: CallId
    replica: ReplicaId


@dataclass(slots=True)
class Drop:
    """Close the call's try on this replica: another one began first. Or its prewarm, which others
    wait for."""

    call: CallId
    replica: ReplicaId


@dataclass(slots=True)
class Refuse:
    """Tell the reader that there will be no (more) answer. If it has all of it, and only the policy
    failed, tell whoever watches over the process."""

    call: CallId
    error: AltoError


Action = Send | Warm | Drop | Refuse
