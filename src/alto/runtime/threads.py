"""Blocking code: plain calls and generators that run in a thread, and their way back to the loop.

A thread cannot be killed. When its attempt is stopped, what it gives is dropped, a stream that it
reads raises in it, a generator is closed at its next item; its place is free when it ends.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

from ..errors import StageError
from .readers import Stopped

AHEAD_MAX = 64
"""How many items a generator in a thread may be ahead of the loop."""


def split(positional: list[str], arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional-only arguments apart from the rest."""
    if not positional:
        return [], arguments
    rest = dict(arguments)
    return [rest.pop(name) for name in positional if name in rest], rest


async def as_items(stage: str, given: Any) -> AsyncIterator[Any]:
    """What a function that is annotated `Stream[T]` returned, as items."""
    if hasattr(given, "__aiter__"):
        async for item in given:
            yield item
        return
    if isinstance(given, str | bytes | dict) or not hasattr(given, "__iter__"):
        raise StageError(
            f"stage {stage}: it is annotated as a stream and returned {type(given).__name__}. "
            "Yield items, or return a list or an iterator of them.",
            stage=stage,
        )
    for item in given:
        yield item


def start_thread(name: str, function: Callable[[], Any]) -> Future[Any]:
    """Run a function in a thread of its own. For code that may wait for other stages: in a pool it
    could keep those it waits for from running."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=work, name=f"alto-{name}", daemon=True).start()
    return future


class ThreadedItems:
    """A blocking generator, run in a thread, as an async iterator."""

    def __init__(
        self, name: str, make: Callable[[], Iterator[Any]], held: list[Future[Any]]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(AHEAD_MAX)
        self._over = False
        self._event = asyncio.Event()
        context = copy_context()
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
            self._event.clear()
            ended = self._future.done()
            try:
                item = self._items.get_nowait()
            except queue.Empty:
                if ended:
                    error = self._future.exception()
                    if error is not None and not isinstance(error, Stopped):
                        raise error from None
                    raise StopAsyncIteration from None
                await self._event.wait()
                continue
            self._room.release()
            return item

    async def aclose(self) -> None:
        """Let the thread end at its next item."""
        self._over = True
        self._room.release()
