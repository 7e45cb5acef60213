"""One answer from an engine, for a stage that may run on the loop or in a thread.

On the loop a `Reply` is awaited, as any coroutine; in a blocking stage `.result()` waits for it:
then a task on the loop does the asking.

Always true:
    R1  the asking is over when nobody waits for the answer, and when the attempt is over
    R2  in a thread the end of the attempt is `Stopped`, which unwinds the user's code
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..core.execution import Invocation, State
from .threads import Stopped, tell

if TYPE_CHECKING:
    from .driver import Run

T = TypeVar("T")


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
        answer: Future[T] = Future()
        context = copy_context()

        def begin() -> None:
            if self._invocation.state is not State.RUNNING:
                self._asking.close()
                answer.set_exception(Stopped())
                return
            task = run.loop.create_task(self._asking, context=context)
            stops = run.on_stop.setdefault(self._invocation, [])
            stops.append(task.cancel)
            task.add_done_callback(ended)

        def ended(task: asyncio.Task[T]) -> None:
            stops = run.on_stop.get(self._invocation, [])
            if task.cancel in stops:
                stops.remove(task.cancel)
            if task.cancelled():
                answer.set_exception(Stopped())
            elif (error := task.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        if not tell(run.loop, begin):
            self._asking.close()
            raise Stopped
        return answer.result()

    # --- What makes it a coroutine

    def __await__(self) -> Any:
        return self._asking.__await__()

    def send(self, value: Any) -> Any:
        return self._asking.send(value)

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        return self._asking.throw(kind if value is None else value)

    def close(self) -> None:
        self._asking.close()
