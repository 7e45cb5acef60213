"""Who is compared: the same pipeline, the same servers, another way to run them.

    deployed   a barrier after every stage; each LM stage has replicas of its own
    pooled     a barrier after every stage; all replicas serve all stages
    alto       streaming, all replicas serve all stages, prompt-aware; and with a mechanism off

Within a stage every contender runs all calls of a request side by side. The contenders without
ALTO's scheduler send a call on at once, to the next replica in turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from alto import Call, Config, Delta, Simulated
from alto.core.policies.prompt_aware import PromptAware
from alto.core.replicas import Limits
from alto.core.scheduling import Candidate, Facts, Policy
from alto.engines.asked import Asked, Whole, ended
from alto.engines.keeper import Keeper
from alto.engines.keeping import Kept
from alto.engines.pool import Pool
from alto.engines.protocol import Engine, Replica, Take

from .settings import TABLE

NO_WAITING = Limits(sequences_start=1 << 20, sequences_max=1 << 20, prefill_wait_s=1e9)
"""A pool that sends every call on at once: its replicas never count as full."""


class Unweighted(PromptAware):
    """`prompt-aware` that does not ask how much a request waits for a call."""

    def choose(
        self, candidates: Sequence[Candidate], facts: Facts, now: float, random: Random
    ) -> int:
        alike = [replace(one, weight=float(one.sequences)) for one in candidates]
        return super().choose(alike, replace(facts, weight=1.0), now, random)


@dataclass(slots=True)
class Span:
    """One LM call: seconds of virtual time."""

    request: str
    stage: str
    path: tuple[int, ...]
    asked: float
    begun: float = 0.0
    """When the first piece of text came."""
    ended: float = 0.0


class Logged(Pool):
    """A pool that writes down when each call was asked, began to answer, and ended."""

    log: list[Span] | None = None

    def ask(self, call: Call, take: Take, keeper: Keeper) -> Asked:
        return Whole(self._logged(call, take))

    async def _logged(self, call: Call, take: Take) -> None:
        assert self.log is not None
        now = asyncio.get_running_loop().time
        span = Span(call.request, call.stage, call.path, now())
        self.log.append(span)

        def seen(delta: Delta) -> bool | Awaitable[bool]:
            span.begun = span.begun or now()
            return take(delta)

        kept = Kept(seen)
        await ended(super().ask(call, kept.take, kept.keeper))
        span.ended = now()


@dataclass(frozen=True, slots=True)
class Servers:
    """Simulated servers behind a pool with limits of its own."""

    spec: Simulated
    policy: str | Policy
    limits: Limits | None
    log: list[Span] | None = None

    def open(self, name: str) -> Engine:
        return self.pool(name, self.open_replicas(name))

    def open_replicas(self, name: str) -> Sequence[Replica]:
        return self.spec.open_replicas(name)

    def pool(self, name: str, replicas: Sequence[Replica], place: int = 0, of: int = 1) -> Pool:
        pool = Logged if self.log is not None else Pool
        opened = pool(
            name,
            replicas,
            policy=self.policy,
            seed=self.spec.seed + place,
            limits=self.limits,
            continue_final_message=True,
        )
        if isinstance(opened, Logged):
            opened.log = self.log
        return opened


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to run a pipeline. `split` gives each LM stage replicas of its own."""

    name: str
    streaming: bool = True
    policy: str | Policy = "prompt-aware"
    late: bool = True
    """Calls wait in the pool until a replica has room."""
    split: Mapping[str, int] = field(default_factory=dict)

    def engines(self, stages: tuple[str, ...]) -> dict[str, str]:
        """The engine of each LM stage."""
        return {stage: stage if self.split else "chat" for stage in stages}

    def config(
        self, respond: Any, engine: Mapping[str, Any], log: list[Span] | None = None
    ) -> Config:
        """Its servers. With a `log` every call is written down in it."""
        sizes = self.split or {"chat": engine["replicas"]}
        spec = Simulated(**{**engine, "respond": respond, "replicas": 1})
        limits = None if self.late else NO_WAITING
        return Config(
            engines={
                name: Servers(replace(spec, replicas=count), self.policy, limits, log)
                for name, count in sizes.items()
            }
        )


ALTO = Contender("alto")
POOLED = Contender("pooled", streaming=False, policy="round-robin", late=False)
ABLATIONS = (
    Contender("alto, no streaming", streaming=False),
    Contender("alto, all calls weigh the same", policy=Unweighted()),
    Contender("alto, round-robin", policy="round-robin"),
    Contender("alto, least-outstanding", policy="least-outstanding"),
    Contender("alto, prefix-affinity", policy="prefix-affinity"),
    Contender("alto, calls sent on at once", late=False),
)


def deployed(split: Mapping[str, int], name: str = "deployed") -> Contender:
    """The deployment with so many replicas for each stage."""
    return Contender(name, streaming=False, policy="round-robin", late=False, split=split)


def equal_split(stages: tuple[str, ...], replicas: int) -> dict[str, int]:
    """As equal as can be; what is over goes to the first stages in the order of the pipeline."""
    each, over = divmod(replicas, len(stages))
    return {stage: each + (at < over) for at, stage in enumerate(stages)}


ENGINE: dict[str, Any] = TABLE["engine"]
