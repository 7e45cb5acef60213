"""Faults of simulated servers, drawn by a seed: for tests of what comes when servers misbehave.

Each call to a faulty replica draws its fate once. It may be refused before any text, break off
after some deltas, or fall silent for a while after some deltas and then go on. One that is answered
with numbers instead of text breaks off, or is silent, before its only delta. The same seed and the
same order of calls give the same faults.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from ..core.calls import Call, Delta
from ..core.encode import EncodeCall
from ..errors import ConfigError, EngineError
from ..settings import number, whole
from .model import BatchingServer
from .sim_encode import Encoder
from .sim_replica import Respond, SimReplica


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often, in parts of all calls, and how badly."""

    refuse: float = 0.0
    """Answered with `status` before any text."""
    status: int = 503
    break_off: float = 0.0
    """The stream ends with a retryable error after 1 to `deltas_max` deltas (if it is so long)."""
    stall: float = 0.0
    """The stream is silent for `stall_s` seconds after 1 to `deltas_max` deltas."""
    stall_s: float = 5.0
    deltas_max: int = 12

    def __post_init__(self) -> None:
        for name in ("refuse", "break_off", "stall", "stall_s"):
            number(f"Faults: {name}", getattr(self, name), zero=True)
        for name in ("status", "deltas_max"):
            whole(f"Faults: {name}", getattr(self, name), 1)
        if self.refuse + self.break_off + self.stall > 1:
            raise ConfigError(
                f"Faults(refuse={self.refuse}, break_off={self.break_off}, stall={self.stall}): "
                "expected parts of all calls, together at most 1"
            )


class FaultyReplica(SimReplica):
    """A simulated server with faults."""

    def __init__(
        self,
        name: str,
        server: BatchingServer,
        respond: Respond,
        faults: Faults,
        luck: random.Random,
        *,
        piece: int,
        encoder: Encoder | None = None,
    ) -> None:
        super().__init__(name, server, respond, piece=piece, encoder=encoder)
        self._faults = faults
        self._luck = luck

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        """As `SimReplica.stream`, if the call is lucky."""
        faults = self._faults
        fate = self._luck.random()
        after = self._luck.randint(1, faults.deltas_max)
        if fate < faults.refuse:
            raise EngineError(
                f"replica {self.name} answered with status {faults.status} (a simulated fault)",
                engine=self.name,
                status=faults.status,
            )
        breaks = fate < faults.refuse + faults.break_off
        stalls = not breaks and fate < faults.refuse + faults.break_off + faults.stall
        inner = super().stream(call)
        try:
            if isinstance(call, EncodeCall):
                await self._suffer(breaks, stalls)
            async for delta in inner:
                yield delta
                after -= 1
                if after == 0 and delta.finish_reason is None:
                    await self._suffer(breaks, stalls)
        finally:
            await inner.aclose()

    async def _suffer(self, breaks: bool, stalls: bool) -> None:
        if breaks:
            raise EngineError(
                f"replica {self.name} broke off in mid-answer (a simulated fault)",
                engine=self.name,
            )
        if stalls:
            await asyncio.sleep(self._faults.stall_s)
