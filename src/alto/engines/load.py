"""How a pool and its replicas stand, as plain values: for dashboards, metrics and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..core.prefix import PrefixIndex
from ..core.replicas import ReplicaState

State = Literal["well", "held", "open", "probing"]
"""`well`: it takes calls. `held`: it said that it is too busy, and is left alone until then.
`open`: it failed too often, and is left alone for a while. `probing`: that while is over, and one
call finds out, or will."""


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """One replica, as its pool sees it. Totals are since the engine was opened."""

    sequences: int
    """Calls of this pool that run there."""
    sequences_limit: int
    """So many may, as things stand: learned, or told by the server."""
    prefill_tokens: int
    """Prompt tokens sent there, not in its cache, of calls that have not begun to answer."""
    healthy: bool
    """It has not failed so often that it is left alone."""
    last_error: str
    others: int = 0
    """Calls of others that run there, as far as servers and other pools told."""
    state: State = "well"
    retry_in_s: float = 0.0
    """How long it is still left alone."""
    prefill_token_s: float = 0.0
    """Seconds it takes to read a prompt token that is not in its cache: learned."""
    step_s: float = 0.0
    """Seconds to each token of an answer, with the calls that run there now: learned."""
    slowness: float = 1.0
    """Its times as a multiple of what is usual in the pool."""
    hit_ratio: float | None = None
    """The part of all prompt tokens that it found in its cache, by its own account. None: it gives
    none."""
    hit_ratio_expected: float | None = None
    """What the pool expected of that when it sent the calls."""
    cache_tokens: int | None = None
    """What its cache is thought to keep. None if it has slots."""
    slots: int | None = None
    """It keeps one prompt in each of so many slots (llama.cpp)."""
    sent: int = 0
    """Calls that were sent there."""
    failed: int = 0
    """Of these, calls that failed or broke off and that another try may help."""
    turned_away: int = 0
    """Of these, calls that it refused as too many."""


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """One pool. Totals are since the engine was opened."""

    waiting: int
    """Calls that wait for a replica to have room."""
    refused: Mapping[str, int]
    """Calls that ended with an error, by its class: `Overloaded`, `DeadlineExceeded`,
    `EngineError`."""
    hedged: int
    """Calls that were sent to a second replica because the first was silent."""
    resumed: int
    """Texts that broke off and were gone on with."""


def load_of_replica(replica: ReplicaState, tokens_per_byte: float, now: float) -> ReplicaLoad:
    """One replica at this time."""
    cache = replica.cache
    index = cache.index
    bytes_max = index.bytes_max if isinstance(index, PrefixIndex) else None
    state, until = _state(replica, now)
    return ReplicaLoad(
        sequences=replica.sequences,
        sequences_limit=int(replica.sequences_limit),
        prefill_tokens=round(replica.prefill_tokens),
        healthy=replica.open_until is None,
        last_error=replica.last_error,
        others=replica.others + round(replica.peers.sequences),
        state=state,
        retry_in_s=max(0.0, until - now),
        prefill_token_s=replica.prefill_s,
        step_s=replica.step_s(max(1, replica.sequences + replica.others)),
        slowness=replica.slowness.value,
        hit_ratio=cache.hit_ratio,
        hit_ratio_expected=cache.hit_ratio_expected,
        cache_tokens=None if bytes_max is None else round(bytes_max * tokens_per_byte),
        slots=cache.slots,
        sent=replica.sent_total,
        failed=replica.failed_total,
        turned_away=replica.turned_away_total,
    )


def _state(replica: ReplicaState, now: float) -> tuple[State, float]:
    """What it is, and until when."""
    if replica.open_until is not None:
        return ("open" if now < replica.open_until else "probing"), replica.open_until
    if now < replica.hold_until:
        return "held", replica.hold_until
    return "well", now
