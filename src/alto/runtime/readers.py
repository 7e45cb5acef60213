"""What a session iterates: the driver's side of a feed.

`LiveStream` pulls from the core when the stage asks for the next item; nothing is copied or queued
in between. In a blocking stage the asking happens in a thread: it hands the question to the loop
and gets up to `THREAD_ITEMS` items at a time.

Always true:
    L1  an item is given once, in whatever pieces and with whatever pauses the stream is read
    L2  after its attempt is over a stream gives nothing: it raises, in a thread `Stopped`
    L3  while a thread works on items it has been given, its attempt does not count as waiting
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from ..annotations import AsCompleted
from ..core import pressure
from ..core.execution import Invocation, State
from ..core.feed import END, WAIT, Feed
from . import waits
from .threads import Stopped, answer_of, tell

if TYPE_CHECKING:
    from .driver import Run

THREAD_ITEMS = 64
"""How many items that are there already cross to a thread in one go."""

YIELD_EVERY = 64
"""After this many items without waiting, a session lets others run."""


class LiveStream(AsCompleted[Any]):
    """The items of one gathered argument, for the attempt that it was made for."""

    def __init__(self, run: Run, invocation: Invocation, feed: Feed) -> None:
        self._run = run
        self._invocation = invocation
        self._feed = feed
        self._waiter: asyncio.Future[None] | None = None
        self._taken = 0
        self._answers: queue.SimpleQueue[tuple[list[Any], str]] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the threads that read
        self._crossed: deque[Any] = deque()  # in the thread already, not yet asked for
        self._asked = False
        feed.reader = self

    def __repr__(self) -> str:
        return f"<stream of {self._feed.source.flow.name} for {self._invocation.use.name}>"

    def wake(self) -> None:
        """The core has something, or the attempt is over."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._asked:
            self._answer()

    # ---------------------------------------------------------------- on the loop

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
                await asyncio.sleep(0)  # code that asks again and again must not stall the loop
                raise asyncio.CancelledError("this attempt is over")
            if self._waiter is not None:
                raise RuntimeError(
                    f"stage {invocation.use.name}: two tasks wait for the next item of one stream. "
                    "Let one task read it and hand the items on."
                )
            value = execution.pull(feed)
            if execution.actions or execution.ready or run.aside.granted:
                run.pump()
            if value is END:
                raise StopAsyncIteration
            if value is not WAIT:
                return value
            if invocation.state is State.RUNNING:
                await self._woken()

    async def _woken(self) -> None:
        """Until `wake`, and until the attempt has its place again if it was lent meanwhile."""
        run = self._run
        self._waiter = run.loop.create_future()
        try:
            if run.aside.waits:
                run.rested()
            await self._waiter
        finally:
            self._waiter = None
        if run.aside.lent:
            await waits.reclaim(run, self._invocation)
        run.execution.now = run.loop.time()

    # ---------------------------------------------------------------- in a thread

    def __iter__(self) -> LiveStream:
        if threading.get_ident() == self._run.thread:
            raise TypeError(
                f"stage {self._invocation.use.name}: a stream in an async stage is read with "
                "'async for'."
            )
        return self

    def __next__(self) -> Any:
        with self._lock:
            if not self._crossed:
                if not tell(self._run.loop, self._run.safely, self._ask):
                    raise Stopped
                items, over = answer_of(self._run.loop, self._answers)
                if over == "stopped":
                    raise Stopped
                self._crossed.extend(items)
                if not items:
                    raise StopIteration
            if self._invocation.state is not State.RUNNING:
                raise Stopped
            return self._crossed.popleft()

    def _ask(self) -> None:
        self._asked = True
        self._answer()

    def _answer(self) -> None:
        """On the loop: give the thread what is there; with nothing there it goes on waiting."""
        run, invocation, feed = self._run, self._invocation, self._feed
        if invocation in run.aside.lent and not run.take_back(invocation, self._answer):
            return
        execution = run.execution
        execution.now = run.loop.time()
        items: list[Any] = []
        over = ""
        while len(items) < THREAD_ITEMS and not over:
            value = END
            if invocation.state is State.RUNNING:
                value = execution.pull(feed)
            if invocation.state is not State.RUNNING:
                over, items = "stopped", []
            elif value is END:
                over = "end"
            elif value is WAIT:
                break
            else:
                items.append(value)
        if items or over:
            self._asked = False
            if feed.hungry:  # it has something to do until it asks again
                feed.hungry = False
                execution.idle -= 1
                pressure.unstall(execution, invocation)
            self._answers.put((items, over))
        run.pump()
        if run.aside.waits:
            run.rested()


def wake(invocation: Invocation) -> None:
    """An attempt is over: nobody, not even a task that it has left behind, may wait for more."""
    for feed in invocation.feeds:
        if feed.reader is not None:
            feed.reader.wake()


def leave(invocation: Invocation) -> None:
    """The code of an attempt has ended. As `wake`; what it has left behind, such as a thread, may
    ask once more all the same, and needs nobody to find it for that."""
    for feed in invocation.feeds:
        reader: LiveStream | None = feed.reader
        if reader is not None:
            reader.wake()
            if reader._invocation is invocation:  # the next attempt may have the same feed
                feed.reader = None  # which knows the request: a circle
