"""Compare the scheduling policies on simulated replicas, in virtual time.

    python benchmarks/policies.py [--seed 1] [--json]

Three worlds, each the same for all policies: same calls, same arrivals, same seeds.

- *templates*: 16 clients, one call after the other, on four replicas. Eight prompt templates of
  1500 tokens with 200 tokens of their own behind; each replica's cache holds about three of them.
- *mixed*: Poisson arrivals at a middling and at a high load. Twelve applications of six stages,
  which differ in template (200 to 3000 tokens), own text (50 to 4000) and length of the answer (4
  to 400). All templates together are about half again as long as one replica's cache.
- *unlike*: the mixed load on replicas of which one is twice as fast as the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from random import Random

from alto.core.calls import Call
from alto.core.policies import NAMED
from alto.engines.pool import Pool
from alto.engines.sim_replica import SimReplica
from alto.engines.simulated import Simulated
from alto.testing.loop import run


@dataclass(frozen=True)
class Row:
    """What one policy made of one world. Times in seconds of virtual time."""

    world: str
    policy: str
    calls: int
    rate: float
    mean_s: float
    p50_s: float
    p99_s: float
    first_s: float
    hit_rate: float
    shares: tuple[float, ...]
    cpu_us: float
    """Of the whole simulation, per call: not the pool's own."""


@dataclass(frozen=True)
class Kind:
    """One stage of a load."""

    stage: str
    template_tokens: int
    own_tokens: tuple[int, int]
    answer_tokens: tuple[int, int]
    weight: float = 1.0


TEMPLATES = [Kind(f"template {n}", 1500, (200, 200), (60, 60), 1.0) for n in range(8)]
MIXED = [
    Kind(f"{name} {application}", template, own, answer, weight)
    for application in range(12)
    for name, template, own, answer, weight in (
        ("answer", 400, (50, 200), (150, 400), 1.0),
        ("extract", 1200, (50, 150), (60, 200), 3.0),
        ("verify", 2000, (300, 900), (4, 6), 9.0),
        ("summarize", 200, (2000, 4000), (100, 300), 1.0),
        ("judge", 3000, (100, 300), (4, 30), 3.0),
        ("rewrite", 600, (100, 600), (100, 400), 1.0),
    )
]


def words(random: Random, tokens: int) -> str:
    """A text of so many tokens: three letters and a space each."""
    letters = random.choices("abcdefghijklmnopqrstuvwxyz", k=3 * tokens)
    return "".join(f"{a}{b}{c} " for a, b, c in zip(*[iter(letters)] * 3, strict=True))


def calls(kinds: list[Kind], random: Random) -> Iterator[Call]:
    """Endless calls, the same for the same seed."""
    templates = {kind.stage: words(random, kind.template_tokens) for kind in kinds}
    weights = [kind.weight for kind in kinds]
    number = 0
    while True:
        kind = random.choices(kinds, weights)[0]
        number += 1
        yield Call(
            messages=[
                {
                    "role": "user",
                    "content": templates[kind.stage]
                    + words(random, random.randint(*kind.own_tokens)),
                }
            ],
            stage=kind.stage,
            request=f"r{number}",
            arguments={"answer": words(random, random.randint(*kind.answer_tokens))},
        )


def respond(call: Call) -> str:
    return str(call.arguments["answer"])


async def closed(pool: Pool, load: Iterator[Call], clients: int, count: int) -> list[Times]:
    """Clients that ask again as soon as they are answered."""
    done: list[Times] = []

    async def client() -> None:
        for _ in range(count // clients):
            done.append(await timed(pool, next(load)))

    await asyncio.gather(*(client() for _ in range(clients)))
    return done


async def poisson(
    pool: Pool, load: Iterator[Call], rate: float, count: int, random: Random
) -> list[Times]:
    """Clients that come when they like."""
    tasks: list[asyncio.Task[Times]] = []
    async for _ in ticks(rate, count, random):
        tasks.append(asyncio.create_task(timed(pool, next(load))))
    return list(await asyncio.gather(*tasks))


async def ticks(rate: float, count: int, random: Random) -> AsyncIterator[int]:
    for tick in range(count):
        await asyncio.sleep(random.expovariate(rate))
        yield tick


Times = tuple[float, float]
"""Seconds to the first piece of text and to the last."""


async def timed(pool: Pool, call: Call) -> Times:
    clock = asyncio.get_running_loop().time
    start = clock()
    first = 0.0
    async for _ in pool.stream(call):
        first = first or clock()
    return first - start, clock() - start


@dataclass(frozen=True)
class World:
    """Replicas and a load."""

    name: str
    spec: Simulated
    kinds: list[Kind]
    drive: Callable[[Pool, Iterator[Call], Random], object]


def worlds(scale: float) -> list[World]:
    count = int(2000 * scale)
    small = Simulated(replicas=4, respond=respond, kv_tokens=9000, max_num_seqs=64)
    alike = Simulated(replicas=4, respond=respond, kv_tokens=60_000)
    unlike = Simulated(replicas=4, respond=respond, kv_tokens=60_000, speed=(2.0, 1.0, 1.0, 1.0))
    return [
        World("templates", small, TEMPLATES, lambda p, load, r: closed(p, load, 16, count)),
        World("mixed 80/s", alike, MIXED, lambda p, load, r: poisson(p, load, 80.0, count, r)),
        World("mixed 130/s", alike, MIXED, lambda p, load, r: poisson(p, load, 130.0, count, r)),
        World("unlike 100/s", unlike, MIXED, lambda p, load, r: poisson(p, load, 100.0, count, r)),
    ]


def measure(world: World, policy: str, seed: int) -> Row:
    replicas = world.spec.open_replicas("chat")

    async def main() -> tuple[list[Times], float]:
        pool = Pool("chat", replicas, policy=policy, seed=seed, continue_final_message=True)
        load = calls(world.kinds, Random(seed))
        times = await world.drive(pool, load, Random(seed + 1))  # type: ignore[misc]
        took = asyncio.get_running_loop().time()
        pool.check()
        await pool.aclose()
        return times, took

    before = time.process_time()
    times, took = run(main())
    cpu = time.process_time() - before
    return row(world.name, policy, times, took, replicas, cpu)


def row(
    world: str,
    policy: str,
    times: list[Times],
    took: float,
    replicas: list[SimReplica],
    cpu: float,
) -> Row:
    whole = sorted(total for _, total in times)
    asked = sum(one.measures.cache_queries for one in replicas)
    return Row(
        world=world,
        policy=policy,
        calls=len(times),
        rate=len(times) / took,
        mean_s=sum(whole) / len(whole),
        p50_s=whole[len(whole) // 2],
        p99_s=whole[int(len(whole) * 0.99)],
        first_s=sum(first for first, _ in times) / len(times),
        hit_rate=sum(one.measures.cache_hits for one in replicas) / asked,
        shares=tuple(round(one.measures.succeeded / len(times), 3) for one in replicas),
        cpu_us=cpu / len(times) * 1e6,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the scheduling policies.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of calls")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for world in worlds(options.scale):
        for policy in NAMED:
            rows.append(measure(world, policy, options.seed))
            if not options.json:
                show(rows[-1])
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))


def show(row: Row) -> None:
    print(
        f"{row.world:14} {row.policy:18} {row.rate:6.1f} calls/s  mean {row.mean_s:6.3f} "
        f"p50 {row.p50_s:6.3f} p99 {row.p99_s:6.3f} first {row.first_s:6.3f}  "
        f"hits {row.hit_rate:.3f}  shares {' '.join(f'{share:.2f}' for share in row.shares)}  "
        f"cpu {row.cpu_us:.0f} us",
        flush=True,
    )


if __name__ == "__main__":
    main()
