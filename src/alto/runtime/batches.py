"""Micro-batches: items of several invocations, perhaps of several requests, in one call.

A batch starts when it is full or when its first item has waited `max_wait`. If the call raises, its
items run again one by one, so that one bad item fails alone. If it returns another number of
outputs, they all fail.

Always true:
    B1  every item of a batch that has started is settled, or stopped, when its call is over
    B2  a call is cancelled when none of its items is wanted any more
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ..core.execution import Invocation, State
from ..core.graph import Use
from ..errors import StageMistake
from . import attempts
from .current import running
from .places import Place

if TYPE_CHECKING:
    from .driver import Run
    from .units import Unit

Entry = tuple["Run", Invocation]


class Batch:
    """Items that have gathered for one call."""

    def __init__(self, unit: Unit, key: Any) -> None:
        self.unit = unit
        self.key = key
        self.entries: list[Entry] = []
        self.timer: asyncio.TimerHandle | None = None

    def add(self, run: Run, invocation: Invocation) -> None:
        self.entries.append((run, invocation))
        assert self.unit.batch is not None
        if len(self.entries) >= self.unit.batch:
            self.start()
        elif self.timer is None:
            self.timer = run.loop.call_later(self.unit.max_wait, self.start)

    def start(self) -> None:
        """Run what has gathered."""
        self.cancel()
        if self.unit.batches.get(self.key) is self:
            del self.unit.batches[self.key]
        entries = [entry for entry in self.entries if entry[1].state is State.READY]
        if entries:
            context = entries[0][0].context.copy()
            self.unit.runtime.spawn(BatchCall(self.unit, entries).run(), context)

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class BatchCall:
    """One call of a batch stage. `alto.current()` in it speaks of the first item."""

    def __init__(self, unit: Unit, entries: list[Entry]) -> None:
        self.unit = unit
        self.entries = entries
        self.wanted: set[Invocation] = set()
        self.calling = False
        self.task: asyncio.Task[Any] | None = None

    def stop(self, invocation: Invocation) -> None:
        """One of the items is not wanted any more."""
        self.wanted.discard(invocation)
        if not self.wanted and self.calling and self.task is not asyncio.current_task():
            assert self.task is not None
            self.task.cancel()

    async def run(self) -> None:
        self.task = asyncio.current_task()
        place = await self._place()
        held: list[Future[Any]] = []
        try:
            await self._call(place, self.entries, held)
        finally:
            if place is not None:
                attempts.release_after(place, held)
            self.task, self.entries, self.wanted = None, [], set()  # which know this: circles

    async def _place(self) -> Place | None:
        unit = self.unit
        if not unit.gated:
            return None
        place = unit.places.take(None, None)
        if place is not None:
            return place
        room: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        unit.places.rooms.append(room)
        try:
            return await room
        except asyncio.CancelledError:
            if room.done() and not room.cancelled():
                unit.places.release(room.result())
            raise

    async def _call(
        self, place: Place | None, entries: list[Entry], held: list[Future[Any]]
    ) -> None:
        started = [entry for entry in entries if self._started(*entry)]
        if not started:
            return
        run, first = started[0]
        first.run = run
        running.set(first)
        self.wanted = {invocation for _, invocation in started}
        self.calling = True
        try:
            values = await self._values(place, started, held)
        except BaseException as error:
            self.calling = False
            await self._raised(place, started, error, held)
            return
        self.calling = False
        mistake = self._miscounted(values, len(started))
        if mistake is not None:
            for run, invocation in started:
                if invocation.state is State.RUNNING:
                    run.safely(run.broke, invocation, mistake)
            return
        for (run, invocation), value in zip(started, values, strict=True):
            run.safely(_done, run, invocation, value)

    def _started(self, run: Run, invocation: Invocation) -> bool:
        run.execution.now = run.loop.time()
        if invocation.state is not State.RUNNING and not run.execution.started(invocation):
            return False
        invocation.task = self
        run.arm()
        return True

    async def _raised(
        self,
        place: Place | None,
        started: list[Entry],
        error: BaseException,
        held: list[Future[Any]],
    ) -> None:
        task = self.task
        assert task is not None
        left = [entry for entry in started if entry[1].state is State.RUNNING]
        if isinstance(error, asyncio.CancelledError) and task.cancelling():
            if left:  # the loop is being closed
                for run, _ in left:
                    run.cancel(error)
                raise error
            while task.cancelling():
                task.uncancel()
            return
        if not isinstance(error, Exception | asyncio.CancelledError | SystemExit | GeneratorExit):
            for run, _ in left:
                run.cancel(error)
            raise error
        if len(started) == 1:
            for run, invocation in left:
                run.safely(run.broke, invocation, error)
            return
        for entry in left:
            if entry[1].state is State.RUNNING:
                await self._call(place, [entry], held)

    async def _values(
        self, place: Place | None, started: list[Entry], held: list[Future[Any]]
    ) -> Any:
        unit = self.unit
        use: Use = started[0][1].use
        lists: dict[str, Any] = {name: [] for name in given(use)}
        for run, invocation in started:
            arguments = run.execution.arguments(invocation, lambda feed: feed)
            for name in lists:
                lists[name].append(arguments[name])
        function = await unit.function(place)
        return await attempts.call_plain(unit, function, {**use.constants, **lists}, held)

    def _miscounted(self, values: Any, count: int) -> StageMistake | None:
        """What to say if these are not one output for each item. Nothing was raised, so nothing is
        tried again: alone each item might well come out right, and hide the mistake."""
        if isinstance(values, list | tuple) and len(values) == count:
            return None
        gave = f"{len(values)} outputs" if isinstance(values, list | tuple) else repr(values)
        return StageMistake(
            f"a batch of {count} items gave {gave}. A batch stage returns a list with one output "
            "for each input, in order.",
            stage=self.unit.name,
        )


def _done(run: Run, invocation: Invocation, value: Any) -> None:
    run.execution.now = run.loop.time()
    run.execution.done(invocation, value)
    run.pump()


def given(use: Use) -> tuple[str, ...]:
    """The parameters that have another value for each item of a batch."""
    items = [name for name, _ in use.items if name is not None]
    return (*items, *(gather.parameter for gather in use.gathers))
