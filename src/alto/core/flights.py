"""The calls of a pool that are not gone, and the requests that they belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .prefix import Prompt
from .replicas import Try
from .scheduling import CallId


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
    overtaken: int = 0


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

    def joined(self, request: str) -> None:
        """A call of the request came."""
        self._calls[request] = self._calls.get(request, 0) + 1

    def left(self, request: str) -> None:
        """A call of the request is gone."""
        self._calls[request] -= 1
        if not self._calls[request]:
            del self._calls[request]

    def weight(self, request: str) -> float:
        """How much a request waits for one of its calls here; see `Facts.weight`."""
        calls = self._calls[request] if request else 1
        return 1.0 if calls == 1 else 1.0 / math.sqrt(calls)

    def check(self, calls: int) -> None:
        """Raise if these are not as many calls as the pool has."""
        assert sum(self._calls.values()) == calls, self._calls
