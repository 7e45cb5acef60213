"""What one step of a batching LM server costs, from measured GPU times.

A profile is a model on a GPU. One *step* of continuous batching computes `prefill` prompt tokens
and one token for each of `decoding` sequences. Its GPU time, in the form called two-slope, with
T = prefill + decoding, is

    c0 + c_low * min(T, t0) + c_high * max(0, T - t0)
       + c_decode * decoding + c_kv * kv_read + c_attn * pairs

Below t0 tokens the weights are being read anyway and further tokens are cheap; above it the step
is bound by arithmetic. `kv_read` is the sum of the context lengths of the decoding sequences and
`pairs` the query-key pairs of the prefill: q * (c + q/2) for q new tokens behind c known ones.
A server that schedules while the GPU idles adds host time: a constant and a part per sequence.

The coefficients come from `data/engine_profiles.json`; `data/README.md` says how they were
measured and fitted.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from ..errors import ConfigError

_MS = 1e-3


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Coefficients of the step time, all in seconds; `t0` in tokens."""

    c0: float
    c_low: float
    c_high: float
    t0: int
    c_decode: float
    c_kv: float
    c_attn: float
    host_base: float = 0.0
    host_per_seq: float = 0.0
    speed: float = 1.0
    """How many times as fast as the profile this replica runs."""

    def step(
        self, prefill: int, decoding: int, kv_read: int, pairs: float = 0.0, prompts: int = 0
    ) -> float:
        """Seconds of one step. `prompts` is the number of sequences that prefill in it."""
        tokens = prefill + decoding
        low = tokens if tokens < self.t0 else self.t0
        gpu = (
            self.c0
            + self.c_low * low
            + self.c_high * (tokens - low)
            + self.c_decode * decoding
            + self.c_kv * kv_read
            + self.c_attn * pairs
        )
        return (gpu + self.host_base + self.host_per_seq * (decoding + prompts)) / self.speed

    @property
    def per_kv_token(self) -> float:
        """Seconds by which a step grows for one more token of context that it reads."""
        return self.c_kv / self.speed


@dataclass(frozen=True, slots=True)
class Profile:
    """A model on a GPU: what a step costs and how many tokens its KV cache holds."""

    name: str
    model: str
    gpu: str
    kv_capacity_tokens: int
    costs: StepCosts
    host_base: float
    host_per_seq: float

    def step_costs(self, *, host_overhead: bool = False, speed: float = 1.0) -> StepCosts:
        """The costs of one replica of this profile, with or without host time, at a speed."""
        costs = self.costs
        return StepCosts(
            costs.c0,
            costs.c_low,
            costs.c_high,
            costs.t0,
            costs.c_decode,
            costs.c_kv,
            costs.c_attn,
            host_base=self.host_base if host_overhead else 0.0,
            host_per_seq=self.host_per_seq if host_overhead else 0.0,
            speed=speed,
        )


@lru_cache(maxsize=1)
def profiles() -> dict[str, Profile]:
    """Every profile that ships, by name."""
    package = __package__.rpartition(".")[0]
    text = resources.files(package).joinpath("data/engine_profiles.json").read_text("utf-8")
    return {name: _profile(name, row) for name, row in json.loads(text)["profiles"].items()}


def profile(name: str) -> Profile:
    """The profile of that name; a `ConfigError` names the nearest ones when there is none."""
    known = profiles()
    if not isinstance(name, str):
        raise ConfigError(f"engine profile is {name!r}, expected one of {', '.join(known)}.")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.3)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ConfigError(
            f"engine profile {name!r} does not exist: {hint}The profiles are: {', '.join(known)}."
        )
    return known[name]


def _profile(name: str, row: dict[str, str | int | float]) -> Profile:
    def ms(key: str) -> float:
        return float(row[key]) * _MS

    costs = StepCosts(
        c0=ms("c0_ms"),
        c_low=ms("c_low_ms"),
        c_high=ms("c_high_ms"),
        t0=int(row["t0_tokens"]),
        c_decode=ms("c_decode_ms"),
        c_kv=ms("c_kv_ms"),
        c_attn=ms("c_attn_ms"),
    )
    return Profile(
        name=name,
        model=str(row["model"]),
        gpu=str(row["gpu"]),
        kv_capacity_tokens=int(row["kv_capacity_tokens"]),
        costs=costs,
        host_base=ms("host_base_ms"),
        host_per_seq=ms("host_per_seq_ms"),
    )
