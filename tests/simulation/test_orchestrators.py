"""Several orchestrators before the same replicas, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import alto
from alto import Line, Stream, lm, pipeline
from alto.core.calls import Call
from alto.core.replicas import Limits
from alto.engines.pool import Pool
from alto.engines.sim_replica import SimReplica
from alto.engines.simulated import Simulated
from alto.simulation import Poisson, Report, Trace, simulate
from alto.testing.loop import Stuck, run

EXCHANGE_S = 0.1


@lm(engine="chat", returns=Stream[Line])
def write(topic: str) -> str:
    return f"Write lines about {topic}."


@lm(engine="chat", returns=str)
def shorten(line: Line) -> str:
    return f"Shorten: {line}"


@pipeline
def digest(topic: str) -> Any:
    return shorten(write(topic))


def respond(call: alto.Call) -> str:
    return "one two three four five six\n" * 4 if call.stage == "write" else "brief " * 20


def load(orchestrators: int, **options: Any) -> Report:
    config = alto.Config(engines={"chat": Simulated(respond=respond, replicas=3)})
    return simulate(
        digest,
        [f"matter {n}" for n in range(50)],
        arrivals=Poisson(20.0, seed=3),
        duration=5.0,
        config=config,
        orchestrators=orchestrators,
        **options,
    )


def facts(report: Report) -> list[Any]:
    return [(each.arrival, each.finish, each.outputs, each.usage) for each in report.requests]


def test_the_same_seed_gives_the_same_report() -> None:
    assert facts(load(4)) == facts(load(4))


def test_all_requests_are_answered_and_all_replicas_counted() -> None:
    one, four, deaf = load(1), load(4), load(4, exchange_s=None)
    assert not four.errors
    assert [each.outputs for each in four.requests] == [each.outputs for each in one.requests]
    assert four.engines["chat"].replicas == 3
    assert four.engines["chat"].generation_tokens == one.engines["chat"].generation_tokens
    assert facts(four) != facts(deaf)


def test_limits_per_minute_hold_for_all_of_them_together() -> None:
    engine = Simulated(respond=respond, replicas=3, requests_per_minute=30)
    report = simulate(
        digest,
        ["a", "b"],
        arrivals=Trace([0.0] * 16),
        duration=1.0,
        config=alto.Config(engines={"chat": engine}),
        orchestrators=4,
    )
    assert not report.errors
    calls = sum(each.usage.calls for each in report.requests)
    assert calls == 16 * 5
    assert report.end >= 120.0  # of 80 calls the last 20 go in the third minute


@pytest.mark.parametrize("wrong", [{"orchestrators": 0}, {"orchestrators": 2, "exchange_s": 0.0}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(alto.ConfigError, match="expected at least one, and seconds above 0"):
        load(**wrong)


def test_an_engine_that_cannot_be_shared_is_refused() -> None:
    class Own:
        def open(self, name: str) -> Any: ...

    config = alto.Config(engines={"chat": Own()})
    with pytest.raises(alto.ConfigError, match="engine chat: Own cannot be shared by several"):
        simulate(
            digest,
            ["tea"],
            arrivals=Trace([0.0]),
            duration=1.0,
            config=config,
            orchestrators=2,
        )


def test_a_program_that_waits_for_ever_is_still_found_stuck() -> None:
    @alto.stage
    async def never(topic: str) -> str:
        await asyncio.get_running_loop().create_future()
        return topic

    @pipeline
    def stuck(topic: str) -> Any:
        return never(write(topic))

    config = alto.Config(engines={"chat": Simulated(respond=respond)})
    with pytest.raises(
        Stuck, match=r"stuck\): something is waited for .* It was running never at \(0,\)"
    ):
        simulate(
            stuck,
            ["tea"],
            arrivals=Trace([0.0]),
            duration=1.0,
            config=config,
            orchestrators=2,
            exchange_s=1.0,
        )


# --- Pools side by side, without runtimes


class Side:
    """Several pools before the same replicas, and summaries between them."""

    def __init__(self, pools: int, spec: Simulated, **options: Any) -> None:
        self.replicas: list[SimReplica] = spec.open_replicas("chat")
        self.pools = [Pool("chat", self.replicas, seed=n, **options) for n in range(pools)]
        self.dead: set[int] = set()

    async def tell(self) -> None:
        """All tell all, each once an interval and not at the same moment; news take as long."""
        loop = asyncio.get_running_loop()
        while True:
            for at, pool in enumerate(self.pools):
                if at not in self.dead:
                    summary = pool.summary()
                    for other in self.pools:
                        if other is not pool:
                            loop.call_later(EXCHANGE_S, other.hear, str(at), summary)
                await asyncio.sleep(EXCHANGE_S / len(self.pools))

    def play(self, main: Callable[[], Awaitable[None]]) -> None:
        async def both() -> None:
            telling = asyncio.create_task(self.tell())
            await main()
            telling.cancel()
            for pool in self.pools:
                pool.check()

        run(both())


async def ask(pool: Pool, number: int, stage: str = "s") -> float:
    """Seconds that one call took."""
    clock = asyncio.get_running_loop().time
    start = clock()
    call = Call(messages=[{"role": "user", "content": f"call {number}"}], stage=stage)
    async for _ in pool.stream(call):
        pass
    return clock() - start


@pytest.mark.parametrize("policy", ["prompt-aware", "least-outstanding"])
def test_pools_that_see_the_same_idle_replica_do_not_all_run_there(policy: str) -> None:
    """Eight pools, 64 calls on four replicas at any time, and news that are as old as half a call
    is long. If each took them at their word, all would always be where nobody was a moment ago: the
    fullest replica would have more than three times its part, on average over the time."""

    async def main() -> None:
        clients = [
            asyncio.create_task(keep_asking(side.pools[n % 8], n, until=6.0)) for n in range(64)
        ]
        fullest: list[int] = []
        while asyncio.get_running_loop().time() < 6.0:
            await asyncio.sleep(0.05)
            fullest.append(max(one.running + one.waiting for one in side.replicas))
        await asyncio.gather(*clients)
        assert sum(fullest) / len(fullest) < 1.6 * 64 / 4

    side = Side(8, Simulated(replicas=4, respond=lambda call: "word " * 40), policy=policy)
    side.play(main)


async def keep_asking(pool: Pool, number: int, until: float) -> None:
    turn = 0
    while asyncio.get_running_loop().time() < until:
        turn += 1
        await ask(pool, number * 1000 + turn)


def test_a_pool_with_few_calls_is_not_kept_out_by_one_with_many() -> None:
    """One pool always has hundreds of calls waiting for eight places. The other asks now and then,
    and is served about as soon as if each place that comes free were dealt in order."""

    async def main() -> None:
        flood = [asyncio.create_task(ask(side.pools[0], n)) for n in range(400)]
        await asyncio.sleep(1.0)
        took = [await ask(side.pools[1], 1000 + n) for n in range(5)]
        assert side.pools[0].waiting > 100
        assert max(took) < 2.0
        for task in flood:
            task.cancel()
        await asyncio.wait(flood)

    limits = Limits(sequences_start=8, sequences_max=8)
    side = Side(2, Simulated(respond=lambda call: "word " * 40), limits=limits)
    side.play(main)


def test_when_an_orchestrator_dies_the_others_take_over_its_room() -> None:
    async def main() -> None:
        doomed = [asyncio.create_task(ask(side.pools[0], n)) for n in range(30)]
        await asyncio.sleep(0.5)
        alive = [asyncio.create_task(ask(side.pools[1], 100 + n)) for n in range(200)]
        await asyncio.sleep(0.5)
        shared = side.pools[1].load()["chat/0"].sequences
        side.dead.add(0)
        for task in doomed:
            task.cancel()
        await asyncio.wait(doomed)
        await asyncio.sleep(limits.peer_silence_s + 2 * EXCHANGE_S)
        assert shared < 8
        assert side.pools[1].load()["chat/0"].sequences == 8
        for task in alive:
            task.cancel()
        await asyncio.wait(alive)

    limits = Limits(sequences_start=8, sequences_max=8)
    side = Side(2, Simulated(respond=lambda call: "word " * 400), limits=limits)
    side.play(main)


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute"])
def test_a_limit_that_cannot_be_shared_is_refused_before_anything_runs(limit: str) -> None:
    engine = Simulated(respond=respond, **{limit: 7})
    message = f"engine chat: {limit}: a limit of 7 per minute cannot be shared by 8 orchestrators"
    with pytest.raises(alto.ConfigError, match=message):
        simulate(
            digest,
            ["tea"],
            arrivals=Trace([0.0]),
            duration=1.0,
            config=alto.Config(engines={"chat": engine}),
            orchestrators=8,
        )
