"""The calls of a pool that are growing or not gone, and the requests that they belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .pool_events import Grew
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


class Flight:
    """A call, from its submission until it is gone. The driver makes it, and keeps it as long as it
    has to tell of it; what is in it is the pool's."""

    __slots__ = (
        "beside",
        "blocks",
        "busy_since",
        "call",
        "deadline",
        "due",
        "failures",
        "home",
        "leads",
        "max_tokens",
        "overtaken",
        "passed_at",
        "request",
        "resumes",
        "sent",
        "size",
        "stage",
        "tried",
        "turned_away",
        "waiting",
    )

    def __init__(
        self,
        call: CallId,
        prompt: Prompt,
        stage: str,
        deadline: float | None,
        max_tokens: int | None,
        leads: bool,
    ) -> None:
        self.call = call
        self.blocks = prompt.blocks
        self.size = prompt.size
        """Bytes of its prompt."""
        self.stage = stage
        self.deadline = deadline
        self.max_tokens = max_tokens
        self.leads = leads
        """It is on the way to the first thing that its request shows."""
        self.request: Request
        self.due: float
        self.sent: Try | None = None
        """The try under way,"""
        self.beside: Try | None = None
        """and the one that races with it, while it is hedged."""
        self.waiting = False
        self.tried = 0
        """Replicas on which it failed, as bits."""
        self.failures = 0
        self.turned_away = 0
        self.busy_since = math.inf
        """When it was first turned away."""
        self.resumes = 0
        self.home: ReplicaId | None = None
        """Where its prompt was sent ahead."""
        self.overtaken = 0
        self.passed_at: float | None = None
        """Since when it waits for a replica that knows its prompt though another would take it."""

    @property
    def tries(self) -> tuple[Try, ...]:
        """All that are under way, in the order of their sending."""
        if self.sent is None:
            return ()
        return (self.sent,) if self.beside is None else (self.sent, self.beside)

    def on(self, replica: ReplicaId) -> Try | None:
        """The try under way on that replica."""
        sent = self.sent
        if sent is not None and sent.replica == replica:
            return sent
        sent = self.beside
        return sent if sent is not None and sent.replica == replica else None

    def add(self, sent: Try) -> None:
        """Another try is under way."""
        if self.sent is None:
            self.sent = sent
        else:
            self.beside = sent

    def remove(self, sent: Try) -> None:
        """One is over."""
        if sent is self.sent:
            self.sent = self.beside
        self.beside = None


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
        return weight_of(more if known is None else known.calls + more)


def weight_of(calls: int) -> float:
    """How much a request waits for one of so many calls that it has here; see `Facts.weight`."""
    return 1.0 if calls == 1 else 1.0 / math.sqrt(float(calls))
