"""Prompts that are still growing: when are the parts so far worth sending ahead?

A prompt may become known in parts. An engine that reads those parts while the others are missing
has them in its prefix cache when the call comes, and has only the rest to read before the first
word. It reads nothing twice; it reads earlier. So a *prewarm*, a call for one token, is sent where
the time is there:

- no call waits in the pool, and the replica has no other prompt to read;
- the calls that write there are waited for no more than this one (the sum of their weights is at
  most its own): the reading holds them up for as long as it will save;
- at least `prewarm_tokens_min` tokens have come that the replica does not know;
- none is under way for this call, and the last was sent `prewarm_pause_s` ago or more.

The first goes where the policy would send the call; the others of the same call follow it, and so
does the call, if there is room and the replica is not swamped. Else the policy chooses. When a call
finds no replica with room, all prewarms under way are dropped to make it (what has been read by
then stays in the caches).

What all calls of a stage begin with is known before there is any (`alone`): it is sent once, in the
same way, so on a cold pool the templates are dealt over the replicas while the first calls run.

Always true:
    W1  a growing call has at most one prewarm under way, which ends with Warmed, or is dropped, or
        ends with its call being Submitted or Left
    W2  nothing that befalls a prewarm ends its call, or counts against a replica's health; a
        replica where one failed is the last that its own call is tried on
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .cost import Need
from .flights import Growing, Requests
from .learning import Texts, believable
from .pool_events import Drop, Grew, Warm, Warmed
from .replicas import Limits, ReplicaState, Try
from .scheduling import CallId, ReplicaId

SWAMPED_RATIO = 1.5
"""A call follows its prompt unless that replica has more than so many times the calls of the least
busy one,"""
SWAMPED_CALLS = 4
"""and more than so many above it."""

Choose = Callable[[Sequence[int], Need, list[ReplicaState], float], tuple[ReplicaState, float]]
"""Blocks, need, replicas, now: which one, and how many tokens it has. May raise."""


@dataclass(slots=True)
class Prewarming:
    """The growing calls of one pool, and what it needs of that pool. `choose` asks the policy.
    Without `allowed` nothing is sent ahead: where each token counts none is sent twice."""

    replicas: Sequence[ReplicaState]
    limits: Limits
    texts: Texts
    requests: Requests
    choose: Choose
    allowed: bool
    calls: dict[CallId, Growing] = field(default_factory=dict)
    pending: dict[CallId, Growing] = field(default_factory=dict)
    """Those that have grown since it was last decided about them, in the order of their coming."""

    def grew(self, event: Grew, now: float) -> None:
        """More of a prompt is known."""
        growing = self.calls.get(event.call)
        if growing is not None:
            growing.told = event
        elif self.allowed and len(self.calls) < self.limits.prewarms_max:
            growing = self.calls[event.call] = Growing(event)
        else:
            return
        self.pending[event.call] = growing

    def send(self, now: float) -> list[Warm]:
        """Send ahead what is worth it. Call this when no call waits."""
        actions: list[Warm] = []
        for growing in list(self.pending.values()):
            idle = [one for one in self.replicas if one.has_nothing_to_read(now)]
            if not idle:
                break
            if growing.sent is None and growing.next_at <= now:
                actions += self._consider(growing, idle, now)
        return actions

    def warmed(self, event: Warmed, now: float) -> None:
        """A prewarm ended."""
        growing = self.calls.get(event.call)
        sent = growing.sent if growing is not None else None
        if growing is None or sent is None or sent.replica != event.replica:
            return
        replica, usage = self.replicas[event.replica], believable(event.usage, growing.size)
        if event.failed:
            growing.failed |= 1 << event.replica
            growing.home = None
        else:
            growing.known = growing.size
            replica.warmed(sent, usage, now)
            if usage is not None:
                self.texts.told(usage, growing.size, 0)
                per_byte = self.texts.tokens_per_byte.value
                replica.cache.answered(sent.promised_bytes, usage, per_byte, sent.sent_at, now)
        self._end(growing, now)
        if growing.told.alone:
            del self.calls[event.call]

    def taken(self, call: CallId, now: float) -> Growing | None:
        """The call is submitted, or is gone: it grows no more."""
        growing = self.calls.pop(call, None)
        if growing is not None:
            self.pending.pop(call, None)
            self._end(growing, now)
        return growing

    def drop(self, now: float) -> list[Drop]:
        """Calls wait: stop every prewarm that is under way."""
        dropped: list[Drop] = []
        for growing in list(self.calls.values()):
            if growing.sent is not None:
                dropped.append(Drop(growing.told.call, growing.sent.replica))
                self._end(growing, now)
                if growing.told.alone:  # the calls are here: they read it themselves
                    del self.calls[growing.told.call]
        return dropped

    def wake_at(self, now: float) -> float | None:
        """When time alone lets another one go; None: only an event can."""
        times = [one.next_at for one in self.pending.values() if one.next_at > now]
        return min(times, default=None)

    def under_way(self) -> list[Try]:
        """Every prewarm that has not ended."""
        return [one.sent for one in self.calls.values() if one.sent is not None]

    def _end(self, growing: Growing, now: float) -> None:
        if growing.sent is not None:
            self.replicas[growing.sent.replica].leave(growing.sent, now)
            growing.sent = None

    def _consider(self, growing: Growing, idle: list[ReplicaState], now: float) -> list[Warm]:
        told = growing.told
        if growing.home is not None and self.replicas[growing.home].open_until is not None:
            growing.home = None  # it broke meanwhile: begin again elsewhere
        if growing.home is not None:
            idle = [one for one in idle if one.replica == growing.home]
        else:
            idle = [one for one in idle if not growing.failed >> one.replica & 1]
        need = self._need(told, now)
        idle = [one for one in idle if one.weight + one.others <= need.weight]
        if not idle:
            return []
        del self.pending[told.call]
        actions = self._warm(growing, need, idle, now)
        if not actions and told.alone:
            del self.calls[told.call]
        return actions

    def _warm(
        self, growing: Growing, need: Need, idle: list[ReplicaState], now: float
    ) -> list[Warm]:
        """Let one of these replicas read, if that teaches it enough."""
        told = growing.told
        try:
            replica, cached = self.choose(told.prompt.blocks, need, idle, now)
        except Exception:
            return []  # the call itself will tell
        per_byte = self.texts.tokens_per_byte.value
        if growing.home is not None:
            cached = max(cached, growing.known * per_byte)
        if need.prompt_tokens - cached < self.limits.prewarm_tokens_min:
            return []
        need.weight = 0.0  # nobody waits for it
        growing.sent = replica.send(told.prompt.blocks, need, cached, per_byte, now)
        growing.home, growing.size = replica.replica, told.prompt.size
        growing.next_at = now + self.limits.prewarm_pause_s
        return [Warm(told.call, replica.replica)]

    def _need(self, told: Grew, now: float) -> Need:
        """The call, as far as it is known."""
        return Need(
            told.stage,
            told.prompt.size * self.texts.tokens_per_byte.value,
            self.texts.expected_tokens(told.stage, told.max_tokens),
            told.deadline,
            now - self.requests.get(told.request, now).since,
            self.requests.weight_with(told.request, 1),
        )


def follow(home: ReplicaId, free: list[ReplicaState]) -> list[ReplicaState]:
    """Of replicas with room, the one where a call's prompt was sent ahead, unless it is swamped."""
    fewest = min(one.sequences + one.others for one in free)
    limit = max(fewest * SWAMPED_RATIO, fewest + SWAMPED_CALLS)
    for one in free:
        if one.replica == home and one.sequences + one.others <= limit:
            return [one]
    return free
