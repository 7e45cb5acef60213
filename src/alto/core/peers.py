"""What pools before the same replicas tell each other, and what one makes of it.

Several orchestrators may schedule onto the same replicas. There is no lock and no leader: each
pool tells the others now and then what it has on each replica (`Peers.summary`), and adds what it
hears to its own books. Its own calls it knows to the moment; of the others' it knows what was
true a while ago.

Stale numbers do harm if they are taken at their word: a replica that looks idle looks so to all,
and all send there until the next summaries say that it is swamped. So of a change that a peer tells
only a part is believed at a time, 1 / n among n pools: each of them does its n-th part to set a
balance right, and together they set it right once. Believed at once, summaries are worse than none.

*Room* on a replica is for all: own calls and the others' count against its limits. But a pool may
always use the part of a limit that is its own by its demand. Else one that is never without waiting
calls would take each place that comes free before a pool that has few calls hears of it.

Always true:
    E1  what a peer said counts until it says something newer, leaves, or is silent for longer than
        `peer_silence_s`; then nothing of it is left
    E2  nothing that a peer says makes a number here negative, endless or not a number
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .peer_load import BLOCKS_TOLD_MAX, PeerLoad
from .prefix import is_chain

if TYPE_CHECKING:
    from .pool_events import Heard
    from .replicas import Limits, ReplicaState

NUMBER_MAX = 1e9
"""No pool has more than this of anything; a peer that says so is not believed."""


@dataclass(frozen=True, slots=True)
class ReplicaSummary:
    """What one pool has on one replica."""

    name: str
    sequences: int
    """Calls under way."""
    weight: float
    """The sum of their weights (`Facts.weight`)."""
    prefill_tokens: float
    """Prompt tokens of those that have not begun to answer."""
    read_tokens: float
    """Prompt tokens read there for this pool since it started."""
    prompts: tuple[tuple[int, ...], ...] = ()
    """The prompts sent there since the last summary, as chains of block hashes, oldest first."""
    cache_bytes: float = 0.0
    """What its cache is now believed to keep, in bytes of prompts, if since the last summary this
    pool did not find there what it believed to be there; else 0."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What one pool tells the others. Plain values, so that any codec can carry it."""

    number: int
    """Counts the summaries of this pool. One that comes after a newer one is dropped."""
    demand: int
    """Its calls that are not gone: under way and waiting."""
    replicas: tuple[ReplicaSummary, ...]


@dataclass(slots=True)
class _Peer:
    number: int
    demand: float
    heard_at: float
    load: dict[str, PeerLoad] = field(default_factory=dict)
    read_tokens: dict[str, float] = field(default_factory=dict)


class Peers:
    """The other pools before the replicas of one, as they were when last heard of."""

    def __init__(self, replicas: Sequence[ReplicaState], limits: Limits, calls: Sized) -> None:
        """`calls`: those of this pool that are not gone."""
        self._calls = calls
        self._summaries = 0
        self._replicas = {replica.name: replica for replica in replicas}
        self._limits = limits
        self._peers: dict[str, _Peer] = {}
        """The one heard of longest ago first."""

    @property
    def silent_at(self) -> float | None:
        """When the next of them will have been silent for too long; None without peers."""
        for peer in self._peers.values():
            return peer.heard_at + self._limits.peer_silence_s
        return None

    def summary(self) -> Summary:
        """What the others should know of this pool now: told to all of them, each time anew, as it
        begins where the last one ended."""
        self._summaries += 1
        said = tuple(replica.summary() for replica in self._replicas.values())
        return Summary(self._summaries, len(self._calls), said)

    def heard(self, event: Heard, now: float) -> None:
        """A peer said something, or has left."""
        name, summary = event.peer, event.summary
        peer = self._peers.get(name)
        if peer is not None and summary is not None and summary.number <= peer.number:
            return
        self._peers.pop(name, None)
        if summary is not None:
            if len(self._peers) >= self._limits.peers_max:
                del self._peers[next(iter(self._peers))]
            part = 1.0 / (len(self._peers) + 2)
            self._peers[name] = self._updated(peer, summary, part, now)
        self._count(now)

    def forget_silent(self, now: float) -> None:
        """Drop peers that have been silent for too long: they died, and their calls with them."""
        before = len(self._peers)
        while (at := self.silent_at) is not None and at <= now:
            del self._peers[next(iter(self._peers))]
        if len(self._peers) < before:
            self._count(now)

    def _updated(self, peer: _Peer | None, summary: Summary, part: float, now: float) -> _Peer:
        if peer is None:  # nothing was believed yet that could be believed in part
            peer, part = _Peer(0, 0.0, 0.0), 1.0
        peer.number, peer.demand, peer.heard_at = summary.number, _sane(summary.demand), now
        for told in summary.replicas:
            replica = self._replicas.get(told.name)
            if replica is None:
                continue
            load = peer.load.setdefault(told.name, PeerLoad())
            load.approach(
                _sane(told.sequences), _sane(told.weight), _sane(told.prefill_tokens), part
            )
            read = _sane(told.read_tokens)
            replica.read_for_others(max(0.0, read - peer.read_tokens.get(told.name, read)))
            peer.read_tokens[told.name] = read
            replica.cache.heard_lowered(_sane(told.cache_bytes), now)
            for blocks in told.prompts[:BLOCKS_TOLD_MAX]:
                if is_chain(blocks):
                    replica.cache.heard(blocks)
        return peer

    def _count(self, now: float) -> None:
        """Give each replica the sum of what the peers have there."""
        own = 1.0 + len(self._calls)
        share = own / (own + sum(one.demand for one in self._peers.values()))
        for name, replica in self._replicas.items():
            total = PeerLoad()
            for peer in self._peers.values():
                if (load := peer.load.get(name)) is not None:
                    total.add(load)
            replica.heard(total, share, now)


def _sane(value: float) -> float:
    """A number of something, whatever was said. (NaN is not above 0.)"""
    return min(value, NUMBER_MAX) if value > 0 else 0.0
