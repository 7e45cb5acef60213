"""Who was at work when: noted at the two places where the demo stands anyway.

Language models are watched at their engine, whose every call says its stage and path. A stage that
takes a millisecond is known by the moment its item arrives. Times are of the running loop, from
when `begin` was called.

Always true:
    W1  a watched engine gives exactly the deltas of the engine behind it, one by one
    W2  a call that was closed, cancelled or failed has a span too, up to its end
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from ..core.calls import Call, Delta
from ..engines.protocol import Engine, EngineSpec
from .timeline import Span


class Watch:
    """The spans of one request, in the order of their ends."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._began: float | None = None

    def begin(self) -> None:
        """The request starts now, inside the running loop; what was before does not count."""
        self.spans.clear()
        self._began = asyncio.get_running_loop().time()

    def now(self) -> float:
        """Seconds since the request began; 0 before."""
        if self._began is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._began

    def note(self, stage: str, path: tuple[int, ...], start: float | None = None) -> None:
        """An invocation that began at `start`, or just before now, has ended now."""
        end = self.now()
        self.spans.append(Span(stage, path, end if start is None else start, end))

    def engine(self, spec: EngineSpec) -> EngineSpec:
        """The same engine, watched."""
        return _WatchedSpec(spec, self)


@dataclass(frozen=True)
class _WatchedSpec:
    spec: EngineSpec
    watch: Watch

    def open(self, name: str) -> Engine:
        return _WatchedEngine(self.spec.open(name), self.watch)


class _WatchedEngine:
    def __init__(self, engine: Engine, watch: Watch) -> None:
        self.name = engine.name
        self._engine = engine
        self._watch = watch

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        start = self._watch.now()
        try:
            async with aclosing(self._engine.stream(call)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self._watch.note(call.stage, call.path, start)

    async def aclose(self) -> None:
        await self._engine.aclose()
