"""Where in a text its reader has something to do.

A simulated engine knows its whole answer before it writes it. Told where the reader would give an
item, it need not wake anybody in between, and simulating a load costs a fraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..structs import Reader

PIECE = 48
"""How many letters are looked at together as long as they give no item."""

TEXTS_MAX = 4096
"""How many texts' boundaries are remembered."""


class Boundaries:
    """Calls give the offsets after which `reader` gives items; none for a single output."""

    def __init__(self, reader: Reader[Any], fans_out: bool) -> None:
        self._reader = reader
        self._fans_out = fans_out
        self._offsets = lru_cache(TEXTS_MAX)(self._find)

    def __call__(self, text: str) -> Sequence[int]:
        return self._offsets(text) if self._fans_out else ()

    def _find(self, text: str) -> tuple[int, ...]:
        """A first cutter takes the text in pieces; where a piece gives items, a second one, which
        follows behind, takes it letter by letter."""
        ahead, behind = self._reader.new(), self._reader.new()
        done = 0
        found: list[int] = []
        for start in range(0, len(text), PIECE):
            piece = text[start : start + PIECE]
            if not ahead.feed(piece):
                continue
            if done < start:
                behind.feed(text[done:start])
            found.extend(at for at, letter in enumerate(piece, start + 1) if behind.feed(letter))
            done = start + len(piece)
        return tuple(found)
