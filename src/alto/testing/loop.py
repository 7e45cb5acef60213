"""An asyncio event loop on virtual time.

While a callback is ready the loop runs it; when nothing is ready, the clock jumps to the next
timer. So an hour of waiting takes no time and the order of events depends on nothing but the
program. Nothing ready and no timer means that the program waits for something that can never
come: the loop raises `Stuck` instead of hanging. Real I/O and threads do not work on it.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(RuntimeError):
    """Every task waits and no timer is set: on a real loop this would hang for ever."""


class _NoWait(selectors.SelectSelector):
    """A selector that moves the clock instead of sleeping."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("every task waits and no timer is set")
        if timeout > 0:
            self.loop.jump(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The standard loop with a clock of its own, starting at 0.

    `virtual` tells a driver that blocking code must run inline: a thread's time would not count.
    """

    virtual = True

    def __init__(self) -> None:
        self._now = 0.0
        selector = _NoWait()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self._now

    def jump(self, timeout: float) -> None:
        """Go to the next timer exactly (adding `timeout` would round)."""
        scheduled = self._scheduled  # type: ignore[attr-defined]
        self._now = scheduled[0].when() if scheduled else self._now + timeout
        # Timers are due until this much after now; after some months 1 ns is lost in rounding, and
        # no timer would ever be due.
        self._clock_resolution = max(1e-9, 2 * math.ulp(self._now))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a fresh virtual loop, as `asyncio.run` does on a real one."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
