"""Places: the right of one attempt to use one instance of a stage, and what happens when everybody
waits for one.

A stage with `max_concurrency` has that many places in each instance. A session keeps its place
while it waits for input, and a fan-out while its readers are slow, so attempts can wait for places
in a circle: a session holds the only place of a stage that must run once more to feed it; or the
session of one request waits for a producer that stands in a queue behind another request's
producer, which is paused because its reader stands in a queue behind the session. No buffer is
large enough for the first of these.

So a place can be *lent*. When every attempt that stands between a queue and a free place is itself
at rest (waits for input, for a slow reader, or for a place), the one that holds a place and runs no
code steps aside: the next in the queue has its place, and it goes on when it has one again. At no
time more attempts *run* than there are places. Where nobody waits in a circle nothing is lent. If
no place can be lent (a blocking generator works ahead even when it is paused), a buffer grows.

Places at replicas can be waited for in a circle too: an LM stage that is paused because its reader
is not there yet has its call under way, and the reader may wait for a call that waits in the pool
for room. Those calls are then read to their end.

Always true:
    P1  a place is given back once, when the code that used it has ended
    P2  `busy` counts the places that are held and not lent
    P3  whoever waits for a place waits for code that runs, or for a client that reads slowly
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core import interest, pressure
from ..core.execution import Invocation, State
from ..stages import LM

if TYPE_CHECKING:
    from .driver import Run
    from .units import Unit


class Place:
    """One place in instance `number` of a stage, held by an attempt (or by a batch: `run` None)."""

    __slots__ = ("invocation", "lent", "number", "run", "unit")

    def __init__(
        self, unit: Unit, number: int, run: Run | None, invocation: Invocation | None
    ) -> None:
        self.unit = unit
        self.number = number
        self.run = run
        self.invocation = invocation
        self.lent = False


class Places:
    """The places of one stage: who has them, who waits for them."""

    def __init__(self, unit: Unit, instances: int, limit: int | None) -> None:
        self.unit = unit
        self.limit = limit
        self.busy = [0] * instances
        self.held: dict[Place, None] = {}
        self.queue: deque[tuple[Run, Invocation]] = deque()
        self.rooms: deque[asyncio.Future[Place]] = deque()  # batches that wait
        self.returning: deque[tuple[Place, Callable[[], None]]] = deque()
        self.empty = asyncio.Event()  # says something only while `drained` waits

    def take(self, run: Run | None, invocation: Invocation | None) -> Place | None:
        """A free place in the instance that has the fewest attempts; None if there is none."""
        busy = self.busy
        number = min(range(len(busy)), key=busy.__getitem__) if len(busy) > 1 else 0
        if self.limit is not None and busy[number] >= self.limit:
            return None
        busy[number] += 1
        place = Place(self.unit, number, run, invocation)
        self.held[place] = None
        return place

    def wait(self, run: Run, invocation: Invocation) -> None:
        """Queue for a place, first come first served over all requests."""
        self.queue.append((run, invocation))
        _waits(run, self)

    def release(self, place: Place) -> None:
        """The code that used a place has ended: the next in the queue may have it."""
        if place not in self.held:
            return
        del self.held[place]
        if place.lent:
            place.run.aside.lent.pop(place.invocation, None)  # type: ignore[union-attr,arg-type]
        else:
            self.busy[place.number] -= 1
            self._pass_on()
        if not self.held:
            self.empty.set()

    async def drained(self, seconds: float) -> None:
        """Until nobody holds a place, or so long."""
        if self.held:
            self.empty.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.empty.wait()

    def lend(self, place: Place) -> None:
        """Let the next in the queue have the place of an attempt that is at rest."""
        assert place.run is not None and place.invocation is not None and not place.lent
        place.lent = True
        place.run.set_aside().lent[place.invocation] = place
        self.busy[place.number] -= 1
        self._pass_on()

    def take_back(self, place: Place, then: Callable[[], None]) -> bool:
        """A holder that has lent its place goes on: True if it has it again, else `then` is called
        once it has. Until then its clock stands still."""
        assert place.run is not None and place.invocation is not None and self.limit is not None
        if self.busy[place.number] < self.limit:
            self._regain(place)
            return True
        self.returning.append((place, then))
        _waits(place.run, self)
        place.run.execution.now = place.run.loop.time()
        pressure.stall(place.run.execution, place.invocation)
        return False

    def _regain(self, place: Place) -> None:
        assert place.run is not None and place.invocation is not None
        self.busy[place.number] += 1
        place.lent = False
        place.run.aside.lent.pop(place.invocation, None)
        place.run.execution.now = place.run.loop.time()
        pressure.unstall(place.run.execution, place.invocation)

    def _pass_on(self) -> None:
        """Somebody may have a place now: those who lent theirs first, then the queue."""
        for _ in range(len(self.returning)):
            place, then = self.returning.popleft()
            assert place.run is not None
            if place not in self.held:
                _waited(place.run, self)
            elif self.limit is None or self.busy[place.number] < self.limit:
                self._regain(place)
                _waited(place.run, self)
                then()
            else:
                self.returning.append((place, then))
        while self.rooms:
            free = None if self.rooms[0].done() else self.take(None, None)
            if free is not None:
                self.rooms.popleft().set_result(free)
            elif self.rooms[0].done():
                self.rooms.popleft()
            else:
                return
        while self.queue:
            run, invocation = self.queue[0]
            if invocation.state is not State.READY:
                self.queue.popleft()
                _waited(run, self)
                continue
            free = self.take(run, invocation)
            if free is None:
                return
            self.queue.popleft()
            _waited(run, self)
            run.set_aside().granted.append((invocation, free))
            run.schedule()

    def forget(self, run: Run) -> None:
        """A request is over: drop what it still had in the queue."""
        self.queue = deque(entry for entry in self.queue if entry[0] is not run)
        self.returning = deque(entry for entry in self.returning if entry[0].run is not run)


def _waits(run: Run, places: Places) -> None:
    """One more attempt waits for a place."""
    waits = run.set_aside().waits
    waits[places] = waits.get(places, 0) + 1


def _waited(run: Run, places: Places) -> None:
    """One attempt that waited for a place does so no more."""
    waits = run.aside.waits
    left = waits.get(places, 0) - 1
    if left > 0:
        waits[places] = left
    elif places in waits:
        del waits[places]


def at_rest(run: Run) -> bool:
    """Whether, as far as numbers tell, nothing of a request goes on before an attempt of it gets a
    place."""
    execution = run.execution
    return (
        bool(run.aside.waits)
        and not run.aside.granted
        and not execution.ready
        and execution.client_room
        and execution.running <= execution.idle + sum(run.aside.waits.values())
    )


def unlock(run: Run) -> None:
    """`run` is at rest and waits for places: if it waits in a circle, have a place lent."""
    runs, wanted = [run], []
    for waiting in runs:  # grows on the way
        for places in waiting.aside.waits:
            if places in wanted:
                continue
            wanted.append(places)
            for place in places.held:
                holder, invocation = place.run, place.invocation
                if holder is None or invocation is None or invocation.state is not State.RUNNING:
                    return  # a batch, or a thread that outlives its attempt: it will end
                if holder not in runs:
                    if not at_rest(holder):
                        return
                    runs.append(holder)
    if not all(_surely_at_rest(run) for run in runs):
        return
    for places in wanted:
        for place in places.held:
            if not place.lent and _may_lend(place.invocation):
                places.lend(place)
                return
    for run in runs:
        if run.execution.paused:
            pressure.grow(run.execution)
            run.pump()
            return


def queues(run: Run) -> bool:
    """Whether, as far as numbers tell, nothing of a request goes on before a call of it has room at
    a replica, while attempts of it are paused: their calls may be what takes the room."""
    execution = run.execution
    return (
        run.queued > 0
        and bool(execution.paused)
        and not run.aside.granted
        and not execution.ready
        and execution.client_room
        and execution.running <= execution.idle + run.queued + sum(run.aside.waits.values())
    )


def make_room(run: Run) -> None:
    """`run` waits for replicas, perhaps in a circle: have a call that is paused written to its end.
    Only those may run further ahead, and no other producer: an answer has an end, and a wait for
    replicas that others keep busy is no reason to hold more."""
    writing = [one for one in run.execution.paused if _writes(run, one)]
    if writing:
        pressure.grow(run.execution, writing)
        run.pump()


def _writes(run: Run, invocation: Invocation) -> bool:
    unit = run.units[invocation.use.index]
    return invocation in run.aside.calling or (unit is not None and isinstance(unit.stage, LM))


def _surely_at_rest(run: Run) -> bool:
    """`at_rest` goes by numbers; this looks at every attempt."""
    waiting: set[Invocation] = set()
    for places in run.aside.waits:
        waiting.update(invocation for other, invocation in places.queue if other is run)
        waiting.update(
            place.invocation
            for place, _ in places.returning
            if place.run is run and place.invocation is not None
        )
    return all(
        invocation in waiting
        or invocation.state in (State.WAITING, State.HELD)
        or _idle(invocation)
        for invocation in interest.active(run.execution)
    )


def _idle(invocation: Invocation) -> bool:
    """Whether nothing comes of an attempt before it gets input, or room for its output."""
    return invocation.paused or any(feed.hungry for feed in invocation.feeds)


def _may_lend(invocation: Invocation | None) -> bool:
    """Whether an attempt runs no code. The thread of a paused generator works ahead."""
    if invocation is None or not _idle(invocation):
        return False
    stage = invocation.use.stage
    return not (invocation.paused and stage.is_generator and not stage.is_async)
