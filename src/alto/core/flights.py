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
    since: float
    """When its request came to this pool."""
    request: str
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


def flight_of(event: Submitted, growing: Growing | None, since: float, due: float) -> Flight:
    """A call that was submitted, and what was known of it while it grew."""
    flight = Flight(
        event.call,
        event.prompt,
        event.stage,
        event.deadline,
        event.max_tokens,
        since,
        event.request,
        due,
    )
    if growing is not None:
        flight.home, flight.tried = growing.home, growing.failed
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


class Requests:
    """What a pool knows of the requests whose calls come to it: since when, and how many calls each
    has here now. The ages of `remembered_max` requests are kept."""

    def __init__(self, remembered_max: int) -> None:
        self.remembered_max = remembered_max
        self._since: dict[str, float] = {}
        self._calls: dict[str, int] = {}

    def since(self, request: str, now: float) -> float:
        """When the request first came here. The requests longest unheard of are forgotten first."""
        if not request:
            return now
        since = self._since.pop(request, now)
        self._since[request] = since
        if len(self._since) > self.remembered_max:
            del self._since[next(iter(self._since))]
        return since

    def joined(self, request: str, now: float) -> float:
        """A call of the request came. Since when the request is here."""
        self._calls[request] = self._calls.get(request, 0) + 1
        return self.since(request, now)

    def left(self, request: str) -> None:
        """A call of the request is gone."""
        self._calls[request] -= 1
        if not self._calls[request]:
            del self._calls[request]

    def weight(self, request: str, more: int = 0) -> float:
        """How much a request waits for one of its calls here, with so many more than there are;
        see `Facts.weight`."""
        calls = self._calls.get(request, 0) + more if request else 1
        return 1.0 if calls == 1 else 1.0 / math.sqrt(calls)

    def check(self, calls: int) -> None:
        """Raise if these are not as many calls as the pool has."""
        assert sum(self._calls.values()) == calls, self._calls
