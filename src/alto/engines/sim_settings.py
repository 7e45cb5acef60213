"""The settings that every engine on simulated servers has, and the servers they make."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.policies import resolve
from ..core.rate import part_of
from ..errors import ConfigError
from ..settings import flag, number, whole
from .batch_options import BatchOptions
from .model import BatchingServer, Limits
from .profiles import profile
from .sim_encode import Encoder
from .sim_faults import Faults, FaultyReplica
from .sim_replica import DIMENSIONS, Respond, SimReplica
from .tokens import PIECE_LETTERS

if TYPE_CHECKING:
    from ..core.scheduling import Policy
    from .pool import Pool
    from .protocol import Replica

T = TypeVar("T")


def from_table(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """A settings object from a table of a configuration file."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} is {table!r}, expected a table of keys and values.")
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    for name in table:
        if name not in known:
            raise ConfigError(f"{where}: {name!r} is unknown, expected any of {', '.join(known)}")
    return kind(**table)


@dataclass(frozen=True, kw_only=True)
class ServerSettings(BatchOptions, ABC):
    """Simulated LM servers, with vLLM's defaults.

    - `profile`: a model on a GPU (`alto.engines.profiles.profiles()` lists them);
      `replicas`: how many servers; `policy`: how the pool places calls; `seed`: for lots.
    - `max_num_seqs`: sequences in a batch; `prefill_chunk`: tokens of one step, prompts and
      decoding together (`max_num_batched_tokens`).
    - `block_tokens`, `kv_tokens`: block size and capacity of the KV cache (None: what the profile's
      GPU has room for); `prefix_caching`.
    - `host_overhead`: add the scheduling time of a 2023-24 engine to every step.
    - `speed`: how many times as fast as the profile; a sequence gives one number a replica.
    - `faults`: how often calls are refused, break off or stall (`Faults`), drawn by `seed`.
    - `requests_per_minute`, `tokens_per_minute`: what the pool sends at most (None: no limit).
    - `hedge_s`: try a second server beside one that is silent for so many seconds (None: never);
      `resume`: go on elsewhere with a text that breaks off; off, that is an error.
    - `token_letters`: letters that a token holds at most; 7 makes 4.4 characters a token of
      English.
    - `dimensions`: the length of made-up vectors. `embed_batch`, `embed_tokens`, `embed_max_wait`
      and `rerank_batch` are those of `BatchOptions`.
    """

    profile: str = "llama-3-8b_h100_tp1"
    replicas: int = 1
    policy: str | Policy = "prompt-aware"
    seed: int = 0
    max_num_seqs: int = 256
    prefill_chunk: int = 2048
    block_tokens: int = 16
    kv_tokens: int | None = None
    prefix_caching: bool = True
    host_overhead: bool = False
    speed: float | Sequence[float] = 1.0
    token_letters: int = PIECE_LETTERS
    faults: Faults | Mapping[str, float] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    hedge_s: float | None = None
    resume: bool = True
    dimensions: int = DIMENSIONS

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = type(self).__name__
        profile(self.profile)
        if isinstance(self.faults, Mapping):
            object.__setattr__(self, "faults", from_table(Faults, self.faults, f"{kind}(faults)"))
        if not isinstance(self.faults, Faults | None):
            raise ConfigError(f"{kind}: faults is {self.faults!r}, expected Faults(...).")
        counts = ("replicas", "max_num_seqs", "prefill_chunk", "block_tokens", "token_letters")
        for name in (*counts, "dimensions"):
            whole(f"{kind}: {name}", getattr(self, name), 1)
        whole(f"{kind}: seed", self.seed, None)
        if self.hedge_s is not None:
            number(f"{kind}: hedge_s", self.hedge_s)
        for name in ("prefix_caching", "host_overhead", "resume"):
            flag(f"{kind}: {name}", getattr(self, name))
        resolve(self.policy)
        for name in ("requests_per_minute", "tokens_per_minute"):
            if getattr(self, name) is not None:
                whole(f"{kind}: {name}", getattr(self, name), 1)
        if self.prefill_chunk < self.max_num_seqs:
            raise ConfigError(
                f"{kind}(prefill_chunk={self.prefill_chunk}, max_num_seqs={self.max_num_seqs}): "
                "every sequence of a batch needs a token of the step, so prefill_chunk must be at "
                "least max_num_seqs; raise the one or lower the other"
            )
        speeds = self._speeds()
        if len(speeds) != self.replicas or not all(speed > 0 for speed in speeds):
            raise ConfigError(
                f"{kind}(speed={self.speed!r}, replicas={self.replicas}): expected one positive "
                "number, or a sequence with one for each replica"
            )
        if self.kv_tokens is not None:
            # At least one block.
            whole(f"{kind}: kv_tokens", self.kv_tokens, self.block_tokens)

    def open(self, name: str) -> Pool:
        """The live pool, under the name that stages use."""
        return self.pool(name, self.open_replicas(name))

    def pool(self, name: str, replicas: Sequence[Replica], place: int = 0, of: int = 1) -> Pool:
        """A pool before open replicas: at `place`, from 0, of so many that share them. They draw
        different lots, and each has its part of the limits per minute.
        """
        from .pool import Pool

        return Pool(
            name,
            replicas,
            policy=self.policy,
            seed=self.seed + place,
            continue_final_message=True,
            hedge_s=self.hedge_s,
            resume=self.resume,
            requests_per_minute=part_of(self.requests_per_minute, place, of),
            tokens_per_minute=part_of(self.tokens_per_minute, place, of),
            batches=self,
        )

    def open_replicas(self, name: str) -> list[SimReplica]:
        """The servers alone, without a pool before them."""
        writer, encoder = self.writer(name), self.encoder(name)
        return [self._replica(name, at, writer, encoder) for at in range(self.replicas)]

    @abstractmethod
    def writer(self, name: str) -> Respond:
        """What writes the answers of the engine of that name."""

    def encoder(self, name: str) -> Encoder:
        """What embeds and scores for the engine of that name."""
        return Encoder(self.dimensions)

    def _replica(self, engine: str, at: int, writer: Respond, encoder: Encoder) -> SimReplica:
        name, piece = f"{engine}/{at}", self.token_letters
        server = self._server(self._speeds()[at])
        if not isinstance(self.faults, Faults):
            return SimReplica(name, server, writer, piece=piece, encoder=encoder)
        luck = random.Random(f"{self.seed} {name}")
        return FaultyReplica(name, server, writer, self.faults, luck, piece=piece, encoder=encoder)

    def _speeds(self) -> Sequence[float]:
        given = self.speed if isinstance(self.speed, list | tuple) else [self.speed] * self.replicas
        numbers = [each for each in given if isinstance(each, int | float)]
        return [float(each) for each in numbers if not isinstance(each, bool)]

    def _server(self, speed: float) -> BatchingServer:
        chosen = profile(self.profile)
        tokens = self.kv_tokens if self.kv_tokens is not None else chosen.kv_capacity_tokens
        return BatchingServer(
            chosen.step_costs(host_overhead=self.host_overhead, speed=speed),
            Limits(
                kv_blocks=tokens // self.block_tokens,
                block_tokens=self.block_tokens,
                sequences_max=self.max_num_seqs,
                tokens_per_step_max=self.prefill_chunk,
                sharing=self.prefix_caching,
            ),
        )
