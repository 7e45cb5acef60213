"""Which part of a prompt has a replica read before?

Engines keep the key-value cache of prompts they have read and skip the longest prefix that they
know. To guess that from outside, a prompt is cut into blocks from its start, each block's hash is
chained on the one before, and every replica has an index of the chains it was sent.

We have no tokenizer: a block is bytes, and `TOKENS_PER_BYTE` (a quarter) turns bytes into tokens
until an engine's own counts teach better. Bytes rather than characters, because scripts that take
three bytes a letter also take more tokens a letter. Blocks are 256 bytes at the start of a prompt
and get coarser further in (the step doubles after every 16 blocks), so that a prompt of a megabyte
has about 180 blocks and the end of a match is known to within 6 %.

The hash is CRC-32, for its speed. Prompts that collide cost a badly placed call, nothing more.

Always true:
    P1  equal beginnings give equal chains, whatever follows
    P2  an index holds at most `bytes_max` bytes of blocks
    P3  whenever a block is held, so is every block before it (so a match is found by bisection)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

TOKENS_PER_BYTE: Final = 0.25
BROKEN: Final = 0.8
"""What is left of the room that a cache is believed to have when a promise is broken."""
STEP_BYTES: Final = 256
"""The first blocks of a prompt."""
_BLOCKS_PER_STEP = 16
_STEPS = 24


def _ends() -> Iterator[int]:
    """Where each block ends, for prompts of up to 60 GiB: a fixed table shared by all prompts."""
    end = 0
    for power in range(_STEPS):
        for _ in range(_BLOCKS_PER_STEP):
            end += STEP_BYTES << power
            yield end


ENDS: tuple[int, ...] = tuple(_ends())
"""`ENDS[k]` is the length in bytes of a prompt's first `k + 1` blocks."""

_SIZES = tuple(end - start for start, end in zip((0, *ENDS), ENDS, strict=False))


@dataclass(slots=True, init=False)  # one is made for every call, and an own __init__ is compiled
class Prompt:
    """A prompt as far as placing it goes: its chain of block hashes and its length in bytes."""

    blocks: tuple[int, ...]
    size: int

    def __init__(self, blocks: tuple[int, ...] = (), size: int = 0) -> None:
        self.blocks = blocks
        self.size = size


def chain(data: bytes) -> tuple[int, ...]:
    """The hash of each whole block, each over all that stands before it.

    The block's number is in the upper bits: it keeps hashes of different depths apart and says how
    many bytes the block has.
    """
    blocks: list[int] = []
    value = start = 0
    size = len(data)
    for number, end in enumerate(ENDS):
        if end > size:
            break
        value = crc32(data[start:end], value)
        blocks.append(number << 32 | value)
        start = end
    return tuple(blocks)


def is_chain(blocks: Sequence[int]) -> bool:
    """Whether these can be the first blocks of a prompt: numbered from 0 on, none left out."""
    return len(blocks) <= len(ENDS) and all(block >> 32 == at for at, block in enumerate(blocks))


def matched_bytes(blocks: int) -> int:
    """The length of a match of so many blocks."""
    return ENDS[blocks - 1] if blocks else 0


class PrefixIndex:
    """The blocks that one replica was sent last, least recently used first.

    How much an engine really keeps is not told. `bytes_max` starts as a guess; `correct` moves it
    by what the engine reports: down when a match was promised and not found, up when it was found.
    Where the engine's metrics say how much it can keep, `told` sets it at once.
    """

    __slots__ = ("_held", "_told", "bytes_max", "bytes_min", "bytes_top", "free_bytes", "size")

    def __init__(self, bytes_max: int) -> None:
        if bytes_max < 0:
            raise ValueError(f"prefix index: bytes_max is {bytes_max}, expected 0 or more")
        self.bytes_max = bytes_max
        self.bytes_min = min(bytes_max, 4096)
        self.bytes_top = bytes_max * 4
        self.size = 0
        """Bytes of all held blocks."""
        self.free_bytes = bytes_max
        """Room that can be used before something is forgotten. (Kept, for each choice asks each
        replica, and few of its calls change it.)"""
        self._told = False
        self._held: dict[int, None] = {}
        """Held blocks; a block stands behind (is younger than) all that follow it in a prompt."""

    def match(self, blocks: Sequence[int]) -> int:
        """How many of the leading blocks are held."""
        held = self._held
        if not blocks or blocks[0] not in held:
            return 0
        low, high = 1, len(blocks)
        while low < high:
            middle = (low + high + 1) >> 1
            if blocks[middle - 1] in held:
                low = middle
            else:
                high = middle - 1
        return low

    def held(self, blocks: Sequence[int]) -> int:
        """The same when all calls that are under way will have ended: no less is found before."""
        return self.match(blocks)

    def add(self, blocks: Sequence[int]) -> None:
        """The replica is sent this prompt: its blocks are the youngest now.

        The last block is touched first and the first one last, which is what keeps P3.
        """
        held = self._held
        for block in reversed(blocks):
            if block in held:
                del held[block]
            else:
                self.size += _SIZES[block >> 32]
            held[block] = None
        self._evict()

    def correct(self, promised: float, found: float) -> None:
        """The engine says how many bytes of a prompt it found, where a match had been promised.

        Like TCP's window: a broken promise takes a fifth of what is held, a kept one gives a little
        room. So where a cache is too small one promise in fifty is broken, no more. (With a
        thirtieth it was one in eight, each of which pushes out what another is promised.) A prompt
        that was sent while its sibling was still being read is a broken promise too; the little
        room makes up for it.
        """
        if promised < STEP_BYTES:
            return
        if found < promised / 2:
            self.lower(int(min(self.bytes_max, self.size) * BROKEN))
        else:
            self.bytes_max = min(self.bytes_top, self.bytes_max + (self.bytes_max >> 8))
            self._evict()

    def lower(self, bytes_max: int) -> None:
        """It keeps no more than that."""
        self.bytes_max = max(self.bytes_min, min(self.bytes_max, bytes_max))
        self._evict()

    def told(self, capacity_bytes: int) -> None:
        """The engine says how much it can keep. The first time it is taken at its word; later only
        as the most that there can be, since calls under way need room too."""
        first, self._told = not self._told, True
        self.bytes_top = max(capacity_bytes, self.bytes_min)
        self.bytes_max = self.bytes_top if first else min(self.bytes_max, self.bytes_top)
        self._evict()

    def clear(self) -> None:
        """The replica lost its cache: it was restarted, for example."""
        self._held.clear()
        self.size = 0
        self._evict()

    def check(self) -> None:
        """Raise if P2 or the counts of bytes do not hold."""
        assert self.free_bytes == self.bytes_max - self.size
        assert self.size == sum(_SIZES[block >> 32] for block in self._held)
        assert self.size <= self.bytes_max

    def _evict(self) -> None:
        held = self._held
        while self.size > self.bytes_max:
            oldest = next(iter(held))
            del held[oldest]
            self.size -= _SIZES[oldest >> 32]
        self.free_bytes = self.bytes_max - self.size
