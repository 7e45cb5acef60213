"""What is in the cache of an engine that keeps one prompt a slot, as llama.cpp does?

Such an engine has few slots. A call takes the free slot whose prompt is most like its own, if a
tenth of its prompt is there, else the one left alone for longest, and overwrites what follows the
common beginning. So a prompt that two calls share is found by the second only when the first is
done: until then it runs in another slot and reads all of it anew, and what stood there is lost.
That is why calls wait for such a replica (`CallPool`), and why `match` and `held` differ here.

An engine may also keep prompts beside its slots, in plain memory. That is seen from outside: a
prompt is found that no slot should have. Each time it is believed to keep one more, and one less
when a prompt is missing.

Always true:
    T1  each call under way has a slot of its own, which no other call is told of by `match`
    T2  slots that no call uses are at most `kept`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .prefix import STEP_BYTES, matched_bytes

KEPT_MAX = 1000
"""Prompts that an engine is believed to keep, whatever is found."""
SLOT_BYTES = 32_768
"""What an empty slot counts for where the room of replicas is compared."""
_ALIKE = 0.1
"""The least part of a prompt for which a slot is chosen by its content."""


@dataclass(slots=True, eq=False)
class Slot:
    """One slot and the prompt that was last read in it."""

    blocks: Sequence[int] = ()
    busy: bool = False
    left: int = 0
    """Which of all calls was the last to leave it, as a number that grows."""


class SlotIndex:
    """The prompts in the slots of one replica; `PrefixIndex` for engines of this kind."""

    __slots__ = ("_calls", "_slots", "kept", "slots")

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.kept = slots
        """Prompts it keeps, those beside its slots included."""
        self._slots = [Slot() for _ in range(slots)]
        self._calls = 0

    @property
    def free_bytes(self) -> int:
        """Room that can be used before something is forgotten."""
        return SLOT_BYTES * sum(not slot.blocks for slot in self._slots)

    def match(self, blocks: Sequence[int]) -> int:
        """How many of the leading blocks a call would find now."""
        return max((_common(one.blocks, blocks) for one in self._slots if not one.busy), default=0)

    def held(self, blocks: Sequence[int]) -> int:
        """The same when all calls that are under way will have ended."""
        return max((_common(one.blocks, blocks) for one in self._slots), default=0)

    def add(self, blocks: Sequence[int]) -> Slot:
        """A call with this prompt is sent; the slot that it gets. Tell `end` when it is over."""
        idle = [slot for slot in self._slots if not slot.busy]
        alike = max(idle, key=lambda one: _common(one.blocks, blocks), default=None)
        if alike and _reaches(matched_bytes(_common(alike.blocks, blocks)), blocks):
            slot = alike
        elif idle and len(self._slots) >= self.kept:
            slot = min(idle, key=lambda one: one.left)
        else:  # kept beside the slots, or waiting in the engine for one that nobody can name yet
            slot = Slot()
            self._slots.append(slot)
        slot.blocks, slot.busy = blocks, True
        return slot

    def end(self, slot: Slot) -> None:
        """A call that `add` gave this slot is over."""
        self._calls += 1
        slot.busy, slot.left = False, self._calls
        self._trim()

    def correct(self, promised: float, found: float) -> None:
        """The engine says how many bytes of a prompt it found, where a match had been promised."""
        if found > promised + STEP_BYTES and found > 2 * promised:
            self.kept = min(KEPT_MAX, self.kept + 1)
        elif promised >= STEP_BYTES and found < promised / 2:
            self.kept = max(self.slots, self.kept - 1)
            self._trim()

    def clear(self) -> None:
        """The replica lost its cache: it was restarted, for example."""
        for slot in self._slots:
            slot.blocks = ()

    def check(self) -> None:
        """Raise if T2 does not hold."""
        assert sum(not slot.busy for slot in self._slots) <= self.kept

    def _trim(self) -> None:
        idle = [slot for slot in self._slots if not slot.busy]
        while len(self._slots) > self.kept and idle:
            oldest = min(idle, key=lambda slot: slot.left)
            idle.remove(oldest)
            self._slots.remove(oldest)


def _reaches(found: float, blocks: Sequence[int]) -> bool:
    """Is that enough of a prompt for its slot to be chosen by what stands there?"""
    return found > _ALIKE * matched_bytes(len(blocks))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading blocks two chains share; as blocks are chained, bisection finds it."""
    if not one or not other or one[0] != other[0]:
        return 0
    low, high = 1, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) >> 1
        if one[middle - 1] == other[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
