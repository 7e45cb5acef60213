"""Calls of a pool, or of several side by side, in a world where replicas are moody up to a time, and then all are well.

Safety, at any time: each call ends; its text is whole, or it gets one named error; the counts of
the pool agree; nothing runs on. Liveness, once all are well: every call is answered, and every
replica is used again.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from alto.core.calls import Call, Delta
from alto.core.peers import ReplicaSummary, Summary
from alto.core.policies import NAMED as NAMED_POLICIES
from alto.core.replicas import Limits
from alto.engines.pool import Pool
from alto.errors import AltoError, DeadlineExceeded, EngineError, Overloaded
from alto.testing.loop import run

from .moody import COUNTS, MOODS, MoodyReplica, Span, written_by_all

HEALED_S = 40.0
NAMED = (EngineError, DeadlineExceeded, Overloaded)


class World:
    """Everything drawn by one seed."""

    def __init__(self, seed: int) -> None:
        self.luck = Random(seed)
        luck = self.luck
        self.safe = luck.random() < 0.4
        """One replica is well all the time, and none raises what cannot be tried again."""
        moods = [m for m in MOODS if m != "garbles" and not (self.safe and m == "raises")]
        self.replicas = [
            MoodyReplica(
                f"r{n}",
                [Span(0.0, "well")] if self.safe and n == 0 else self._plan(moods),
                Random(f"{seed} {n}"),
                luck.choice((0.002, 0.02, 0.1)),
                written_by_all,
            )
            for n in range(luck.randint(1, 4))
        ]
        self.liars = any(span.mood == "miscounts" for one in self.replicas for span in one.plan)
        self.limits = Limits(
            sequences_start=luck.choice((1, 4, 64)),
            dark_s=luck.choice((1.0, 10.0)),
            waiting_max=luck.choice((16, 10_000)),
        )
        options: dict[str, Any] = {
            "policy": luck.choice(("prompt-aware", "prompt-aware", *NAMED_POLICIES)),
            "limits": self.limits,
            "hedge_s": luck.choice((None, None, 0.5)),
            "continue_final_message": luck.random() < 0.5,
        }
        count = luck.choice((1, 1, 2, 3))
        self.pools = [
            Pool("chat", self.replicas, seed=seed + place, **options) for place in range(count)
        ]
        self.answered = 0

    def _plan(self, moods: list[str]) -> list[Span]:
        times = sorted(self.luck.uniform(0, HEALED_S) for _ in range(self.luck.randint(0, 5)))
        plan = [Span(at, self.luck.choice(moods)) for at in (0.0, *times)]
        return [*plan, Span(HEALED_S, "well")]

    def call(self, number: int) -> Call:
        luck = self.luck
        template = f"Template {number % 3} {'says so and so much ' * (number % 3) * 40}"
        now = asyncio.get_running_loop().time()
        return Call(
            messages=[{"role": "user", "content": f"{template} call {number}"}],
            stage=f"stage {number % 3}",
            request=f"q{number % 11}" if number % 2 else "",
            max_tokens=luck.choice((None, None, 5, 100)),
            deadline=now + luck.uniform(0.2, 30) if luck.random() < 0.3 else None,
        )

    # --- While they are moody

    async def reader(self, number: int) -> None:
        await asyncio.sleep(self.luck.uniform(0, HEALED_S))
        call = self.call(number)
        try:
            deltas = await self.answer(call)
        except NAMED as error:
            self.may_fail(call, error)
        else:
            check_text(call, deltas)
            self.check_usage(deltas)
            self.answered += 1

    def may_fail(self, call: Call, error: AltoError) -> None:
        """With one replica that is always well, only who has no time or finds the queue full."""
        if self.safe and call.deadline is None and not isinstance(error, Overloaded):
            raise error

    def check_usage(self, deltas: list[Delta]) -> None:
        """What honest replicas told is passed on as it is."""
        usage = deltas[-1].usage
        told = deltas[-1] and not self.liars  # else the end was lost, and the usage is estimated
        if told and usage is not None and usage.calls == 1:
            assert any(usage in replica.honest for replica in self.replicas), usage

    async def answer(self, call: Call) -> list[Delta]:
        pool = self.luck.choice(self.pools)
        if self.luck.random() < 0.5:
            return [delta async for delta in pool.stream(call)]
        deltas: list[Delta] = []

        def take(piece: str) -> bool:
            deltas.append(piece if isinstance(piece, Delta) else Delta(piece))
            return True

        await pool.read(call, take)
        return deltas

    async def metrics(self) -> None:
        """Somebody tells what engines say of themselves, and they lie."""
        while asyncio.get_running_loop().time() < HEALED_S:
            await asyncio.sleep(1.0)
            luck = self.luck
            if luck.random() < 0.3:
                told = luck.choice((0, 1, 50, 10**9))
                luck.choice(self.pools).report(
                    luck.randrange(len(self.replicas)),
                    running=told,
                    waiting=luck.choice((0, 3, told)),
                )
            for pool in self.pools:
                pool.check()
        for pool in self.pools:
            for at in range(len(self.replicas)):
                pool.report(at, running=0, waiting=0)

    async def gossip(self) -> None:
        """Pools side by side tell each other what they have. Some of it is lost, late or a lie, and
        once all are well they say no more."""
        loop, luck = asyncio.get_running_loop(), self.luck
        while loop.time() < HEALED_S and len(self.pools) > 1:
            await asyncio.sleep(0.1)
            place = luck.randrange(len(self.pools))
            summary = self.pools[place].summary()
            if luck.random() < 0.05:
                summary = Summary(summary.number, luck.choice(COUNTS), (self.lie(),))
            for pool in self.pools:
                if pool is not self.pools[place] and luck.random() < 0.9:
                    loop.call_later(luck.uniform(0, 0.5), pool.hear, str(place), summary)

    def lie(self) -> ReplicaSummary:
        numbers = [self.luck.choice(COUNTS) for _ in range(4)]
        blocks = tuple(self.luck.randrange(1 << 40) for _ in range(5))
        return ReplicaSummary(f"r{self.luck.randrange(5)}", *numbers, prompts=(blocks,))

    async def moody(self) -> None:
        telling = asyncio.gather(self.metrics(), self.gossip())
        readers = [asyncio.create_task(self.reader(n)) for n in range(60)]
        loop = asyncio.get_running_loop()
        for reader in self.luck.sample(readers, 8):
            loop.call_later(self.luck.uniform(0, HEALED_S), reader.cancel)
        await asyncio.wait(readers)
        errors = [reader.exception() for reader in readers if not reader.cancelled()]
        for error in filter(None, errors):
            raise error
        await telling
        self.at_rest()

    # --- Once they are well

    async def well(self) -> None:
        """Calls in bursts; the pauses between are as long as replicas may be left alone."""
        await asyncio.sleep(self.limits.hold_max_s)
        served = [replica.served for replica in self.replicas]
        for burst in range(20):
            count = 4 * len(self.replicas)
            calls = [self.calm(1000 + burst * 100 + n) for n in range(count)]
            for call, deltas in zip(
                calls, await asyncio.gather(*map(self.answer, calls)), strict=True
            ):
                check_text(call, deltas)
            self.at_rest()
            if all(one.served > before for one, before in zip(self.replicas, served, strict=True)):
                break
            await asyncio.sleep(30.0)
        else:
            raise AssertionError(f"well, but never used again: {[p.load() for p in self.pools]}")

    def calm(self, number: int) -> Call:
        return Call(messages=[{"role": "user", "content": f"calm {number}"}], stage="calm")

    def at_rest(self) -> None:
        for pool in self.pools:
            pool.check()
            assert pool.waiting == 0
            assert not any(load.sequences for load in pool.load().values()), pool.load()
            assert not pool._calls.readers
        assert not any(replica.running for replica in self.replicas)


def check_text(call: Call, deltas: list[Delta]) -> None:
    """Whole, in order, nothing twice; with one end and a sum of what it cost.

    Of a try that broke nobody told how many tokens it wrote. Where they are limited a text that was
    gone on with may so end a little early, and says so.
    """
    words = [f"{word} " for word in written_by_all(call).split(" ") if word]
    expected = "".join(words[: call.max_tokens])
    text = "".join(deltas)
    assert [bool(delta.finish_reason) for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    usage = deltas[-1].usage
    assert usage is not None
    assert usage.calls >= 1
    if call.max_tokens is not None and deltas[-1].finish_reason == "length":
        assert text
        assert expected.startswith(text), f"{text!r}, expected {expected!r}"
    else:
        assert text == expected, f"{text!r}, expected {expected!r}"


def one(seed: int) -> int:
    """Run one world; how many calls were answered while replicas were moody."""

    async def main() -> int:
        world: Any = World(seed)
        await world.moody()
        await asyncio.sleep(max(0.0, HEALED_S + 1 - asyncio.get_running_loop().time()))
        await world.well()
        for pool in world.pools:
            await pool.aclose()
        return int(world.answered)

    return run(main())
