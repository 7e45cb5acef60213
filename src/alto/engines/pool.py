"""Many replicas behind one engine name: the asyncio side of the pool.

A call waits here until it is told where to go, then this generator forwards what that replica
writes and does nothing else for each piece of text.

Always true:
    D1  a generator that is closed, cancelled or broken leaves nothing behind: no place in the
        queue, no stream open on a replica
    D2  nothing but `EngineError`, `DeadlineExceeded`, `Overloaded` and cancellation leaves it
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from ..core.calls import Call, Delta
from .protocol import Replica


class Pool:
    """An `Engine` made of several replicas."""

    def __init__(
        self,
        name: str,
        replicas: Sequence[Replica],
        *,
        policy: str = "prompt-aware",
        seed: int = 0,
    ) -> None:
        self.name = name
        self.replicas = tuple(replicas)
        self._outstanding = [0] * len(self.replicas)

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        """Answer one call on the replica with the fewest calls under way."""
        index = min(range(len(self.replicas)), key=self._outstanding.__getitem__)
        self._outstanding[index] += 1
        inner = self.replicas[index].stream(call)
        try:
            async for delta in inner:
                yield delta
        finally:
            self._outstanding[index] -= 1
            await inner.aclose()

    async def aclose(self) -> None:
        """Close every replica."""
        for replica in self.replicas:
            await replica.aclose()
