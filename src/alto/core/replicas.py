"""What a pool knows of one replica: what runs there, how much fits, how fast it is, if it is well.

*Room.* Calls wait in the pool, not in an engine's queue, so a replica is given no more than it can
start on soon. Two limits say what that is. The tokens that wait to be read are limited to what it
reads in `prefill_wait_s` at its measured speed. The number of calls is limited by a number that
moves as TCP's window does: up while first tokens come about when expected, down by a quarter when
one comes far too late (then the engine had put the call into a queue of its own) or is refused
as too many.

*Speed.* Two lines are fitted for the whole pool, see `learning.py`: the time to the first piece of
text over the prompt tokens read until then, and the time for each further token over the calls
that ran along, less the reading of other prompts in the same time. What sets a replica apart is
one number, its slowness, taken from its writing alone. (Lines fitted for each replica were so
noisy that calls left their warm replicas for nothing.) A replica that has been idle for long is
believed to be ever less slower than the best: else one that was slow once would never be tried, and
so never be known to have recovered.

*Health.* After `failures_max` failures in a row a replica is open: it gets nothing for a while that
doubles each time. Then one call goes there as a probe, and its first piece of text closes the case.

Always true:
    R1  `sequences` counts the tries sent and not ended; `prefill_tokens` sums those not begun
    R2  an open replica has at most one probe under way
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from ..errors import EngineError
from .calls import Usage
from .cost import Need, Place
from .learning import Line, Mean
from .peer_load import PeerLoad, Told
from .peers import ReplicaSummary
from .pool_events import CacheFacts
from .pool_limits import Limits as Limits
from .prefix import matched_bytes
from .prompt_cache import PromptCache
from .rate import Reserved
from .scheduling import ReplicaId
from .slots import Slot

WARM_ROOM: Final = 4.0
"""How many times the room for prompts of a replica calls may use whose prompt it mostly knows,"""
WARM_CALLS: Final = 2.0
"""and how many times its room for calls."""
HOME_PATIENCE: Final = 4.0
"""How many times as long as its prompt takes to read a call waits for a replica with slots that
knows it. Read elsewhere, it costs that time itself, costs it again for the prompt that is pushed
out there, and holds up the two or so calls that write there meanwhile."""
BUSY_S: Final = 0.5
"""How long a replica is left alone that is too busy and does not say for how long."""
LATE_S: Final = 0.25
"""A first piece of text that comes within this time is not late, whatever was expected."""
STALE_S: Final = 30.0
"""Idle for longer, half of what makes a replica look slow is forgotten in each such time."""


class Try:
    """One sending of a call to one replica."""

    __slots__ = (
        "ahead_tokens",
        "area_at",
        "began_at",
        "probe",
        "promised_bytes",
        "prompt_tokens",
        "read_at",
        "replica",
        "reserved",
        "sent_at",
        "sequences",
        "slot",
        "uncached_tokens",
        "weight",
    )

    def __init__(
        self,
        replica: ReplicaId,
        sent_at: float,
        prompt_tokens: float,
        uncached_tokens: float,
        ahead_tokens: float,
        sequences: float,
        promised_bytes: float,
        probe: bool,
        weight: float,
    ) -> None:
        """`ahead_tokens` waited there to be read, and `sequences` calls ran there, before it."""
        self.replica = replica
        self.sent_at = sent_at
        self.prompt_tokens = prompt_tokens
        self.uncached_tokens = uncached_tokens
        self.ahead_tokens = ahead_tokens
        self.sequences = sequences
        self.promised_bytes = promised_bytes
        self.probe = probe
        self.weight = weight
        self.slot: Slot | None = None
        """Where its prompt is in the cache, if the replica has slots."""
        self.reserved: Reserved | None = None
        """Of the tokens per minute, where they are limited."""
        self.area_at = 0.0
        self.read_at = 0.0
        self.began_at: float | None = None


@dataclass(slots=True)
class Speed:
    """How fast the replicas of a pool are, but for the slowness of each."""

    first: Line = field(default_factory=lambda: Line(0.05, 1e-4, (100.0, 4000.0)))
    """Seconds to the first piece of text, over prompt tokens to read."""
    step: Line = field(default_factory=lambda: Line(0.02, 2e-4, (1.0, 64.0)))
    """Seconds to each further token, over calls that run along."""
    unmeasured: list[ReplicaState] = field(default_factory=list)
    """Replicas of which no call has been measured yet."""


class ReplicaState:
    """The books of one replica."""

    def __init__(self, replica: ReplicaId, name: str, limits: Limits, speed: Speed) -> None:
        self.replica = replica
        self.name = name
        self.limits = limits
        self.sequences = 0
        self.weight = 0.0
        """How much the calls there are waited for: the sum of `Facts.weight`."""
        self.prefill_tokens = 0.0
        self.others = 0
        """Calls of others on it, from the engine's own metrics, without those that peers told."""
        self.peers = PeerLoad()
        """What the other pools that share it have there, as far as they told."""
        self.beside = PeerLoad()
        """Both together."""
        self.share = 1.0
        """Of its room, the part that is this pool's by its demand."""
        self.sequences_limit = float(min(limits.sequences_start, limits.sequences_max))
        self.prefill_limit_min = float(limits.prefill_tokens_min)
        """`prefill_limit` is no less. (Limits are interpreted, and this is read for every call.)"""
        self.easy = 0
        """With fewer calls than this, and fewer prompt tokens than its least limit, it takes one
        more for certain. What could make that wrong sets it to 0."""
        self.cache = PromptCache(limits.cache_tokens * 4)
        self.place = Place()
        """It, as it stood for the last choice."""
        self.cost_s = 0.0
        """What the last call that could have gone there would have cost."""
        self.speed = speed
        self.slowness = Mean(1.0)
        """Its times, as a multiple of the pool's lines."""
        speed.unmeasured.append(self)
        self.hold_until = 0.0
        """Turned us away as too busy until then."""
        self.asked_s: float | None = None
        """The wait that it then asked for."""
        self.failures = 0
        self.openings = 0
        self.sent_total = self.failed_total = self.turned_away_total = 0
        """Calls since the pool was made: sent, failed, and refused as too many."""
        self.distrusted = 0
        """How often it was left alone for what it wrote."""
        self.open_until: float | None = None
        """None: well. Else no call before then, and then one probe."""
        self.last_error = ""
        self.probed_at: float | None = None
        """When the probe that is under way was sent."""
        self._cut_at = 0.0
        self._slow_start = True
        self.changed_at = 0.0
        """When a call came or went, or its room was changed by other pools."""
        self._area = 0.0
        """Integral of `sequences` over time: its difference gives the mean over any interval."""
        self._read = 0.0
        """Prompt tokens read so far, for the same purpose."""
        self._read_for_peers = 0.0
        """The part of it that was not read for this pool."""
        self._told: Told | None = None
        """None while nobody asks for summaries."""

    # --- Room

    def takes(self, now: float) -> bool:
        """Would one more call be started on soon?"""
        if self.sequences < self.easy and self.prefill_tokens < self.prefill_limit_min:
            return True  # nearly always
        peers = self.peers
        waits = self.prefill_tokens + peers.prefill_tokens
        # Below the least limit there is no need to compute it.
        if waits >= self.prefill_limit_min and not self._reads_soon(waits):
            return False
        if not self._serves(self.sequences_limit, now):
            return False
        if self.open_until is None and not (peers.sequences or peers.prefill_tokens):
            self.easy = int(self.sequences_limit)
        return True

    def takes_warm(self, blocks: Sequence[int], size: int, now: float) -> bool:
        """Would it take a call of which it knows most of the prompt?

        Such calls may fill `WARM_ROOM` times the room for prompts, and `WARM_CALLS` times that for
        calls. To keep them out while others are let in elsewhere is to read their prompts twice,
        and what is pushed out there too. But who has refused calls is given no more than it takes.
        """
        limit = self.sequences_limit
        if self.cache.slots is None and not self.turned_away_total:
            limit = min(limit * WARM_CALLS, self.limits.sequences_max)
        return (
            self.prefill_tokens < WARM_ROOM * self.prefill_limit
            and self._serves(limit, now)
            and self.knows(blocks, size)
        )

    def has_nothing_to_read(self, now: float) -> bool:
        """Is it well, and no prompt on its way to it? Then reading one holds up no other."""
        if self.prefill_tokens or self.open_until is not None:
            return False
        return self._serves(self.sequences_limit, now)

    def knows(self, blocks: Sequence[int], size: int) -> bool:
        """Most of a prompt is in its cache, as far as can be told."""
        return 2 * matched_bytes(self.cache.index.match(blocks)) >= size

    def cached_tokens(self, blocks: Sequence[int], tokens_per_byte: float) -> float:
        """How much of a prompt is in its cache, as far as can be told."""
        return matched_bytes(self.cache.index.match(blocks)) * tokens_per_byte

    def worth_waiting_s(self, blocks: Sequence[int], size: int, tokens: float, now: float) -> float:
        """How long a call may wait for it, because it has slots and one of them knows most of the
        prompt, though another call may still run there; 0 if it has not."""
        if self.cache.slots is None or self.open_until is not None or now < self.hold_until:
            return 0.0
        if 2 * matched_bytes(self.cache.index.held(blocks)) < size:
            return 0.0
        return min(HOME_PATIENCE * self.prefill_s * tokens, self.limits.home_wait_max_s)

    def _reads_soon(self, waits: float) -> bool:
        """So many tokens, its own and others', would not keep one more prompt waiting for long."""
        limit = self.prefill_limit
        return waits < limit or (self.share < 1.0 and self.prefill_tokens < self.share * limit)

    def _serves(self, sequences_limit: float, now: float) -> bool:
        if self.open_until is not None and (self.probed_at is not None or now < self.open_until):
            return False
        if now < self.hold_until:
            return False
        own, limit = self.sequences, int(sequences_limit)
        return own + self.peers.sequences < limit or own < self.share * limit

    @property
    def prefill_limit(self) -> float:
        """Prompt tokens that may be on their way."""
        return max(self.limits.prefill_tokens_min, self.limits.prefill_wait_s / self.prefill_s)

    @property
    def prefill_s(self) -> float:
        """Seconds to read one token."""
        return self.speed.first.slope * self.slowness.value

    def step_s(self, running: float) -> float:
        """Seconds to write one token, while so many calls run."""
        return self.speed.step.at(running) * self.slowness.value

    def ready_at(self, now: float) -> float | None:
        """When time alone will make it take calls again; None if it is not time that is missing."""
        at = max(self.hold_until, self.open_until or 0.0)
        return at if at > now and self.probed_at is None else None

    def trust(self, now: float) -> float:
        """How much of its measured slowness still counts: 1, or less after long idleness."""
        idle_s = now - self.changed_at
        return 1.0 if idle_s <= STALE_S else 0.5 ** (idle_s / STALE_S - 1.0)

    # --- Life of a try

    def send(
        self, blocks: Sequence[int], need: Need, cached_tokens: float, per_byte: float, now: float
    ) -> Try:
        """A call goes there."""
        self._pass(now)
        beside, prompt_tokens, weight = self.beside, need.prompt_tokens, need.weight
        uncached = prompt_tokens - cached_tokens
        if uncached < 1.0:
            uncached = 1.0
        sent = Try(
            self.replica,
            now,
            prompt_tokens,
            uncached,
            self.prefill_tokens + beside.prefill_tokens,
            self.sequences + beside.sequences,
            cached_tokens / per_byte,
            self.open_until is not None,
            weight,
        )
        if sent.probe:
            self.probed_at = now
        self.sequences += 1
        self.sent_total += 1
        self.weight += weight
        self.prefill_tokens += uncached
        if blocks or self.cache.slots:
            sent.slot = self.cache.add(blocks)
        if blocks and self._told is not None:
            self._told.add(blocks)
        return sent

    def begin(self, sent: Try, now: float) -> None:
        """Its first piece of text came."""
        self._pass(now)
        sent.began_at = now
        prompt_tokens, uncached = sent.prompt_tokens, sent.uncached_tokens
        self.cache.begun(prompt_tokens, max(0.0, prompt_tokens - uncached))
        waits = self.prefill_tokens - uncached
        self.prefill_tokens = waits if waits > 0.0 else 0.0
        self._read += uncached
        sent.area_at, sent.read_at = self._area, self._read
        if sent.probe:
            # One more failure opens it again; only a whole text clears the record.
            self.probed_at = None
            self.open_until = None
            self.failures = self.limits.failures_max - 1
        self._judge_first(sent, now)

    def leave(self, sent: Try, now: float) -> None:
        """The try is over, whatever the reason."""
        if now != self.changed_at:
            self._pass(now)
        self.sequences -= 1
        if sent.slot is not None:
            self.cache.end(sent.slot)
        if self.sequences:
            self.weight = max(0.0, self.weight - sent.weight)
        else:
            self.prefill_tokens = self.weight = 0.0  # sums of floats drift
        if sent.began_at is None:
            self.prefill_tokens = max(0.0, self.prefill_tokens - sent.uncached_tokens)
            if sent.probe:
                self.probed_at = None

    def finish(self, sent: Try, tokens: float, usage: Usage | None, now: float) -> None:
        """The try wrote its whole text. Call `leave` too."""
        self._pass(now)
        self.failures = self.openings = 0
        if sent.began_at is not None:
            self._learn_reading(sent, sent.began_at, usage)
            if tokens >= 4:
                self._learn_step(sent, tokens, now)

    def warmed(self, sent: Try, usage: Usage | None, now: float) -> None:
        """A prewarm was read. Call `leave` too."""
        self._learn_reading(sent, now, usage)

    # --- Health

    def failed(self, sent: Try, error: EngineError, random: Random, now: float) -> None:
        """The try broke. Enough of that in a row, and the replica is left alone for a while."""
        self.last_error = str(error)
        self.failed_total += 1
        if self.open_until is not None and not sent.probe:
            return  # one death breaks every call there; it counts once
        self.failures += 1
        if self.failures >= self.limits.failures_max:
            pause = min(self.limits.open_s * 2.0**self.openings, self.limits.open_s_max)
            self.openings += 1
            wish = min(error.retry_after or 0.0, self.limits.hold_max_s)
            self.open_until = now + max(pause * (0.9 + 0.2 * random.random()), wish)
            self.easy = 0
            # If it died its cache died with it. If not, we will see what it reports.
            self.cache.index.clear()

    def distrust(self, random: Random, now: float) -> None:
        """What it answers cannot be read. It is left alone for a while, each time for longer; the
        times are counted apart, as every answer of it that comes to its end looks well."""
        if self.open_until is None:
            self.last_error = "its answers could not be read"
            pause = min(self.limits.open_s * 2.0**self.distrusted, self.limits.open_s_max)
            self.distrusted += 1
            self.open_until = now + pause * (0.9 + 0.2 * random.random())
            self.easy = 0

    def turned_away(self, sent: Try, error: EngineError, now: float) -> None:
        """Too many, says the replica: it is well, but it has less room than thought."""
        self.last_error = str(error)
        self.turned_away_total += 1
        self.asked_s = error.retry_after
        wish = min(error.retry_after or BUSY_S, self.limits.hold_max_s)
        self.hold_until = max(self.hold_until, now + wish)
        self.easy = 0
        self._cut(sent.sent_at, sent.sequences, now)

    def reported(self, running: int, waiting: int, now: float) -> None:
        """The engine's own metrics."""
        known = self.sequences + round(self.peers.sequences)
        self.others = max(0, running + waiting - known)
        self.beside = self._peers_and_others()
        if waiting and known > self.others and self.cache.slots is None:
            self._cut(now, known - 1, now)

    # --- Other pools before it

    def summary(self) -> ReplicaSummary:
        """What they should know: what this pool has here, and has sent here since the last time."""
        if self._told is None:
            self._told = Told()
        return ReplicaSummary(
            self.name,
            self.sequences,
            self.weight,
            self.prefill_tokens,
            self._read - self._read_for_peers,
            self._told.take(),
            self.cache.take_lowered(),
        )

    def heard(self, peers: PeerLoad, share: float, now: float) -> None:
        """They have so much here; so much of the room is this pool's."""
        self._pass(now)
        self.peers, self.share = peers, share
        self.beside = self._peers_and_others()
        self.easy = 0

    def _peers_and_others(self) -> PeerLoad:
        peers, others = self.peers, self.others
        # Of the others nothing is known, so they count in full.
        return PeerLoad(peers.sequences + others, peers.weight + others, peers.prefill_tokens)

    def read_for_others(self, tokens: float) -> None:
        """So many prompt tokens of theirs were read here since they last told."""
        self._read += tokens
        self._read_for_peers += tokens

    def told(self, facts: CacheFacts, tokens_per_byte: float) -> bool:
        """The engine's own metrics of its cache; see `PromptCache.told`."""
        anew = self.cache.told(facts, tokens_per_byte)
        if anew and self.cache.slots is not None:
            self.sequences_limit = float(min(self.limits.sequences_max, self.cache.slots))
            self.easy = 0
        return anew

    # --- What is learned

    def _judge_first(self, sent: Try, now: float) -> None:
        """Is the first piece of text late? A queue behind the replica's door would explain it."""
        took = now - sent.sent_at
        slots = self.cache.slots  # with slots there is no such queue: no more is ever sent
        if took > LATE_S and slots is None and sent.sequences > 0 and took > self._late_s(sent):
            self._cut(sent.sent_at, sent.sequences, now)
        elif sent.sequences + 1 >= self.sequences_limit / 2:
            rise = 1.0 if self._slow_start else 1.0 / self.sequences_limit
            rise /= self.share  # the others' calls would raise it as well; only their own see that
            most = min(self.limits.sequences_max, slots or self.limits.sequences_max)
            self.sequences_limit = min(most, self.sequences_limit + rise)

    def _late_s(self, sent: Try) -> float:
        """A first piece of text that takes longer is late."""
        expected = self.speed.first.at(sent.ahead_tokens + sent.uncached_tokens)
        return 4.0 * expected * self.slowness.value

    def _learn_reading(self, sent: Try, began_at: float, usage: Usage | None) -> None:
        uncached = sent.uncached_tokens
        if (
            usage is not None
            and usage.prompt_tokens
            and (usage.cached_tokens or self.cache.reports)
        ):
            # What was really read, not what was thought: a cache colder than expected must not
            # pass for a slow replica.
            uncached = max(1.0, usage.prompt_tokens - usage.cached_tokens)
        tokens, line = sent.ahead_tokens + uncached, self.speed.first
        took = (began_at - sent.sent_at) / self.slowness.value
        # A late one teaches little: it has waited for other things than the reading of prompts.
        # If all are late, it is the speed after all.
        line.observe(tokens, took, 0.1 if took > 1.5 * line.at(tokens) else 1.0)

    def _cut(self, sent_at: float, sequences: float, now: float) -> None:
        """Lower the limit, once for all calls that were sent before the last time."""
        if sent_at < self._cut_at:
            return
        if self.share < 1.0:  # what others had sent there was not all told by then
            sequences = max(sequences, self.sequences - 1 + self.others + self.peers.sequences)
        self._cut_at = now
        self._slow_start = False
        self.sequences_limit = max(1.0, 0.75 * min(self.sequences_limit, sequences + 1.0))
        self.easy = 0

    def _learn_step(self, sent: Try, tokens: float, now: float) -> None:
        assert sent.began_at is not None
        took = now - sent.began_at
        if took <= 0:
            return
        beside = (self._area - sent.area_at) / took
        reading = self.prefill_s * (self._read - sent.read_at)
        step_s = max(took - reading, took / 4) / (tokens - 1)
        ratio = step_s / self.speed.step.at(beside)
        ratio = min(max(ratio, 0.1), 10.0)
        if self.speed.unmeasured:
            self._measured(ratio)
        else:
            self.slowness.observe(ratio)
        self.speed.step.observe(beside, step_s / self.slowness.value, min(1.0, tokens / 32))

    def _measured(self, ratio: float) -> None:
        """A call was measured while there are replicas of which none has been.

        Those are believed to be as slow as this one. Else, where all are faster than was thought
        before the first call, the one measured first would look best and take all calls.
        """
        unmeasured = self.speed.unmeasured
        if self in unmeasured:
            unmeasured.remove(self)
            self.slowness = Mean(1.0)
        self.slowness.observe(ratio)
        for other in unmeasured:
            other.slowness = Mean(self.slowness.value)

    def _pass(self, now: float) -> None:
        self._area += (self.sequences + self.peers.sequences) * (now - self.changed_at)
        self.changed_at = now

    def check(self, now: float) -> None:
        """Raise if the books do not agree."""
        assert self.sequences or not self.prefill_tokens, self.name
        assert self.beside == self._peers_and_others(), self.name
        assert self.sequences >= self.easy or self._serves(self.sequences_limit, now), (
            self.name,
            self.easy,
        )
        self.cache.index.check()


def taking(replicas: list[ReplicaState], now: float) -> list[ReplicaState]:
    """Those that would start soon on one more call. (The list itself, if all would.)"""
    for one in replicas:
        if one.sequences >= one.easy or one.prefill_tokens >= one.prefill_limit_min:
            return [one for one in replicas if one.takes(now)]
    return replicas


def taking_at(replicas: list[ReplicaState], now: float) -> float:
    """When the first of them may take calls again, as far as time alone decides it."""
    times = (one.ready_at(now) for one in replicas)
    return min(now if at is None else at for at in times)


def untried(replicas: list[ReplicaState], tried: int, but: ReplicaId) -> bool:
    """Is there one, but for this one, that is well and not among those tried (as bits)?"""
    return any(
        one.open_until is None and one.replica != but and not tried >> one.replica & 1
        for one in replicas
    )


def places_of(
    replicas: list[ReplicaState], blocks: Sequence[int], tokens_per_byte: float
) -> list[Place]:
    """Replicas of one pool, as they stand for a prompt with these blocks. Each fills in its own
    `place` anew, so that a choice among many makes no objects."""
    speed = replicas[0].speed
    prefill_s, step_s, rise_s = speed.first.slope, speed.step.intercept, speed.step.slope
    found: list[Place] = []
    for one in replicas:
        place, beside, index, slowness = one.place, one.beside, one.cache.index, one.slowness.value
        running = one.sequences + beside.sequences
        place.running = running
        place.prefill_tokens = one.prefill_tokens + beside.prefill_tokens
        place.cached_tokens = one.cached_tokens(blocks, tokens_per_byte) if blocks else 0.0
        place.free_tokens = index.free_bytes * tokens_per_byte
        place.prefill_s = prefill_s * slowness
        place.step_s = (step_s + rise_s * (running + 1)) * slowness
        place.step_rise_s = rise_s * slowness
        place.weight = one.weight + beside.weight
        found.append(place)
    return found


def forgive(replicas: list[ReplicaState], places: list[Place], now: float) -> None:
    """Let replicas that have long been idle look less slow, up to the best of the others."""
    for replica, place in zip(replicas, places, strict=True):
        if not replica.sequences and (trust := replica.trust(now)) < 1.0:
            step_s = min(one.step_s for one in places)
            prefill_s = min(one.prefill_s for one in places)
            place.step_s = step_s + (place.step_s - step_s) * trust
            place.prefill_s = prefill_s + (place.prefill_s - prefill_s) * trust
