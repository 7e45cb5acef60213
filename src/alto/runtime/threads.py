"""Blocking code: plain calls and generators that run in a thread, and their way back to the loop.

A thread cannot be killed. When its attempt is stopped, what it gives is dropped, a stream that it
reads raises in it, a generator is closed at its next item; its place is free when it ends. Threads
are daemons, so that one which never comes back does not keep the process alive.

Always true:
    T1  the future of a piece of work is settled when the thread has left the user's code
    T2  a generator is at most `AHEAD_MAX` items ahead of the loop
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

THREADS_MAX = 64
"""Threads for blocking code that reads no stream and is no generator; those have one each."""

AHEAD_MAX = 64
"""How many items a generator in a thread may be ahead of the loop."""

GOODBYE_S = 1.0
"""How long closing the pool waits for a thread that has nothing to do."""

LOOK_S = 1.0
"""How often a thread that waits for the loop looks whether the loop is still there."""


class Stopped(BaseException):
    """Raised in a blocking stage's thread when its attempt is over: it unwinds the user's code."""


class Threads:
    """At most `THREADS_MAX` threads that are used again; further work waits, first come first
    served."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._free = threading.Semaphore(0)
        self._all: list[threading.Thread] = []
        self._busy: dict[threading.Thread, Future[Any]] = {}
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether work would have to wait for a thread."""
        return len(self._busy) >= THREADS_MAX

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function in a thread. Called from the loop's thread only."""
        if self._closed:
            raise RuntimeError("the runtime has been closed; it starts no more blocking code")
        future: Future[Any] = Future()
        self._work.put((future, function))
        if not self._free.acquire(blocking=False) and len(self._all) < THREADS_MAX:
            name = f"alto-{len(self._all) + 1}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._all.append(thread)
            thread.start()
        return future

    def _serve(self) -> None:
        here = threading.current_thread()
        while (work := self._work.get()) is not None:
            self._busy[here] = work[0]
            if work[0].set_running_or_notify_cancel():
                settle(*work)
            del work
            del self._busy[here]
            self._free.release()

    def close(self) -> None:
        """Let the threads end: at once where nothing runs, else when the user's code returns. What
        has not begun is cancelled."""
        self._closed = True
        while True:
            try:
                work = self._work.get_nowait()
            except queue.Empty:
                break
            if work is not None:
                work[0].cancel()
        for _ in self._all:
            self._work.put(None)
        for thread in self._all:
            working_on = self._busy.get(thread)
            if working_on is None or working_on.done():
                thread.join(GOODBYE_S)


def settle(future: Future[Any], function: Callable[[], Any]) -> None:
    """Call `function` and put what comes of it into `future`."""
    try:
        result = function()
    except StopIteration as error:
        # As in a coroutine: no future takes a StopIteration, whoever awaits it would hang.
        wrapped = RuntimeError("blocking code raised StopIteration")
        wrapped.__cause__ = error
        future.set_exception(wrapped)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
    finally:
        del future, function  # the traceback refers to this frame


def start_thread(name: str, function: Callable[[], Any]) -> Future[Any]:
    """Run a function in a thread of its own. For code that may wait for other stages: in a pool it
    could keep those it waits for from running."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    threading.Thread(
        target=settle, args=(future, function), name=f"alto-{name}", daemon=True
    ).start()
    return future


class ThreadedItems:
    """A blocking generator, run in a thread, as an async iterator. `before` is called on the loop
    before each item and the end are passed on: what the thread did until then comes first."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Iterator[Any]],
        held: list[Future[Any]],
        context: Context,
        before: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._before = before
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(AHEAD_MAX)
        self._over = False
        self._asleep = False
        self._event = asyncio.Event()
        self._future = start_thread(name, lambda: context.run(self._work, make))
        held.append(self._future)
        self._future.add_done_callback(self._notify)

    def _work(self, make: Callable[[], Iterator[Any]]) -> None:
        items = make()
        try:
            for item in items:
                self._room.acquire()
                if self._over:
                    return
                self._items.put(item)
                if self._asleep:
                    self._notify(None)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def _notify(self, _: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            self._over = True  # the loop is closed: nobody listens any more

    def __aiter__(self) -> ThreadedItems:
        return self

    async def __anext__(self) -> Any:
        while True:
            ended = self._future.done()
            if not self._items.empty():
                item = self._items.get_nowait()
                self._room.release()
                self._before()
                return item
            if ended:
                self._before()
                error = self._future.exception()
                if error is not None and not isinstance(error, Stopped):
                    raise error from None
                raise StopAsyncIteration
            self._event.clear()
            self._asleep = True
            if self._items.empty() and not self._future.done():  # else the thread saw no sleeper
                await self._event.wait()
            self._asleep = False

    async def aclose(self) -> None:
        """Let the thread end at its next item."""
        self._over = True
        self._room.release()


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *args: Any) -> bool:
    """From any thread: call a function on the loop. False if the loop is closed, that is, if nobody
    is left who could care."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return False
    return True


def answer_of(loop: asyncio.AbstractEventLoop, answers: queue.SimpleQueue[T]) -> T:
    """In a thread that has told the loop what it wants: the next answer. Raises `Stopped` if the
    loop was closed instead; what it had been told last is then never called."""
    while True:
        try:
            return answers.get(timeout=LOOK_S)
        except queue.Empty:
            if loop.is_closed() and answers.empty():
                raise Stopped from None
