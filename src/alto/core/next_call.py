"""Which of the first calls in the queue goes next?

By their order it is the first. But where prompts count, the first may be at home on a replica that
is full, and one close behind may be known to a replica that is free: then that one goes before it.
Of the first `LOOK_AHEAD` calls due within `OVERTAKE_S`, the first that a free replica knows is
taken. Who is overtaken too often goes first, whatever is known.

Replicas with slots (`slots.py`) keep so few prompts that a call in the wrong place costs two
prompts: its own is read again, and so is the one that stood there. So a call waits for a replica
that knows its prompt, free or not, as long as all that would take; then it goes anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Final

from .flights import Flight
from .replicas import ReplicaState
from .scheduling import CallId
from .waiting import Queue

LOOK_AHEAD: Final = 16
"""Calls of the queue among which one may be chosen because a free replica knows its prompt."""
OVERTAKE_S: Final = 1.0
"""And only those due within this time after the first."""


class NextCall:
    """Takes the next call from the queue of a pool whose policy looks at prompts."""

    def __init__(self, flights: Mapping[CallId, Flight], replicas: Sequence[ReplicaState]) -> None:
        self._flights = flights
        self._replicas = replicas
        self.slotted = False
        """Some replica has slots, so that calls may wait for the one that knows their prompt."""
        self.until: float | None = None
        """They do, and the first of them stops then."""

    def take(
        self,
        queue: Queue,
        first: Flight,
        free: Sequence[ReplicaState],
        tokens_per_byte: float,
        now: float,
    ) -> Flight | None:
        """The call to send, out of the queue. None: all that may go wait `until`."""
        until: list[float] = []

        def knows(flight: Flight) -> bool:
            blocks, size = flight.blocks, flight.size
            if self.slotted:
                return any(one.takes_warm(blocks, size, now) for one in self._replicas)
            return any(one.knows(blocks, size) for one in free)

        def waits(flight: Flight) -> bool:
            if not self.slotted:
                return False
            if flight.passed_at is None:
                flight.passed_at = now
            until.append(flight.passed_at + self._patience_s(flight, tokens_per_byte, now))
            return until[-1] > now

        chosen = _take(queue, self._flights, first, knows, waits)
        self.until = min(until) if chosen is None else None
        return chosen

    def _patience_s(self, flight: Flight, tokens_per_byte: float, now: float) -> float:
        """How long it may wait for a replica on which it has not failed."""
        blocks, size = flight.blocks, flight.size
        tokens = size * tokens_per_byte
        untried = (one for one in self._replicas if not flight.tried >> one.replica & 1)
        waits = (one.worth_waiting_s(blocks, size, tokens, now) for one in untried)
        return max(waits, default=0.0)


def _take(
    queue: Queue,
    flights: Mapping[CallId, Flight],
    first: Flight,
    knows: Callable[[Flight], bool],
    waits: Callable[[Flight], bool],
) -> Flight | None:
    """Take one call from the queue: the first that is known, else the first that does not wait."""
    passed: Queue = []
    chosen: Flight | None = None
    while queue and len(passed) < LOOK_AHEAD and queue[0][0] <= first.due + OVERTAKE_S:
        entry = heappop(queue)
        flight = flights.get(entry[2])
        if flight is None or not flight.waiting:
            continue
        if flight.overtaken >= LOOK_AHEAD or knows(flight):
            chosen = flight
            break
        passed.append(entry)
    if chosen is None:
        chosen = next((one for *_, call in passed if not waits(one := flights[call])), None)
    for entry in passed:
        if chosen is None or entry[2] != chosen.call:
            flights[entry[2]].overtaken += chosen is not None and chosen is not first
            heappush(queue, entry)
    return chosen
