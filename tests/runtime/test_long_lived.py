"""What lives as long as a runtime does not grow with the number of requests that it has served.

Every container in an object of ours is measured after some requests and after four times as many:
deadlines, budgets, priorities, growing prompts, embeddings, faults and clients that go are all
among them, and room is so scarce that calls wait.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from leaks import nothing_held, on_virtual_time, watched

import alto
from alto import Sentence, Stream, lm, pipeline, stage
from alto.core.replicas import Limits
from alto.engines.pool import Pool
from alto.engines.sim_faults import Faults

FEW = 150
SLACK = 70
"""So much one container may hold more: heaps keep up to 64 entries of calls that are gone."""
LIMITS = Limits(
    sequences_start=1,
    sequences_max=2,
    cache_tokens=1000,
    requests_remembered_max=20,
    prewarm_tokens_min=50,
)
"""Small, so that what is bounded has come to its bound when it is first measured."""


@dataclass(frozen=True)
class Scarce:
    """A simulated engine with faults, behind a pool of these limits."""

    def open(self, name: str) -> Pool:
        spec = alto.Simulated(
            replicas=2,
            kv_tokens=8000,
            lengths={"*": {"sentences": (1, 3), "words": (4, 8)}},
            faults=Faults(refuse=0.02, break_off=0.05, stall=0.02, stall_s=1.0),
        )
        return Pool(name, spec.open_replicas(name), limits=LIMITS, hedge_s=0.5, batches=spec)


@lm(engine="chat", max_tokens=60, on_error="drop")
def write(topic: str) -> Stream[Sentence]:
    return f"Write about {topic}."


@lm(engine="chat", max_tokens=10, on_error="drop", prewarm=True)
async def judge(topic: str, sentences: Stream[Sentence]) -> Stream[str]:
    yield f"Judge what is said of {topic}. " * 20
    async for sentence in sentences:
        yield sentence * 20


@stage(on_error="drop")
async def look_up(sentence: Sentence) -> float:
    engine = alto.engine("encode")
    (vector,) = await engine.embed([str(sentence)])
    (best,) = await engine.rerank("query", [str(sentence), "tea"], top_n=1)
    return vector[0] + best.score + len(await alto.engine("chat").complete("Say it.", max_tokens=4))


@pipeline
def judged(topic: str):  # type: ignore[no-untyped-def]
    sentences = write(topic)
    return {"found": look_up(sentences), "judged": judge(topic, sentences)}


@pipeline
def written(topic: str):  # type: ignore[no-untyped-def]
    return write(topic)


async def request(runtime: alto.Runtime, number: int, luck: Random) -> None:
    """One of many kinds."""
    options: dict[str, Any] = {"priority": number % 3}
    if number % 2:
        options["timeout"] = luck.choice([1.0, 10.0, 1e6])
    if number % 5 == 0:
        options["token_budget"] = luck.choice([100, 1000])
    subject = luck.choice([judged, written])
    asked = asyncio.create_task(runtime.call(subject, f"topic {number}", **options))
    if number % 7 == 0:
        await asyncio.sleep(luck.random())
        asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


async def serve(runtime: alto.Runtime, numbers: range) -> None:
    luck = Random(numbers.start)
    under_way = []
    for number in numbers:
        await asyncio.sleep(luck.expovariate(40.0))
        under_way.append(asyncio.create_task(request(runtime, number, luck)))
    await asyncio.gather(*under_way)
    await asyncio.sleep(100.0)  # pauses, probes and minutes of limits are over
    nothing_held(runtime)


def containers() -> dict[str, int]:
    """How much is in the containers of all objects of ours, by class and attribute."""
    gc.collect()
    sizes: dict[str, int] = {}
    for each in gc.get_objects():
        kind = type(each)
        if str(kind.__module__).startswith("alto"):
            sizes[kind.__qualname__] = sizes.get(kind.__qualname__, 0) + 1
            for name, value in attributes(each):
                if isinstance(value, dict | list | set | deque):
                    where = f"{kind.__qualname__}.{name}"
                    sizes[where] = sizes.get(where, 0) + len(value)
    return sizes


def attributes(each: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(each, "__dict__", {}).items()
    for base in type(each).__mro__:
        for name in getattr(base, "__slots__", ()):
            if hasattr(each, name):
                yield name, getattr(each, name)


def test_what_lives_long_does_not_grow_with_the_requests_served() -> None:
    async def main() -> None:
        config = alto.Config(engines={"chat": Scarce(), "encode": Scarce()})
        async with watched(config) as runtime:
            await serve(runtime, range(FEW))
            few = containers()
            await serve(runtime, range(FEW, 4 * FEW))
            many = containers()
        grown = {name: (few.get(name, 0), size) for name, size in many.items()}
        assert not {name: both for name, both in grown.items() if both[1] > both[0] + SLACK}

    on_virtual_time(main)
