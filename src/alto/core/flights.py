"""The calls of a pool that are growing or not gone, and the requests that they belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .pool_events import Grew, Submitted
from .prefix import Prompt
from .replicas import Try
from .scheduling import CallId, ReplicaId


@dataclass(slots=True)
class Growing:
    """A call whose prompt is not complete."""

    told: Grew
    """The prompt so far, and who asks."""
    home: ReplicaId | None = None
    """Where its beginning was sent,"""
    known: int = 0
    """and so many bytes of it were read. (Which a policy that looks at caches knows already.)"""
    sent: Try | None = None
    """The prewarm under way,"""
    size: int = 0
    """which has so many bytes."""
    next_at: float = 0.0
    """No other before then."""
    failed: int = 0
    """Replicas on which a prewarm failed, as bits."""


@dataclass(slots=True)
class Flight:
    """A call that is not gone."""

    call: CallId
    prompt: Prompt
    stage: str
    deadline: float | None
    max_tokens: int | None
    request: Request
    due: float
    tries: list[Try] = field(default_factory=list)
    waiting: bool = True
    tried: int = 0
    """Replicas on which it failed, as bits."""
    failures: int = 0
    turned_away: int = 0
    busy_since: float = math.inf
    """When it was first turned away."""
    resumes: int = 0
    home: ReplicaId | None = None
    """Where its prompt was sent ahead."""
    overtaken: int = 0
    passed_at: float | None = None
    """Since when it waits for a replica that knows its prompt though another would take it."""
    leads: bool = False
    """It is on the way to the first thing that its request shows."""


def flight_of(event: Submitted, growing: Growing | None, request: Request, due: float) -> Flight:
    """A call that was submitted, and what was known of it while it grew."""
    flight = Flight(
        event.call,
        event.prompt,
        event.stage,
        event.deadline,
        event.max_tokens,
        request,
        due,
    )
    if growing is not None:
        flight.home, flight.tried = growing.home, growing.failed
    flight.leads = event.leads
    if event.avoid is not None:
        flight.tried |= 1 << event.avoid
    return flight


@dataclass(slots=True)
class Counts:
    """What a pool has done since it was made."""

    hedged: int = 0
    """Calls sent to a second replica beside a first."""
    resumed: int = 0
    """Texts that broke off and were gone on with."""
    refused: dict[str, int] = field(default_factory=dict)
    """Calls that got an error, by the name of its class."""

    def refuse(self, error: Exception) -> None:
        """A call gets this error."""
        name = type(error).__name__
        self.refused[name] = self.refused.get(name, 0) + 1


@dataclass(slots=True)
class Request:
    """A request, as far as it concerns a pool."""

    since: float
    """When its first call came."""
    calls: int = 0
    """Those of it that are not gone."""

    @property
    def weight(self) -> float:
        """How much it waits for one of its calls here; see `Facts.weight`."""
        return _weight(self.calls)


class Requests:
    """What a pool knows of the requests whose calls come to it. Of `remembered_max` requests, that
    is: then the one unheard of for longest is forgotten."""

    def __init__(self, remembered_max: int) -> None:
        self.remembered_max = remembered_max
        self._known: dict[str, Request] = {}

    def get(self, name: str, now: float) -> Request:
        """The request of that name. A call without one is alone in its own."""
        if not name:
            return Request(now)
        known = self._known
        request = known.pop(name, None)
        if request is None:
            request = Request(now)
        known[name] = request
        if len(known) > self.remembered_max:
            del known[next(iter(known))]
        return request

    def weight_with(self, name: str, more: int) -> float:
        """How much a request would wait for one of its calls here, with so many more."""
        known = self._known.get(name)
        return _weight(more if known is None else known.calls + more)


def _weight(calls: int) -> float:
    return 1.0 if calls == 1 else 1.0 / math.sqrt(calls)
