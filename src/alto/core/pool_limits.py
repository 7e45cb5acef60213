"""Every limit of a pool, by name. `alto.core.replicas.Limits` is the name to import it by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every limit of a pool, by name."""

    waiting_max: int = 10_000
    """Calls that wait; one more is refused with `Overloaded`."""
    sequences_start: int = 64
    """Calls on one replica at once, until more is known."""
    sequences_max: int = 512
    """Calls on one replica at once, whatever is measured."""
    prefill_wait_s: float = 0.25
    """Prompt tokens on their way to one replica: as many as it reads in this time,"""
    prefill_tokens_min: int = 2048
    """but at least so many."""
    cache_tokens: int = 200_000
    """What one replica's prefix cache is thought to hold, until more is known."""
    tries_max: int = 3
    """Replicas that a call is tried on before it fails (more while some are yet untried)."""
    busy_max: int = 30
    """How often one call may be turned away as too many before it fails."""
    busy_wait_max_s: float = 120.0
    """How long a call waits for servers that turn it away; if they ask for more, it fails."""
    hold_max_s: float = 300.0
    """A server that asks to be left alone for longer is asked again after this time."""
    resumes_max: int = 8
    """How often one text may break and be resumed."""
    retry_s: float = 0.1
    """Pause before a replica is tried a second time with one call; doubles."""
    failures_max: int = 3
    """Failures in a row after which a replica is left alone for a while:"""
    open_s: float = 1.0
    """for so long the first time; doubles each time up to"""
    open_s_max: float = 30.0
    """this."""
    dark_s: float = 10.0
    """How long calls wait for any replica to come back when all are open."""
    patience_s: float = 30.0
    """A request without a deadline is as urgent as one whose calls are due this long after it
    came. So calls without a deadline never starve behind those with one, nor the other way."""
    priority_s: float = 10.0
    """By so much earlier is a call due for each level of its priority. So it goes before those of
    the level below that came less than that before it, and nobody starves."""
    hedge_ratio_max: float = 0.1
    """At most this part of the calls under way, but at least one, runs twice (see `hedge_s`)."""
    home_wait_max_s: float = 10.0
    """How long a call waits at most for a replica with slots that knows its prompt (llama.cpp),
    while another would take it."""
    requests_remembered_max: int = 10_000
    """Requests whose age is kept."""
    peer_silence_s: float = 2.0
    """Another pool before the same replicas that says nothing for so long is thought dead."""
    peers_max: int = 64
    """Other pools that are heard; of more, the one heard of longest ago is forgotten."""
    prewarm_tokens_min: int = 512
    """A growing prompt is sent ahead when a replica would learn at least so many tokens of it,"""
    prewarm_pause_s: float = 0.1
    """and so long after the last time,"""
    prewarms_max: int = 64
    """for so many growing prompts at once. Of more, nothing is sent ahead."""
