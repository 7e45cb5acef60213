"""The answers to one request, `n` of them, written side by side.

Always true:
    N1  pieces come as they are written, each with the place of its answer; an error in one answer
        ends all
    N2  once `aclose` has returned no answer is under way
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from ..core.calls import Delta

Piece = tuple[int, Delta]
"""A piece of the answer at a place, from 0."""


class Choices:
    """`begin`, read `pieces`, and `aclose` in any case."""

    def __init__(self, streams: Sequence[AsyncGenerator[Delta, None]]) -> None:
        self._streams = streams
        self._next: dict[asyncio.Task[Delta], int] = {}
        """The piece of each answer that is waited for."""

    async def begin(self) -> None:
        """Start all, without waiting for a token. What is wrong with the call itself is raised
        here, so that it can be answered with a status."""
        for at in range(len(self._streams)):
            self._ask(at)
        await asyncio.sleep(0)
        for task in self._next:
            if task.done() and task.exception() is not None:
                task.result()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """All pieces of all answers."""
        if len(self._streams) == 1:
            (first,) = self._next
            yield 0, await first
            async for delta in self._streams[0]:
                yield 0, delta
            return
        while self._next:
            await asyncio.wait(self._next, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in self._next if task.done()]:
                at = self._next.pop(task)
                delta = task.result()
                if delta.finish_reason is None:
                    self._ask(at)
                yield at, delta

    async def aclose(self) -> None:
        """End what is still being written."""
        for task in self._next:
            task.cancel()
        await asyncio.gather(*self._next, return_exceptions=True)
        for stream in self._streams:
            await stream.aclose()

    def _ask(self, at: int) -> None:
        self._next[asyncio.ensure_future(_next(self._streams[at]))] = at


async def _next(stream: AsyncGenerator[Delta, None]) -> Delta:
    return await anext(stream)
