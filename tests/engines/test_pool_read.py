"""`Pool.read` over replicas that are read and over replicas that hand on themselves: one behaviour,
at the same times. Virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest

from alto.core.calls import Call, Delta, Usage
from alto.engines.asked import ended
from alto.engines.keeper import Keeper
from alto.engines.pool import Pool
from alto.engines.protocol import Take
from alto.errors import EngineError
from alto.testing.loop import run

WORDS = ["one ", "two ", "three ", "four ", "five"]
Play = list["str | Delta | Exception | float"]
"""What a replica writes: pieces, errors, and seconds of silence."""
LAST = Delta(finish_reason="stop", usage=Usage(9, 5, calls=1))
WHOLE: Play = [0.2, *WORDS, 0.1, LAST]


class Played:
    """Plays one play after the other; each replica of a pool has the same list of them."""

    def __init__(self, name: str, plays: list[Play]) -> None:
        self.name = name
        self.plays = plays
        self.running = 0

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        self.running += 1
        try:
            for step in self.plays.pop(0):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step if isinstance(step, Delta) else Delta(step)
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        """Nothing to close."""


class Pushing(Played):
    """Hands on itself."""

    async def read(self, call: Call, take: Take) -> None:
        async with aclosing(self.stream(call)) as deltas:
            async for delta in deltas:
                going = take(delta)
                if going is not True and (going is False or not await going):
                    return


class Giving(Pushing):
    """Hands on by what it gives to wait for, and raises at once where that is all it does."""

    def read(self, call: Call, take: Take) -> Any:
        play = self.plays[0]
        if play and isinstance(play[0], Exception):
            self.plays.pop(0)
            raise play[0]
        return super().read(call, take)


@dataclass
class Taken:
    """A reader, and what it has seen: each piece with its time."""

    enough_at: int = 99
    slow: bool = False
    seen: list[tuple[float, str, str | None]] = field(default_factory=list)

    def take(self, piece: str) -> Any:
        at = asyncio.get_running_loop().time()
        self.seen.append((at, str(piece), getattr(piece, "finish_reason", None)))
        more = len(self.seen) < self.enough_at
        return self._later(more) if self.slow else more

    async def _later(self, more: bool) -> bool:
        await asyncio.sleep(1.0)
        return more


class Keeping:
    """The same reader, which keeps the pieces itself."""

    def __init__(self, taken: Taken) -> None:
        self.taken = taken
        self.keeper = Keeper()

    def take(self, piece: str) -> Any:
        keeper = self.keeper
        if (first := keeper.first) is not None:
            keeper.first = None
            first.began()
        keeper.given.append(piece)
        going = self.taken.take(piece)
        keeper.enough = len(self.taken.seen) >= self.taken.enough_at
        return going


async def _read(
    kind: type[Played], plays: list[Play], taken: Taken, keeps: bool = False
) -> tuple[Any, ...]:
    shared = [list(play) for play in plays]
    replicas = [kind("r0", shared), kind("r1", shared)]
    pool = Pool("chat", replicas)
    call = Call(messages=[{"role": "user", "content": "count"}])
    error = ""
    try:
        if keeps:
            keeping = Keeping(taken)
            await ended(pool.ask(call, keeping.take, keeping.keeper))
        else:
            await pool.read(call, taken.take)
    except EngineError as raised:
        error = str(raised)
    pool.check()
    totals, load = pool.totals(), pool.load()
    learned = [(one.sequences, one.failed) for one in load.values()]
    assert not any(replica.running for replica in replicas)
    return taken.seen, error, totals, learned, call.answered_by, len(shared)


BROKEN = EngineError("hung up")
PLAYS: dict[str, list[Play]] = {
    "whole": [WHOLE],
    "an empty piece first": [["", 0.1, *WORDS, LAST]],
    "with its end on the last piece": [[*WORDS, Delta("six", finish_reason="length")]],
    "refused, then whole": [[BROKEN], WHOLE],
    "broken in mid-text, then the rest": [[*WORDS[:2], 0.1, BROKEN], [*WORDS[2:], LAST]],
    "broken, and the rest begins with what was there": [[*WORDS[:2], BROKEN], WHOLE],
    "broken behind its end": [[*WORDS, LAST, BROKEN]],
    "silent": [[], WHOLE],
    "ends without a reason, then the rest": [WORDS[:3], [*WORDS[3:], LAST]],
    "a fault of its class": [[KeyError("choices")]],
    "never again": [[*WORDS[:2], EngineError("bad", retryable=False)]],
}
READERS: dict[str, Callable[[], Taken]] = {
    "quick": Taken,
    "slow": lambda: Taken(slow=True),
    "soon has enough": lambda: Taken(enough_at=2),
    "slow, soon has enough": lambda: Taken(enough_at=2, slow=True),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("plays", PLAYS)
def test_who_hands_on_makes_no_difference(plays: str, reader: str) -> None:
    async def main() -> list[Any]:
        start = asyncio.get_running_loop().time()
        seen: list[Any] = []
        for kind, keeps in itertools.product((Played, Pushing, Giving), (False, True)):
            taken = READERS[reader]()
            result = await _read(kind, PLAYS[plays], taken, keeps)
            times = [(round(at - start, 6), *rest) for at, *rest in taken.seen]
            seen.append((times, *result[1:]))
            start = asyncio.get_running_loop().time()
        return seen

    read, *others = run(main())
    assert others == [read] * 5
    assert read[0] or read[1], "something was read, or there was an error"


def test_a_replica_that_hands_on_is_not_read_as_a_generator() -> None:
    class Only(Pushing):
        def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
            raise AssertionError("read as a generator")

        async def read(self, call: Call, take: Take) -> None:
            take("all")
            take(LAST)

    async def main() -> list[Any]:
        taken = Taken()
        await _read(Only, [], taken)
        return taken.seen

    assert [piece for _, piece, _ in run(main())] == ["all", ""]


def test_a_reader_that_goes_away_ends_what_hands_on() -> None:
    async def main() -> None:
        replica = Pushing("r0", [[*WORDS[:1], 9.0, *WORDS[1:], LAST]])
        pool, taken = Pool("chat", [replica]), Taken()
        call = Call(messages=[{"role": "user", "content": "count"}])
        reading = asyncio.create_task(pool.read(call, taken.take))
        await asyncio.sleep(1.0)
        assert replica.running == 1 and len(taken.seen) == 1
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert replica.running == 0
        assert [load.sequences for load in pool.load().values()] == [0]
        pool.check()

    run(main())
