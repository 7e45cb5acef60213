"""Where in a text its reader has something to do.

A simulated engine knows its whole answer before it writes it. Told where the reader would give an
item, it need not wake anybody in between: hours of load then take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..structs import Reader

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
        cutter = self._reader.new()
        return tuple(at for at, letter in enumerate(text, 1) if cutter.feed(letter))
