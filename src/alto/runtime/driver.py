"""The loop around one request: take what the core asks for, do it, tell the core what came of it.

A *runner* is a task that works off ready invocations one after another; what a completion makes
ready runs next in the same task, so a chain of quick stages costs no tasks. Further runners start
only while something is ready and the ones before them are waiting, at most `IN_FLIGHT_MAX`.

Always true:
    R1  the core is entered from the loop's thread only, with `now` set
    R2  what an attempt says after it was stopped reaches nobody
    R3  a place taken in a unit is given back exactly once, when the code that used it has ended,
        even if that is a thread that outlives its attempt
    R4  after `closed()` no task of the request is left
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.calls import Usage
from ..core.events import Emit, Finish, Go, Stop, Wake
from ..core.execution import Execution, Invocation, State
from ..core.feed import Feed
from ..core.path import Path, show
from ..errors import StageError
from ..values import encode, size_of
from . import lm, threads
from .current import running
from .readers import LiveStream, Stopped

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from .embedded import Runtime
    from .units import Unit

IN_FLIGHT_MAX = 1024
"""How many invocations of one request run at once; the others are ready and wait."""

YIELD_EVERY = 64
"""After this much work without waiting, a runner lets other tasks have the loop."""

CLIENT_EVENTS_MAX = 1024
"""How many events wait for a slow client before producers are slowed down."""

CLEANUP_S = 5.0
"""How long the end of a request waits for its cancelled tasks to clean up."""


@dataclass(slots=True)
class Event:
    """Something for the client of a request.

    `output` names an output of the pipeline, `path` says which item, `value` is it. An item that
    replaces one given before is `revised`; one taken back is `withdrawn` (`value` is None). With
    `progress`, a stage called `current().emit(output, value)`. `usage` is what the request's LM
    calls have used so far.
    """

    output: str
    path: Path
    value: Any
    revised: bool = False
    withdrawn: bool = False
    progress: bool = False
    stage: str = ""
    usage: Usage | None = None


def same(a: Any, b: Any) -> bool:
    """Whether two attempts gave the same item: equal as they are encoded."""
    if a is b:
        return True
    if type(a) is type(b) and isinstance(a, str | int | float | bytes):
        return bool(a == b)
    return encode(a) == encode(b)


class Run:
    """One request in this process."""

    barrier = False

    def __init__(
        self,
        runtime: Runtime,
        pipeline: Pipeline[Any, Any],
        request_id: str,
        *,
        deadline: float | None,
        stream: bool,
        keep: bool,
        committed: bool = False,
        bounded: bool = False,
    ) -> None:
        self.runtime = runtime
        self.pipeline = pipeline
        self.id = request_id
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.deadline = deadline
        self.usage = Usage()
        self.reasoning: dict[tuple[str, Path], str] = {}
        self.execution = Execution(
            pipeline.graph,
            name=request_id,
            rng=random.Random(f"{runtime.seed}/{request_id}"),
            limits=runtime.config.limits,
            size=size_of,
            same=same,
            stream=stream,
            keep=keep,
            committed=committed,
        )
        self.units: list[Unit | None] = runtime.units_of(pipeline.graph)
        self.granted: deque[tuple[Invocation, int]] = deque()
        self.tasks: set[asyncio.Task[None]] = set()
        self.events: deque[Event] = deque()
        self.bounded = bounded
        self.done = asyncio.Event()
        self.error: BaseException | None = None
        self._more: asyncio.Future[None] | None = None
        self._spawning = False
        self._burst = 1
        self._timer: asyncio.TimerHandle | None = None
        self._gates: dict[Invocation, asyncio.Future[None]] = {}

    # ---------------------------------------------------------------- from outside

    def begin(self, arguments: dict[str, Any]) -> None:
        self.execution.now = self.loop.time()
        self.execution.begin(arguments, self.deadline)
        self.pump()

    def cancel(self, error: BaseException) -> None:
        """End the request; what runs is stopped."""
        if not self.execution.finished:
            self.execution.now = self.loop.time()
            self.execution.cancel(error)
            self.pump()

    async def closed(self) -> None:
        """Until no task of the request is left (at most `CLEANUP_S` after its end)."""
        await self.done.wait()
        current = asyncio.current_task()
        tasks = {task for task in self.tasks if task is not current}
        if tasks:
            await asyncio.wait(tasks, timeout=CLEANUP_S)

    async def next_events(self) -> list[Event]:
        """The events that are there, waiting for one if need be; empty at the end."""
        while not self.events and not self.done.is_set():
            self._more = self.loop.create_future()
            try:
                await self._more
            finally:
                self._more = None
        events = list(self.events)
        self.events.clear()
        if self.bounded and not self.execution.client_room:
            self.execution.now = self.loop.time()
            self.execution.set_client_room(True)
            self.pump()
        return events

    # ---------------------------------------------------------------- the core's actions

    def pump(self) -> None:
        """Do what the core asks for."""
        execution = self.execution
        while execution.actions:
            actions, execution.actions = execution.actions, []
            for action in actions:
                if type(action) is Wake:
                    if action.feed.reader is not None:
                        action.feed.reader.wake()
                elif type(action) is Emit:
                    self._push(
                        Event(
                            action.output,
                            action.path,
                            action.value,
                            action.revised,
                            action.withdrawn,
                            usage=self.usage,
                        )
                    )
                elif type(action) is Stop:
                    self._stop(action.invocation)
                elif type(action) is Go:
                    self._open_gate(action.invocation)
                elif type(action) is Finish:
                    self._finish(action.error)
        if execution.ready or self.granted:
            self.schedule()
        self.arm()

    def schedule(self) -> None:
        """Have runners started for what is ready, unless a runner gets there first."""
        if not self._spawning:
            self._spawning = True
            self._burst = 1
            self.loop.call_soon(self._spawn)

    def _spawn(self) -> None:
        waiting = len(self.execution.ready) + len(self.granted)
        for _ in range(min(self._burst, waiting, IN_FLIGHT_MAX - len(self.tasks))):
            task = self.loop.create_task(self._runner())
            self.tasks.add(task)
            task.add_done_callback(self._runner_ended)
        if waiting > self._burst and len(self.tasks) < IN_FLIGHT_MAX:
            self._burst *= 2
            self.loop.call_soon(self._spawn)
        else:
            self._spawning = False

    def _runner_ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.cancel(task.exception() or RuntimeError("a runner failed"))
        elif (self.execution.ready or self.granted) and not self.execution.finished:
            self.schedule()

    def arm(self) -> None:
        """Keep the one timer at the time at which the core wants to be woken."""
        if not self.execution._timers:
            return
        when = self.execution.wake_at()
        timer = self._timer
        if when is None or (timer is not None and not timer.cancelled() and timer.when() <= when):
            return
        if timer is not None:
            timer.cancel()
        self._timer = self.loop.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.execution.now = self.loop.time()
        self.execution.tick()
        self.pump()

    def _push(self, event: Event) -> None:
        self.events.append(event)
        if self._more is not None and not self._more.done():
            self._more.set_result(None)
        if self.bounded and len(self.events) >= CLIENT_EVENTS_MAX:
            self.execution.client_room = False

    def progress(self, invocation: Invocation, name: str, value: Any) -> None:
        """A stage reports progress; from a thread this crosses to the loop."""
        event = Event(
            name, invocation.path, value, progress=True, stage=invocation.use.name, usage=self.usage
        )
        if threading.get_ident() == self.thread:
            self._progress(invocation, event)
        else:
            self.loop.call_soon_threadsafe(self._progress, invocation, event)

    def _progress(self, invocation: Invocation, event: Event) -> None:
        if invocation.state is State.RUNNING and self.execution.stream:
            self._push(event)

    def _stop(self, invocation: Invocation) -> None:
        """What an attempt still does is for nobody: cancel it."""
        for feed in invocation.feeds:
            if feed.reader is not None:
                feed.reader.wake()
        self._open_gate(invocation)
        task = invocation.task
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _open_gate(self, invocation: Invocation) -> None:
        gate = self._gates.pop(invocation, None)
        if gate is not None and not gate.done():
            gate.set_result(None)

    async def gate(self, invocation: Invocation) -> bool:
        """Wait until a paused producer may go on; False if its attempt is over."""
        if invocation.state is State.RUNNING and invocation.paused:
            gate = self._gates[invocation] = self.loop.create_future()
            await gate
        self.execution.now = self.loop.time()
        return invocation.state is State.RUNNING

    def _finish(self, error: BaseException | None) -> None:
        self.error = error
        self.runtime.forget(self)
        self.granted.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for unit in self.units:
            if unit is not None:
                unit.forget(self)
        for gate in self._gates.values():
            if not gate.done():
                gate.set_result(None)
        self._gates.clear()
        self.done.set()
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    # ---------------------------------------------------------------- runners

    async def _runner(self) -> None:
        execution, units = self.execution, self.units
        ready, granted = execution.ready, self.granted
        task = asyncio.current_task()
        assert task is not None
        time = self.loop.time
        count = 0
        while ready or granted:
            place = -1
            if granted:
                invocation, place = granted.popleft()
            else:
                invocation = ready.popleft()
            unit = units[invocation.use.index]
            assert unit is not None
            execution.now = time()
            if place < 0 and self.holds(invocation):
                continue
            if unit.plain and not invocation.feeds:
                if not execution.started(invocation):
                    continue
            else:
                admitted = self._admit(unit, invocation, place)
                if admitted is None:
                    continue
                place = admitted
            while True:  # a chain: what this completion makes ready runs next in this task
                invocation.task = task
                running.set((self, invocation))
                if invocation.due is not None:
                    self.arm()
                before = len(ready)
                try:
                    if unit.plain:
                        value = await unit.stage.function(
                            **execution.arguments(invocation, self._stream)
                        )
                        execution.now = time()
                        execution.done(invocation, value)
                    else:
                        await self._run(unit, invocation, place)
                except BaseException as error:
                    if not self._absorb(invocation, task, error):
                        raise
                if execution.actions or self.barrier:
                    self.pump()
                if len(ready) == before + 1:  # of several the first comes first, from the queue
                    following = ready[-1]
                    next_unit = units[following.use.index]
                    assert next_unit is not None
                    if next_unit.plain and count % YIELD_EVERY and not self.barrier:
                        ready.pop()
                        if execution.started(following):
                            invocation, unit = following, next_unit
                            count += 1
                            continue
                break
            if execution._timers:
                self.arm()
            count += 1
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        running.set(None)

    def _absorb(
        self, invocation: Invocation, task: asyncio.Task[Any], error: BaseException
    ) -> bool:
        """What an attempt raised goes to the core; False: it is not the attempt's, raise it on."""
        if isinstance(error, asyncio.CancelledError):
            if invocation.state is not State.RUNNING:
                while task.cancelling():
                    task.uncancel()
            elif task.cancelling():
                self.cancel(error)
                return False
            else:
                self.broke(invocation, error)
        elif isinstance(error, Exception):
            self.broke(invocation, error)
        elif not isinstance(error, Stopped):
            self.cancel(error)
            return False
        return True

    def _admit(self, unit: Unit, invocation: Invocation, place: int) -> int | None:
        """Start an invocation at its place in the unit; None if it waits for a place or a batch, or
        is not wanted any more. `place` is the one it was granted, or -1."""
        if invocation.state is not State.READY:
            if place >= 0:
                unit.release(place)
            return None
        if unit.batch is not None:
            unit.enqueue(self, invocation)
            return None
        if unit.gated and place < 0:
            free = unit.acquire()
            if free is None:
                unit.queue.append((self, invocation))
                return None
            place = free
        self.execution.started(invocation)
        if self.execution._timers:
            self.arm()
        return max(place, 0)

    def holds(self, invocation: Invocation) -> bool:
        """Whether a ready invocation must wait for something that the core does not know of."""
        return False

    def _stream(self, feed: Feed) -> LiveStream:
        assert feed.invocation is not None
        return LiveStream(self, feed.invocation, feed)

    def broke(self, invocation: Invocation, error: BaseException) -> None:
        """An attempt raised."""
        execution = self.execution
        stage = invocation.use.stage
        execution.now = self.loop.time()
        retryable = isinstance(error, stage.retry_on) and not isinstance(error, StageError)
        execution.broke(invocation, error, retryable)
        self.pump()

    async def _run(self, unit: Unit, invocation: Invocation, place: int) -> None:
        """Any stage but the plain ones: an LM, a generator, code in a thread, an instance."""
        held: list[Future[Any]] = []
        try:
            arguments = self.execution.arguments(invocation, self._stream)
            if unit.is_lm:
                await lm.call(self, unit, invocation, arguments)
                return
            function = await unit.function(place)
            if unit.fans_out:
                await self._fan_out(unit, invocation, function, arguments, held)
                return
            value = await self.runtime.call_plain(
                unit, function, arguments, held, session=bool(invocation.feeds)
            )
            self.execution.now = self.loop.time()
            self.execution.done(invocation, value)
        finally:
            if unit.gated:
                self.runtime.release_after(unit, place, held)

    async def _fan_out(
        self,
        unit: Unit,
        invocation: Invocation,
        function: Callable[..., Any],
        arguments: dict[str, Any],
        held: list[Future[Any]],
    ) -> None:
        if unit.is_generator and not unit.is_async:
            items = self.runtime.iterate(unit, function, arguments, held)
        elif unit.is_generator:
            args, kwargs = threads.split(unit.positional, arguments)
            items = function(*args, **kwargs)
        else:
            given = await self.runtime.call_plain(
                unit, function, arguments, held, session=bool(invocation.feeds)
            )
            items = threads.as_items(unit.name, given)
        try:
            await self.give_all(invocation, items)
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def give_all(self, invocation: Invocation, items: AsyncIterator[Any]) -> None:
        """Pass on the items of a fan-out, as fast as the core allows, and close it."""
        execution, time = self.execution, self.loop.time
        count = 0
        async for value in items:
            execution.now = time()
            go_on = execution.give(invocation, value)
            if execution.actions or execution.ready:
                self.pump()
            if not go_on and not await self.gate(invocation):
                return
            count += 1
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        execution.now = time()
        execution.close(invocation)
        self.pump()

    def story(self) -> str:
        """What the request is doing, for error messages."""
        return f"request {self.id} of {self.pipeline.name} at {show(())}: {self.execution.story()}"
