"""Streams of a pool's replicas: begun in a race, or gone on with in the middle of a text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from ..core.calls import Delta
from ..core.resume import EchoFilter
from ..core.scheduling import ReplicaId


@dataclass(slots=True)
class Opened:
    """A stream whose first piece of text is there."""

    replica: ReplicaId
    inner: AsyncGenerator[Delta, None]
    first: Delta


async def stop(legs: Sequence[asyncio.Task[Opened | None]]) -> None:
    """Close what lost a race, and what had won it when its reader went away."""
    for leg in legs:
        leg.cancel()
    for result in await asyncio.gather(*legs, return_exceptions=True):
        if isinstance(result, Opened):
            await result.inner.aclose()


async def again(opened: Opened) -> AsyncGenerator[Delta, None]:
    """All of a stream whose first piece was read ahead."""
    async with aclosing(opened.inner):
        yield opened.first
        async for delta in opened.inner:
            yield delta


async def without_echo(
    inner: AsyncGenerator[Delta, None], text: str
) -> AsyncGenerator[Delta, None]:
    """The rest of a text, from an engine that may repeat its beginning."""
    echo = EchoFilter(text)
    async with aclosing(inner):
        async for delta in inner:
            for new in echo.feed(delta):
                yield new
