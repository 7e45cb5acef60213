"""Several orchestrators before the same simulated replicas, in one process and on one loop.

Each is a production `Runtime` with pools of its own. Nothing is shared but the replicas: what one
knows of the others is what they tell each other, a summary of each pool every `exchange_s` seconds,
which takes as many seconds on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from .config import Config
from .core.peers import Summary
from .core.rate import part_of
from .engines.pool import Pool
from .engines.protocol import Engine, EngineSpec, PooledSpec, Replica
from .errors import ConfigError
from .runtime.embedded import Runtime

STILL_S = 3600.0
"""When nothing has changed in an orchestrator's pools for so long, it tells nothing more: a program
that waits for what can never come is then found `Stuck`, not kept busy by summaries for ever."""


class Orchestrators:
    """So many runtimes, which an `async with` opens, and closes with the replicas they share."""

    def __init__(
        self, config: Config, count: int, exchange_s: float | None, options: Mapping[str, Any]
    ) -> None:
        self._opened: dict[str, Sequence[Replica]] = {}
        self._exchange_s = exchange_s
        self._stack = AsyncExitStack()
        if count == 1:
            self.runtimes = [Runtime(config, name="sim", **options)]
        else:
            self.runtimes = [
                Runtime(self._sharing(config, place, count), name=f"sim{place}", **options)
                for place in range(count)
            ]

    def replicas(self) -> dict[str, Sequence[Any]]:
        """The replicas of each engine that has been used, without those that lend them out."""
        if len(self.runtimes) > 1:
            return dict(self._opened)
        (runtime,) = self.runtimes
        return {name: getattr(each, "replicas", ()) for name, each in runtime.engines.items()}

    async def __aenter__(self) -> Orchestrators:
        self._stack.push_async_callback(self._close_replicas)
        for runtime in self.runtimes:
            await self._stack.enter_async_context(runtime)
        if len(self.runtimes) > 1 and self._exchange_s is not None:
            for place in range(len(self.runtimes)):
                telling = asyncio.create_task(self._tell(place, self._exchange_s))
                self._stack.push_async_callback(_stop, telling)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _close_replicas(self) -> None:
        for replicas in self._opened.values():
            for replica in replicas:
                await replica.aclose()

    def _sharing(self, config: Config, place: int, count: int) -> Config:
        engines: dict[str, EngineSpec] = {}
        for name, spec in config.engines.items():
            if not isinstance(spec, PooledSpec):
                raise ConfigError(
                    f"engine {name}: {type(spec).__name__} cannot be shared by several "
                    "orchestrators. Expected alto.Simulated, alto.Recorded, or a class with "
                    "open_replicas(name) and pool(name, replicas, place, of)."
                )
            for limit in ("requests_per_minute", "tokens_per_minute"):
                try:
                    part_of(getattr(spec, limit, None), place, count)
                except ConfigError as error:
                    raise ConfigError(f"engine {name}: {limit}: {error}") from None
            engines[name] = _Sharing(spec, place, count, self._opened)
        return replace(config, engines=engines)

    async def _tell(self, place: int, interval: float) -> None:
        """Tell the others what this one has, again and again; not all at the same moment."""
        loop = asyncio.get_running_loop()
        others = [each for each in self.runtimes if each is not self.runtimes[place]]
        await asyncio.sleep(interval * place / len(self.runtimes))
        said: dict[str, Any] = {}
        still_since = loop.time()
        while loop.time() < still_since + STILL_S:
            for name, pool in self.runtimes[place].engines.items():
                if isinstance(pool, Pool):
                    summary = pool.summary()
                    if said.get(name) != (summary.demand, summary.replicas):
                        said[name] = (summary.demand, summary.replicas)
                        still_since = loop.time()
                    for other in others:
                        loop.call_later(interval, _deliver, other, name, str(place), summary)
            await asyncio.sleep(interval)


def _deliver(runtime: Runtime, engine: str, peer: str, summary: Summary) -> None:
    pool = runtime.engines.get(engine)
    if isinstance(pool, Pool):
        pool.hear(peer, summary)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Sharing:
    """The engine of one orchestrator: a pool of its own before replicas opened once for all."""

    spec: PooledSpec
    place: int
    of: int
    opened: dict[str, Sequence[Replica]]

    def open(self, name: str) -> Engine:
        if name not in self.opened:
            self.opened[name] = self.spec.open_replicas(name)
        lent = [_Lent(each) for each in self.opened[name]]
        return self.spec.pool(name, lent, self.place, self.of)


class _Lent:
    """A replica that a pool may use but not close."""

    def __init__(self, replica: Replica) -> None:
        self.name = replica.name
        self.stream = replica.stream
        self._replica = replica

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)

    async def aclose(self) -> None:
        """It goes on for the others, and is closed when all have gone."""
