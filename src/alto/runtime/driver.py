"""The loop around one request: take what the core asks for, do it, tell the core what came of it.

Nothing in here waits. What does is in `runners`, the tasks that work off ready invocations, and in
`waits`. Further runners start only while something is ready and the ones before them are waiting,
at most `IN_FLIGHT_MAX`.

Always true:
    R1  the core is entered from the loop's thread only, with `now` set
    R2  what an attempt says after it was stopped reaches nobody
    R3  a place taken in a unit is given back exactly once, when the code that used it has ended,
        even if that is a thread that outlives its attempt
    R4  after `waits.closed` no task of the request is left, but for code that has been cancelled
        and has not come to its end within `CLEANUP_S`
    R5  an invocation sees the context variables of the caller of the request, and none that
        another invocation has set
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final

from ..core.admission import Ticket
from ..core.budget import Budget
from ..core.calls import Usage
from ..core.events import Action, Emit, Finish, Go, Stop, Wake
from ..core.execution import Execution, Invocation, State
from ..core.feed import Feed
from ..core.path import show
from ..errors import DeadlineExceeded, StageError
from ..values import same, size_of
from . import places, readers, runners
from .aside import NOTHING, Aside, making
from .batches import BatchCall
from .current import running
from .events import Event
from .places import Place
from .prompts import KeptStream
from .readers import LiveStream, wake
from .threads import Stopped, tell

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from .embedded import Runtime
    from .units import Unit

IN_FLIGHT_MAX: Final = 1024
"""How many invocations of one request run at once; the others are ready and wait. Those that wait
for input, or for a slow reader, do not count: what they wait for may be among the others."""

CLIENT_EVENTS_MAX: Final = 1024
"""How many events wait for a slow client before producers are slowed down."""


class Run:
    """One request in this process."""

    __slots__ = (
        "_burst",
        "_on_ended",
        "_resting",
        "_spawning",
        "_timer",
        "aside",
        "awaited",
        "barrier",
        "bounded",
        "budget",
        "context",
        "deadline",
        "ended",
        "error",
        "events",
        "execution",
        "id",
        "loop",
        "more",
        "pipeline",
        "priority",
        "queued",
        "runtime",
        "tasks",
        "thread",
        "ticket",
        "units",
        "usage",
    )

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
        self.budget: Budget | None = None  # tokens that it may spend on LM calls
        self.priority = 0
        self.ticket: Ticket | None = None  # by which it is counted as load
        self.usage = Usage()
        self.execution = Execution(
            pipeline.graph,
            name=request_id,
            rng=runtime.rng_of,
            limits=runtime.config.limits,
            size=size_of,
            same=same,
            stream=stream,
            keep=keep,
            committed=committed,
        )
        self.units: list[Unit | None] = runtime.units_of(pipeline.graph)
        self.context: Context = copy_context()  # what each invocation begins with
        self.aside = NOTHING
        # Kept, since many tasks have it at a time; until the end, since it knows the request.
        self._on_ended: Callable[[asyncio.Task[None]], None] | None = self._runner_ended
        self.queued = 0  # calls that wait in a pool for a replica with room
        self.tasks: dict[asyncio.Task[None], None] = {}  # smaller than a set of as many
        self.events: list[Event] | None = None
        self.bounded = bounded
        self.barrier = False
        self.ended = False
        self.error: BaseException | None = None
        self.awaited: tuple[asyncio.Future[None], ...] = ()  # by those who wait for its end
        self.more: asyncio.Future[None] | None = None
        self._spawning = False
        self._burst = 1
        self._timer: asyncio.TimerHandle | None = None
        self._resting = False

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

    # ---------------------------------------------------------------- the core's actions

    def pump(self) -> None:
        """Do what the core asks for. An error in here is no stage's: it ends the request."""
        execution = self.execution
        try:
            while execution.actions:
                actions, execution.actions = execution.actions, None
                self._perform(actions)
        except Exception as error:
            self.failed(error)
        if execution.ready or self.aside.granted:
            self.schedule()
        elif self.queued or self.aside.waits:
            self.rested()
        if execution._timers:
            self.arm()

    def _perform(self, actions: list[Action]) -> None:
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

    def schedule(self) -> None:
        """Have runners started for what is ready, unless a runner gets there first."""
        if not self._spawning:
            self._spawning = True
            self._burst = 1
            self.loop.call_soon(self.safely, self._spawn, context=self.context)

    def _spawn(self) -> None:
        execution = self.execution
        wanted = min(
            len(execution.ready) + len(self.aside.granted),
            IN_FLIGHT_MAX + execution.idle - len(self.tasks),
        )
        for _ in range(min(self._burst, wanted)):
            # not the context of whoever pumped last: what a stage sets there is its own
            task = self.loop.create_task(runners.work(self), context=self.context.copy())
            self.tasks[task] = None
            task.add_done_callback(self._on_ended or self._runner_ended, context=self.context)
        if self._burst < wanted:
            self._burst *= 2
            self.loop.call_soon(self.safely, self._spawn, context=self.context)
        else:
            self._spawning = False

    def _runner_ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            self.failed(task.exception() or RuntimeError("a runner failed"))
        elif (self.execution.ready or self.aside.granted) and not self.execution.finished:
            self.schedule()
        if not self.tasks and self.execution.finished:
            self.runtime.forget(self)

    def runner_over(self, task: asyncio.Task[Any]) -> None:
        """The same for one with nothing left to do, while others have: the loop need not tell."""
        if self.queued or self.aside.waits:
            self.rested()
        if not self.execution.finished:
            task.remove_done_callback(self._runner_ended)
            self.tasks.pop(task, None)

    def arm(self) -> None:
        """Keep the one timer at the time at which the core wants to be woken."""
        when = self.execution.wake_at()
        timer = self._timer
        if when is None or (timer is not None and not timer.cancelled() and timer.when() <= when):
            return
        if timer is not None:
            timer.cancel()
        self._timer = self.loop.call_at(when, self.safely, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.execution.now = self.loop.time()
        self.execution.tick()
        self.pump()

    def _push(self, event: Event) -> None:
        if self.events is None:
            self.events = []
        self.events.append(event)
        if self.more is not None and not self.more.done():
            self.more.set_result(None)
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
            self.set_aside().reported.append((invocation, event))
            tell(self.loop, self.hear)

    def hear(self) -> None:
        """Pass on what threads have reported so far."""
        while self.aside.reported:
            self._progress(*self.aside.reported.pop(0))

    def _progress(self, invocation: Invocation, event: Event) -> None:
        if invocation.state is State.RUNNING and self.execution.stream:
            self._push(event)

    def _stop(self, invocation: Invocation) -> None:
        """What an attempt still does is for nobody: cancel it."""
        wake(invocation)
        self._open_gate(invocation)
        self._end_calls(invocation)
        task = invocation.task
        if isinstance(task, BatchCall):
            task.stop(invocation)
        elif task is not None and task is not asyncio.current_task():
            invocation.task = None  # its runner sees by this that it has been cancelled
            task.cancel()

    def _end_calls(self, invocation: Invocation) -> None:
        """What an attempt has started for itself ends with it."""
        if self.aside.on_stop:
            for stop in self.aside.on_stop.pop(invocation, ()):
                stop()

    def _open_gate(self, invocation: Invocation) -> None:
        if self.aside.gates:
            gate = self.aside.gates.pop(invocation, None)
            if gate is not None and not gate.done():
                gate.set_result(None)

    def _finish(self, error: BaseException | None) -> None:
        """The request is over. Whoever waits for it hears of it, whatever goes wrong here."""
        self.error = error
        try:
            self.runtime.over(self, cleaning=bool(self.tasks))
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self.aside is not NOTHING:
                self.aside.clear(self)
        finally:
            self._end()

    def _end(self) -> None:
        """Tell everybody who waits for the end."""
        self.ended = True
        self._on_ended = None
        for awaited in self.awaited:
            if not awaited.done():
                awaited.set_result(None)
        if self.more is not None and not self.more.done():
            self.more.set_result(None)

    def safely(self, step: Callable[..., object], *args: Any) -> None:
        """Do something on the request's behalf that no task waits for: if the runtime itself
        raises there, the request ends with that error."""
        try:
            step(*args)
        except Exception as error:
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        """Not a stage but the runtime itself has raised: end the request with that, even if the
        core cannot be asked any more."""
        with contextlib.suppress(Exception):
            self.cancel(error)
        if not self.ended:
            with contextlib.suppress(Exception):
                self._finish(error)
            for action in self.execution.actions or ():
                if type(action) is Stop:
                    with contextlib.suppress(Exception):
                        self._stop(action.invocation)
            current = asyncio.current_task()
            for task in self.tasks:
                if task is not current:
                    task.cancel()
            self.error = self.error or error
            self._end()

    # ---------------------------------------------------------------- places

    def set_aside(self) -> Aside:
        """The request's own, to put something there. Threads ask for it, too."""
        if self.aside is NOTHING:
            with making:
                if self.aside is NOTHING:
                    self.aside = Aside()
        return self.aside

    def __call__(self, more: int) -> None:
        """So many more calls of this request wait in a pool for a replica with room. (It is
        `Call.queued` itself, since a bound method would be an object more for each call.)"""
        self.queued += more
        if more > 0:
            self.rested()

    def rested(self) -> None:
        """Something has come to rest: see, once the loop comes by, whether anybody waits in a
        circle."""
        if not self._resting and (places.at_rest(self) or places.queues(self)):
            self._resting = True
            self.loop.call_soon(self.safely, self._unlock)

    def _unlock(self) -> None:
        self._resting = False
        if places.at_rest(self):
            places.unlock(self)
        elif places.queues(self):
            places.make_room(self)

    def take_back(self, invocation: Invocation, then: Callable[[], None]) -> bool:
        """An attempt that has lent its place goes on; False: not before `then` is called."""
        place = self.aside.lent.get(invocation)
        if place is None or place.unit.places.take_back(place, then):
            return True
        self.rested()
        return False

    # ---------------------------------------------------------------- runners

    def has_work(self) -> bool:
        """Whether a runner has something to do."""
        return bool(self.execution.ready) or bool(self.aside.granted)

    def take(self) -> Invocation | None:
        """Start what has been granted a place, or else what is ready; None if it has to wait."""
        place: Place | None = None
        if self.aside.granted:
            invocation, place = self.aside.granted.popleft()
        else:
            invocation = self.execution.ready.popleft()
        unit = self.units[invocation.use.index]
        assert unit is not None
        self.execution.now = self.loop.time()
        if self.barrier and place is None and self.holds(invocation):
            started = False
        elif unit.direct:
            started = self.execution.started(invocation)
        else:
            started = self._admit(unit, invocation, place)
        if self.execution.ready or self.aside.granted:
            self.schedule()  # the runner has its hands full as soon as it waits
        return invocation if started else None

    def enter(self, invocation: Invocation, task: asyncio.Task[Any]) -> Context:
        """A runner is about to call an attempt's code; gives the context that it begins with."""
        invocation.task = task
        invocation.run = self
        running.set(invocation)
        if invocation.due is not None:
            self.arm()
        return copy_context()

    def arguments(self, invocation: Invocation) -> dict[str, Any]:
        """What a plain stage is called with."""
        return self.execution.arguments(invocation, self.stream_of)

    def done(self, invocation: Invocation, value: Any) -> None:
        """A plain stage has returned."""
        self.execution.now = self.loop.time()
        self.execution.done(invocation, value)

    def leave(self, invocation: Invocation, task: asyncio.Task[Any]) -> None:
        """An attempt's code has ended, with whatever came of it told."""
        if invocation.feeds or self.aside.on_stop or invocation.task is None:
            self._left(invocation, task)
        invocation.task = None  # whose context knows the invocation: a circle
        if self.execution.actions or self.barrier:
            self.pump()

    def is_left_changed(self, context: Context) -> bool:
        """Whether something else is there to run, and an attempt that began with this context has
        left it other than it was."""
        if not self.execution.ready and not self.aside.granted:
            return False
        try:
            return bool(context != copy_context())
        except Exception:  # a value that cannot be compared, such as an array
            return True

    def following(self, before: int) -> Invocation | None:
        """What comes next in a chain, started: the one plain stage that has become ready since so
        many were. Of several the first comes first, from the queue."""
        ready = self.execution.ready
        if len(ready) != before + 1 or self.barrier:
            return None
        following = ready[-1]
        unit = self.units[following.use.index]
        if unit is None or not unit.plain:
            return None
        ready.pop()
        return following if self.execution.started(following) else None

    def _left(self, invocation: Invocation, task: asyncio.Task[Any]) -> None:
        """An attempt's code has ended: what it has left behind ends too."""
        readers.leave(invocation)
        self._end_calls(invocation)
        if invocation.task is None:  # it was stopped, and may have swallowed that
            while task.cancelling():
                task.uncancel()

    def absorb(self, invocation: Invocation, task: asyncio.Task[Any], error: BaseException) -> bool:
        """What an attempt raised goes to the core; False: it is not the attempt's, raise it on.

        Also `sys.exit()` in a stage is a failure of that stage. Ctrl-C, and what is no `Exception`
        for reasons of its own, end the request and go on to whoever runs the loop.
        """
        state = invocation.state
        if isinstance(error, asyncio.CancelledError):
            if state is State.RUNNING and task.cancelling():
                self.cancel(error)
                return False
            self.broke(invocation, error)
        elif isinstance(error, Exception | SystemExit | GeneratorExit):
            if state is State.DONE or state is State.HELD:
                self.cancel(error)  # its output was complete: nothing else would tell of this
            self.broke(invocation, error)
        elif not isinstance(error, Stopped):
            self.cancel(error)
            return False
        return True

    def _admit(self, unit: Unit, invocation: Invocation, place: Place | None) -> bool:
        """Start an invocation at its place in the unit; False if it waits for a place or a batch,
        or is not wanted any more. `place` is the one it was granted."""
        if invocation.state is not State.READY:
            if place is not None:
                unit.places.release(place)
            return False
        if unit.batch is not None:
            unit.enqueue(self, invocation)
            return False
        if unit.gated:
            if place is None:
                place = unit.places.take(self, invocation)
            if place is None:
                unit.places.wait(self, invocation)
                return False
            self.set_aside().placed[invocation] = place
        self.execution.started(invocation)
        if self.execution._timers:
            self.arm()
        return True

    def holds(self, invocation: Invocation) -> bool:
        """Whether a ready invocation must wait for something that the core does not know of."""
        return False

    def stream_of(self, feed: Feed) -> LiveStream:
        assert feed.invocation is not None
        return LiveStream(self, feed.invocation, feed)

    def kept_stream_of(self, feed: Feed) -> KeptStream:
        assert feed.invocation is not None
        return KeptStream(self, feed.invocation, feed)

    def broke(self, invocation: Invocation, error: BaseException) -> None:
        """An attempt raised."""
        execution = self.execution
        stage = invocation.use.stage
        execution.now = self.loop.time()
        if isinstance(error, DeadlineExceeded) and self.deadline is not None:
            resolution = time.get_clock_info("monotonic").resolution
            if self.deadline <= execution.now + resolution:  # the request's, not the attempt's
                self.cancel(error)
                return
        retryable = isinstance(error, stage.retry_on) and not isinstance(error, StageError)
        execution.broke(invocation, error, retryable)
        self.pump()

    def story(self) -> str:
        """What the request is doing, for error messages."""
        return f"request {self.id} of {self.pipeline.name} at {show(())}: {self.execution.story()}"
