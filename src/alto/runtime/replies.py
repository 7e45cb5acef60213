"""One answer from an engine, for a stage that may run on the loop or in a thread.

On the loop a `Reply` is awaited, as any coroutine; in a blocking stage `.result()` waits for it:
then a task on the loop does the asking.

Always true:
    R1  the asking is over when nobody waits for the answer, and when the attempt is over
    R2  in a thread the end of the attempt is `Stopped`, which unwinds the user's code
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..core.execution import Invocation, State
from .threads import Stopped, answer_of, tell

if TYPE_CHECKING:
    from .driver import Run

T = TypeVar("T")


def start(
    run: Run,
    invocation: Invocation,
    work: Coroutine[Any, Any, T],
    context: Context,
    ended: Callable[[asyncio.Task[T]], object],
) -> asyncio.Task[T] | None:
    """Start work on the loop that ends with the attempt at the latest; `ended` is called in any
    case. None: the attempt is over already, and nothing is started or called."""
    if invocation.state is not State.RUNNING:
        work.close()
        return None
    task = run.loop.create_task(work, context=context)
    stops = run.set_aside().on_stop.setdefault(invocation, [])
    stops.append(task.cancel)

    def over(task: asyncio.Task[T]) -> None:
        if task.cancel in stops:  # else one attempt that asks again and again held all of it
            stops.remove(task.cancel)
        ended(task)

    task.add_done_callback(over)
    return task


class Reply(Coroutine[Any, Any, T], Generic[T]):
    """An answer that is on its way once somebody asks for it: `await` it, or call `.result()` in a
    blocking stage. A coroutine in every respect, so that tasks can be made of it."""

    def __init__(
        self, what: str, run: Run, invocation: Invocation, asking: Coroutine[Any, Any, T]
    ) -> None:
        self._what = what
        self._run = run
        self._invocation = invocation
        self._asking = asking

    def result(self) -> T:
        """Wait for the answer in a thread. Raises what the asking raises."""
        run = self._run
        if threading.get_ident() == run.thread:
            self._asking.close()
            raise TypeError(
                f"stage {self._invocation.use.name}: on the event loop {self._what} is awaited; "
                "'.result()' is for blocking stages, which run in threads (on virtual time they "
                "do not)."
            )
        answers: queue.SimpleQueue[asyncio.Task[T] | None] = queue.SimpleQueue()
        context = copy_context()

        def begin() -> None:
            if start(run, self._invocation, self._asking, context, answers.put) is None:
                answers.put(None)

        try:
            if not tell(run.loop, begin):
                raise Stopped
            task = answer_of(run.loop, answers)
        except Stopped:
            if (
                inspect.getcoroutinestate(self._asking) == inspect.CORO_CREATED
            ):  # else a task has it
                self._asking.close()
            raise
        if task is None or task.cancelled():
            raise Stopped
        try:
            return task.result()
        finally:
            del task  # its error refers to this frame

    # --- What makes it a coroutine

    def __await__(self) -> Any:
        return self._asking.__await__()

    def send(self, value: Any) -> Any:
        return self._asking.send(value)

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        return self._asking.throw(kind if value is None else value)

    def close(self) -> None:
        self._asking.close()
