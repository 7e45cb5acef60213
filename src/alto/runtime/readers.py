"""What a session iterates: the driver's side of a feed.

`LiveStream` pulls from the core when the stage asks for the next item; nothing is copied or queued
in between. In a blocking stage the asking happens in a thread: it hands the question to the loop
and gets up to `THREAD_ITEMS` items at a time.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import TYPE_CHECKING, Any

from ..annotations import AsCompleted
from ..core.execution import Invocation, State
from ..core.feed import END, WAIT, Feed

if TYPE_CHECKING:
    from .driver import Run

THREAD_ITEMS = 64
"""How many items that are there already cross to a thread in one go."""

YIELD_EVERY = 64
"""After this many items without waiting, a session lets others run."""


class Stopped(BaseException):
    """Raised in a blocking stage's thread when its attempt is over: it unwinds the user's code."""


class LiveStream(AsCompleted[Any]):
    """The items of one gathered argument, for the attempt that it was made for."""

    def __init__(self, run: Run, invocation: Invocation, feed: Feed) -> None:
        self._run = run
        self._invocation = invocation
        self._feed = feed
        self._waiter: asyncio.Future[None] | None = None
        self._taken = 0
        self._thread: queue.SimpleQueue[Any] | None = None
        self._asked = False
        feed.reader = self

    def wake(self) -> None:
        """The core has something, or the attempt is over."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._asked:
            self._answer()

    def __aiter__(self) -> LiveStream:
        return self

    async def __anext__(self) -> Any:
        run, invocation, feed = self._run, self._invocation, self._feed
        execution = run.execution
        self._taken += 1
        if self._taken % YIELD_EVERY == 0:
            await asyncio.sleep(0)
        while True:
            if invocation.state is not State.RUNNING:
                raise asyncio.CancelledError("this attempt is over")
            value = execution.pull(feed)
            if execution.actions or execution.ready:
                run.pump()
            if value is END:
                raise StopAsyncIteration
            if value is not WAIT:
                return value
            if invocation.state is not State.RUNNING:
                continue
            self._waiter = run.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
            execution.now = run.loop.time()

    def __iter__(self) -> Any:
        if threading.get_ident() == self._run.thread:
            raise TypeError(
                f"stage {self._invocation.use.name}: a stream in an async stage is read with "
                "'async for'."
            )
        self._thread = queue.SimpleQueue()
        while True:
            self._run.loop.call_soon_threadsafe(self._ask)
            items, over = self._thread.get()
            yield from items
            if over == "stopped":
                raise Stopped
            if over == "end":
                return

    def _ask(self) -> None:
        self._asked = True
        self._answer()

    def _answer(self) -> None:
        """On the loop: give the thread what is there; with nothing there it goes on waiting."""
        assert self._thread is not None
        execution = self._run.execution
        execution.now = self._run.loop.time()
        items: list[Any] = []
        over = ""
        while len(items) < THREAD_ITEMS:
            if self._invocation.state is not State.RUNNING:
                over = "stopped"
                break
            value = execution.pull(self._feed)
            if value is END:
                over = "end"
                break
            if value is WAIT:
                if self._invocation.state is not State.RUNNING:
                    over = "stopped"
                break
            items.append(value)
        if items or over:
            self._asked = False
            self._thread.put((items, over))
        self._run.pump()
