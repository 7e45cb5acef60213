"""The paged KV cache of one LM server: who holds how many blocks, and which can be reused.

Memory is blocks of a fixed number of tokens. A block that is full and whose content is known by
its *key* is shared: a later prompt that begins with the same tokens holds the same block instead
of computing it. A key names the block's tokens and all tokens before them, so equal keys mean
equal content. When the last holder lets go, a shared block stays, idle, until its room is needed;
the block idle for longest goes first, and of one sequence the last block before the first.

Only counts and keys are kept: which physical block is which makes no difference to time.

Always true (`check()`):
    K1  held + idle <= total
    K2  a shared block is idle exactly when nobody holds it
    K3  `free` = total - held: an idle block is free to be taken
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

Key = bytes


class KvCache:
    """Blocks held, shared and idle."""

    def __init__(self, total: int, *, sharing: bool = True) -> None:
        self.total = total
        """Blocks there are."""
        self.held = 0
        """Blocks that some sequence holds, a shared one counted once."""
        self.sharing = sharing
        """False: nothing is ever reused (prefix caching switched off)."""
        self._holders: dict[Key, int] = {}
        self._idle: OrderedDict[Key, None] = OrderedDict()  # in the order in which they fell idle

    @property
    def free(self) -> int:
        """Blocks that can be taken, by evicting idle ones if need be."""
        return self.total - self.held

    @property
    def idle(self) -> int:
        """Blocks that nobody holds and that a later prompt may still find."""
        return len(self._idle)

    def match(self, keys: Sequence[Key]) -> int:
        """How many of these keys, from the first on, are there."""
        holders = self._holders
        for count, key in enumerate(keys):
            if key not in holders:
                return count
        return len(keys)

    def idle_among(self, keys: Iterable[Key]) -> int:
        """How many of these are idle: holding them uses up that many free blocks."""
        idle = self._idle
        return sum(key in idle for key in keys)

    def hold(self, keys: Iterable[Key]) -> None:
        """Hold shared blocks that `match` found."""
        for key in keys:
            if key in self._idle:
                del self._idle[key]
                self.held += 1
            self._holders[key] += 1

    def take(self, blocks: int) -> None:
        """Take private blocks; the caller has seen that so many are `free`. Evicts idle ones."""
        if blocks > self.free:
            raise AssertionError(f"took {blocks} KV blocks where {self.free} are free")
        self.held += blocks
        excess = self.held + len(self._idle) - self.total
        for _ in range(excess):
            key, _ = self._idle.popitem(last=False)
            del self._holders[key]

    def publish(self, key: Key) -> bool:
        """A private block of the caller is full: share it under its key.

        False when such a block is there already (two sequences computed it at the same time):
        then the caller's block stays private.
        """
        if not self.sharing or key in self._holders:
            return False
        self._holders[key] = 1
        return True

    def release(self, shared: Sequence[Key], private: int) -> None:
        """Let go of shared blocks, named in the order of their tokens, and of private ones."""
        self.held -= private
        for key in reversed(shared):
            holders = self._holders[key] - 1
            self._holders[key] = holders
            if holders == 0:
                self._idle[key] = None
                self.held -= 1

    def check(self) -> None:
        """Raise if an invariant does not hold. For tests."""
        idle = {key for key, holders in self._holders.items() if holders == 0}
        if self.held + len(self._idle) > self.total or self.held < 0:
            raise AssertionError(f"K1: {self.held} held + {len(self._idle)} idle of {self.total}")
        if idle != set(self._idle):
            raise AssertionError("K2: an idle block has a holder, or a held one is idle")
