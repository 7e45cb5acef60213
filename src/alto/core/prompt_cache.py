"""What a pool believes of one replica's prefix cache, and how it learns that it is wrong.

There are four sources, each used when it is there:

- what the replica was sent, in an index that forgets as the engine does: `PrefixIndex` for engines
  that keep blocks, `SlotIndex` for those that keep one prompt a slot;
- `cached_tokens` in the usage of each answer;
- the engine's own metrics: how much it can keep, or how many slots it has;
- its counters of prompt tokens asked for and found. When they go backwards it was restarted, and
  its cache is empty. Where answers do not say what was found, as with vLLM unless it is told to,
  the counters of all calls together say if the cache is colder than believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from .calls import Usage
from .pool_events import CacheFacts
from .prefix import PrefixIndex
from .slots import Slot, SlotIndex

SLOTS_MAX = 4096
"""A server that says it has more slots is not believed."""
CAPACITY_TOKENS_MAX = 20_000_000
"""A server that says it can keep more is taken to keep so much: what is believed to be there takes
memory here, some 2 bytes a token."""
SAMPLE_CALLS = 8
"""The counters of an engine are compared with what was promised after so many calls at least."""


class PromptCache:
    """The prompts that one replica is believed to have in its cache."""

    def __init__(self, bytes_max: int) -> None:
        self.index: PrefixIndex | SlotIndex = PrefixIndex(bytes_max)
        self.slots: int | None = None
        """The replica has so many slots, each for one call and one prompt; None: no such thing."""
        self.reports = False
        """The engine has said at least once with an answer that it found something."""
        self.sent_tokens = self.promised_tokens = 0.0
        """Prompt tokens of all calls that were begun there, and those believed to be in its
        cache when they were sent."""
        self.asked_tokens = self.found_tokens = 0.0
        """Prompt tokens and those found in its cache, as it reports with its answers."""
        self._counted: tuple[float, float] | None = None
        """Its own counters of tokens asked for and found, when they were last compared,"""
        self._sent = (0, 0.0, 0.0)
        """and calls, `sent_tokens` and `promised_tokens` at that time."""
        self._calls = 0
        self._broken_at = -inf
        """When a broken promise last counted."""
        self._lowered = 0

    @property
    def hit_ratio(self) -> float | None:
        """The part of the prompt tokens that was found, as the engine reports it: with its answers,
        or else by its counters. None while it has said nothing."""
        if self.asked_tokens:
            return self.found_tokens / self.asked_tokens
        asked, found = self._counted or (0.0, 0.0)
        return found / asked if asked else None

    @property
    def hit_ratio_expected(self) -> float | None:
        """The part that was expected when the calls were sent; None before the first."""
        return self.promised_tokens / self.sent_tokens if self.sent_tokens else None

    def add(self, blocks: Sequence[int]) -> Slot | None:
        """A call with this prompt is sent. Its slot, to be given to `end`, if there are slots."""
        return self.index.add(blocks)

    def end(self, slot: Slot) -> None:
        """The call that got this slot is over."""
        if isinstance(self.index, SlotIndex):
            self.index.end(slot)

    def heard(self, blocks: Sequence[int]) -> None:
        """Another pool has sent a call with this prompt; when that ends is not told."""
        if (slot := self.index.add(blocks)) is not None:
            self.end(slot)

    def begun(self, prompt_tokens: float, promised_tokens: float) -> None:
        """A call that was sent has begun to answer, so its prompt is read."""
        self._calls += 1
        self.sent_tokens += prompt_tokens
        self.promised_tokens += promised_tokens

    def answered(
        self, promised_bytes: float, usage: Usage, per_byte: float, sent_at: float, now: float
    ) -> None:
        """An answer ended, and says what was found. `per_byte`: tokens.

        Of the calls that were under way together only the first broken promise counts: they were
        placed by the same belief.
        """
        self.reports = self.reports or usage.cached_tokens > 0
        if self.reports:
            self.asked_tokens += usage.prompt_tokens
            self.found_tokens += usage.cached_tokens
            index, found = self.index, usage.cached_tokens / per_byte
            if found >= promised_bytes / 2 or not isinstance(index, PrefixIndex):
                index.correct(promised_bytes, found)
            elif sent_at >= self._broken_at:
                index.correct(promised_bytes, found)
                self._broken_at, self._lowered = now, index.bytes_max

    def take_lowered(self) -> int:
        """To how many bytes of room broken promises have brought it down since the last time; 0:
        there were none."""
        lowered, self._lowered = self._lowered, 0
        return lowered

    def heard_lowered(self, bytes_max: float, now: float) -> None:
        """Another pool told what it `take_lowered`: its broken promises are as good as own ones.
        Else each of n pools would learn n times as slowly, from its part of the calls alone."""
        if bytes_max and isinstance(self.index, PrefixIndex):
            self.index.lower(int(bytes_max))
            self._broken_at = now

    def told(self, facts: CacheFacts, tokens_per_byte: float) -> bool:
        """The engine's own metrics. True: it has slots that were not known of, so the index is a
        new one; `add` the prompts of the calls that are under way there."""
        if facts.asked_tokens is not None and facts.found_tokens is not None:
            self._compare((facts.asked_tokens, facts.found_tokens), tokens_per_byte)
        if facts.slots is not None and 0 < facts.slots <= SLOTS_MAX:
            if facts.slots == self.slots:
                return False
            self.slots, self.index = facts.slots, SlotIndex(facts.slots)
            return True
        if facts.capacity_tokens is not None and isinstance(self.index, PrefixIndex):
            capacity = min(facts.capacity_tokens, CAPACITY_TOKENS_MAX)
            self.index.told(int(capacity / tokens_per_byte))
        return False

    def _compare(self, counted: tuple[float, float], tokens_per_byte: float) -> None:
        """What all calls found since the last time, beside what they were promised."""
        before = self._counted
        restarted = before is not None and (counted[0] < before[0] or counted[1] < before[1])
        if restarted:
            self.index.clear()
        calls, sent, promised = self._sent
        calls = self._calls - calls
        asked = 0.0 if before is None or restarted else counted[0] - before[0]
        if asked > 0:
            if calls < SAMPLE_CALLS:
                return
            if not self.reports and self.sent_tokens > sent:
                found = (counted[1] - (before or counted)[1]) / asked
                mean = (self.sent_tokens - sent) / calls / tokens_per_byte
                promised = (self.promised_tokens - promised) / calls / tokens_per_byte
                broken = found * mean < promised / 2 and isinstance(self.index, PrefixIndex)
                for _ in range(1 if broken else min(calls, 4 * SAMPLE_CALLS)):
                    self.index.correct(promised, found * mean)
        self._counted = counted
        self._sent = (self._calls, self.sent_tokens, self.promised_tokens)
