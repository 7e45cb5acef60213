"""The calls of a pool that wait: in the queue, or pausing before another try.

A call that goes away leaves its entries behind until they are reached, as taking one out of the
middle of a heap costs more than it is worth. They never outnumber the living by much.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Final

from .flights import Flight
from .scheduling import CallId

Queue = list[tuple[float, int, CallId]]
"""A heap by due time, then by number."""

_STALE_MAX: Final = 64
"""Entries of calls that are gone, beyond as many as there are calls that wait."""


class Waiting:
    """Who waits, since when, for how long. `flights`: all calls of the pool that are not gone."""

    def __init__(self, flights: Mapping[CallId, Flight]) -> None:
        self._flights = flights
        self.count = 0
        """Calls that wait."""
        self.queue: Queue = []
        self._paused: Queue = []
        """By the time of the next try."""
        self._deadlines: list[tuple[float, CallId]] = []
        self._number = 0

    def add(self, flight: Flight) -> None:
        """It waits again. Then `enqueue` it, or let it `pause`."""
        flight.waiting = True
        self.count += 1

    def enqueue(self, flight: Flight) -> None:
        """It waits for a replica to have room."""
        self._number += 1
        heappush(self.queue, (flight.due, self._number, flight.call))

    def pause(self, flight: Flight, until: float) -> None:
        """It waits for a time before it is put into the queue."""
        self._number += 1
        heappush(self._paused, (until, self._number, flight.call))

    def watch(self, flight: Flight) -> None:
        """If it still waits, see to its deadline."""
        if flight.waiting and flight.deadline is not None:
            heappush(self._deadlines, (flight.deadline, flight.call))
            self._forget_deadlines()

    def end_pauses(self, now: float) -> None:
        """Put into the queue what has paused for long enough."""
        while self._paused and self._paused[0][0] <= now:
            _, number, call = heappop(self._paused)
            flight = self._flights.get(call)
            if flight is not None:
                heappush(self.queue, (flight.due, number, call))

    def late(self, now: float) -> Flight | None:
        """A call that waits though its deadline is over; see to it, then ask again."""
        while self._deadlines and self._deadlines[0][0] <= now:
            flight = self._flights.get(heappop(self._deadlines)[1])
            if flight is not None and flight.waiting:
                return flight
        return None

    def sent(self, flight: Flight) -> None:
        """It waits no more."""
        flight.waiting = False
        self.count -= 1
        self._forget_deadlines()

    def _forget_deadlines(self) -> None:
        if len(self._deadlines) > 2 * self.count + _STALE_MAX:
            # A call that was turned away has an entry for each time.
            living = {entry for entry in self._deadlines if self.has(entry[1])}
            self._deadlines[:] = sorted(living)  # which is a heap

    def gone(self, flight: Flight) -> None:
        """The call is gone."""
        if flight.waiting:
            self.sent(flight)
            if len(self.queue) > 2 * self.count + _STALE_MAX:
                self.queue[:] = [entry for entry in self.queue if self.has(entry[2])]
                heapify(self.queue)

    def has(self, call: CallId) -> bool:
        """Whether this call waits."""
        flight = self._flights.get(call)
        return flight is not None and flight.waiting

    def all(self) -> list[Flight]:
        """Every call that waits, in the order of their coming."""
        return [flight for flight in self._flights.values() if flight.waiting]

    def check(self) -> None:
        """Raise if a call neither waits nor is sent, or does both, or their number is wrong."""
        for flight in self._flights.values():
            assert flight.waiting == (flight.sent is None), flight
        assert self.count == len(self.all()), (self.count, self.all())

    @property
    def pause_ends_at(self) -> float | None:
        """When the next pause is over."""
        return self._paused[0][0] if self._paused else None

    @property
    def late_at(self) -> float | None:
        """When the deadline of the next call is over (or of one that waits no more)."""
        return self._deadlines[0][0] if self._deadlines else None

    @property
    def queued(self) -> bool:
        """Whether a call is really in the queue."""
        return any(self.has(entry[2]) for entry in self.queue)
