"""A stage as this process runs it: its instances, the places in them, and its batches.

A `Unit` is shared by all requests of a runtime. An invocation that finds no free place waits in the
unit's queue, first come first served over all requests; an attempt that is over before its turn is
passed by. Instances of a class are made once, off the loop, when the first invocation needs them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ..core.execution import Invocation, State
from ..core.graph import Use
from ..errors import StageError
from ..stages import LM, Stage

if TYPE_CHECKING:
    from ..config import StageConfig
    from .driver import Run
    from .embedded import Runtime


class Unit:
    """One stage in one runtime."""

    def __init__(
        self, runtime: Runtime, stage: Stage[Any, Any], config: StageConfig | None
    ) -> None:
        self.runtime = runtime
        self.stage = stage
        self.name = stage.name
        self.instances = (config.instances if config else None) or stage.instances
        each = (config.max_concurrency if config else None) or stage.max_concurrency
        self.limit: int | None = each
        self.batch = (config.batch if config else None) or stage.batch
        if stage.batch is None:
            self.batch = None
        wait = config.max_wait if config else None
        self.max_wait = stage.max_wait if wait is None else wait
        self.init = dict(config.init) if config else {}
        self.gated = self.limit is not None or stage.is_class
        self.busy = [0] * self.instances
        self.queue: deque[tuple[Run, Invocation]] = deque()
        self.objects: list[Any] | None = None
        self._making: asyncio.Future[None] | None = None
        self.is_lm = isinstance(stage, LM)
        self.is_async = stage.is_async
        self.is_generator = stage.is_generator
        self.fans_out = stage.fans_out
        parameters = stage.signature.parameters.values()
        self.positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
        self.batches: dict[Any, Batch] = {}
        self.rooms: deque[asyncio.Future[None]] = deque()  # batches that wait for a place
        self.plain = (
            self.is_async
            and not self.is_generator
            and not self.gated
            and not self.is_lm
            and not self.fans_out
            and not self.positional
            and self.batch is None
        )

    def acquire(self) -> int | None:
        """A free place: the number of the instance that has the fewest invocations."""
        best = min(range(self.instances), key=self.busy.__getitem__)
        if self.limit is not None and self.busy[best] >= self.limit:
            return None
        self.busy[best] += 1
        return best

    def release(self, place: int) -> None:
        """An invocation has left its place: the next in the queue may have it."""
        self.busy[place] -= 1
        while self.rooms:
            room = self.rooms.popleft()
            if not room.done():
                room.set_result(None)
                return
        while self.queue:
            run, invocation = self.queue[0]
            if invocation.state is not State.READY:
                self.queue.popleft()
                continue
            free = self.acquire()
            if free is None:
                return
            self.queue.popleft()
            run.granted.append((invocation, free))
            run.schedule()

    def forget(self, run: Run) -> None:
        """A request is over: drop what it still had in the queue."""
        if self.queue:
            self.queue = deque(entry for entry in self.queue if entry[0] is not run)

    async def function(self, place: int) -> Callable[..., Any]:
        """What to call for an invocation at this place."""
        if not self.stage.is_class:
            return self.stage.function
        if self.objects is None:
            await self._make()
        assert self.objects is not None
        made: Callable[..., Any] = self.objects[place]
        return made

    async def _make(self) -> None:
        if self._making is not None:
            await asyncio.shield(self._making)
            return
        loop = asyncio.get_running_loop()
        self._making = loop.create_future()
        try:
            made = []
            for _ in range(self.instances):
                made.append(await self.runtime.offload(self._one))
            self.objects = made
            self._making.set_result(None)
        except BaseException as error:
            making, self._making = self._making, None
            making.set_exception(error)
            making.exception()
            raise

    def _one(self) -> Any:
        try:
            return self.stage.function(**self.init)
        except Exception as error:
            raise StageError(
                f"stage {self.name}: making an instance with init {self.init!r} raised "
                f"{type(error).__name__}: {error}. Init arguments come from "
                f"[stages.{self.name}.init].",
                stage=self.name,
            ) from error

    async def aclose(self) -> None:
        """Close the instances that have a `close()`."""
        for batch in list(self.batches.values()):
            batch.cancel()
        objects, self.objects = self.objects or [], None
        for made in objects:
            close = getattr(made, "close", None)
            if close is None:
                continue
            if inspect.iscoroutinefunction(close):
                await close()
            else:
                await self.runtime.offload(close)

    def enqueue(self, run: Run, invocation: Invocation) -> None:
        """Put an invocation into the batch that is forming."""
        use = invocation.use
        key: Any = use if use.constants else _given(use)
        batch = self.batches.get(key)
        if batch is None:
            batch = self.batches[key] = Batch(self, key)
        batch.add(run, invocation)


class Batch:
    """Items of several invocations, perhaps of several requests, that run in one call.

    A batch starts when it is full or when its first item has waited `max_wait`. If it raises, its
    items run again one by one, so that one bad item fails alone.
    """

    def __init__(self, unit: Unit, key: Any) -> None:
        self.unit = unit
        self.key = key
        self.entries: list[tuple[Run, Invocation]] = []
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
        if self.timer is not None:
            self.timer.cancel()
        if self.unit.batches.get(self.key) is self:
            del self.unit.batches[self.key]
        entries = [entry for entry in self.entries if entry[1].state is State.READY]
        if entries:
            self.unit.runtime.spawn(BatchCall(self.unit, entries).run())

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class BatchCall:
    """One call of a batch stage. Stopping its items stops the call when none is left."""

    def __init__(self, unit: Unit, entries: list[tuple[Run, Invocation]]) -> None:
        self.unit = unit
        self.entries = entries
        self.alive = len(entries)
        self.task: asyncio.Task[Any] | None = None

    def cancel(self) -> None:
        """One of the items is not wanted any more."""
        self.alive -= 1
        if self.alive <= 0 and self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        self.task = asyncio.current_task()
        unit = self.unit
        place: int | None = 0
        while unit.gated and (place := unit.acquire()) is None:
            room = asyncio.get_running_loop().create_future()
            unit.rooms.append(room)
            await room
        assert place is not None
        held: list[Future[Any]] = []
        try:
            await self._call(place, self.entries, held)
        finally:
            if unit.gated:
                unit.runtime.release_after(unit, place, held)

    async def _call(
        self, place: int, entries: list[tuple[Run, Invocation]], held: list[Future[Any]]
    ) -> None:
        started = []
        for run, invocation in entries:
            run.execution.now = run.loop.time()
            if invocation.state is State.RUNNING or run.execution.started(invocation):
                invocation.task = self
                started.append((run, invocation))
                run.arm()
        if not started:
            return
        try:
            values = await self._values(place, started, held)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await self._one_by_one(place, started, error, held)
            return
        for (run, invocation), value in zip(started, values, strict=True):
            run.execution.now = run.loop.time()
            run.execution.done(invocation, value)
            run.pump()

    async def _one_by_one(
        self,
        place: int,
        started: list[tuple[Run, Invocation]],
        error: Exception,
        held: list[Future[Any]],
    ) -> None:
        if len(started) == 1:
            run, invocation = started[0]
            run.broke(invocation, error)
            return
        for entry in started:
            if entry[1].state is State.RUNNING:
                await self._call(place, [entry], held)

    async def _values(
        self, place: int, started: list[tuple[Run, Invocation]], held: list[Future[Any]]
    ) -> list[Any]:
        unit = self.unit
        use: Use = started[0][1].use
        lists: dict[str, Any] = {name: [] for name in _given(use)}
        for run, invocation in started:
            arguments = run.execution.arguments(invocation, lambda feed: feed)
            for name in lists:
                lists[name].append(arguments[name])
        function = await unit.function(place)
        values = await unit.runtime.call_plain(unit, function, {**use.constants, **lists}, held)
        if not isinstance(values, list | tuple) or len(values) != len(started):
            given = f"{len(values)} outputs" if isinstance(values, list | tuple) else repr(values)
            raise StageError(
                f"stage {unit.name}: a batch of {len(started)} items gave {given}. A batch stage "
                "returns a list with one output for each input, in order.",
                stage=unit.name,
            )
        return list(values)


def _given(use: Use) -> tuple[str, ...]:
    """The parameters that have another value for each item of a batch."""
    items = [name for name, _ in use.items if name is not None]
    return (*items, *(gather.parameter for gather in use.gathers))
