"""What pools before the same replicas know of each other, replica by replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BLOCKS_TOLD_MAX = 256
"""Blocks of prompts that one summary tells of one replica; the first sent are left out."""


@dataclass(slots=True)
class PeerLoad:
    """What another pool, or all of them together, is thought to have on one replica."""

    sequences: float = 0.0
    weight: float = 0.0
    prefill_tokens: float = 0.0

    def add(self, other: PeerLoad) -> None:
        self.sequences += other.sequences
        self.weight += other.weight
        self.prefill_tokens += other.prefill_tokens

    def approach(self, sequences: float, weight: float, prefill_tokens: float, part: float) -> None:
        """Believe so much (from 0 to 1) of what is told."""
        self.sequences += part * (sequences - self.sequences)
        self.weight += part * (weight - self.weight)
        self.prefill_tokens += part * (prefill_tokens - self.prefill_tokens)


class Told:
    """The prompts that the next summary tells of one replica."""

    def __init__(self) -> None:
        self._prompts: dict[int, Sequence[int]] = {}
        self._blocks = 0

    def add(self, blocks: Sequence[int]) -> None:
        """One was sent. Equal ones are told once; the oldest give way at the limit."""
        before = self._prompts.pop(blocks[-1], None)
        self._prompts[blocks[-1]] = blocks
        self._blocks += len(blocks) - (len(before) if before else 0)
        while self._blocks > BLOCKS_TOLD_MAX:
            self._blocks -= len(self._prompts.pop(next(iter(self._prompts))))

    def take(self) -> tuple[tuple[int, ...], ...]:
        """All of them; the next summary starts anew."""
        prompts = tuple(tuple(blocks) for blocks in self._prompts.values())
        self._prompts.clear()
        self._blocks = 0
        return prompts
