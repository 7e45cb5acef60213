"""When does it pay to send the parts of a growing prompt ahead (`@lm(prewarm=True)`)?

A question is answered from evidence that comes in parts. The same requests at the same times, on
virtual time, with and without prewarming, in worlds where it should pay and in worlds where it
cannot:

    idle        long evidence, replicas that have little to do
    70B         the same on a model that reads ten times as slowly
    half        as many requests as keep the replicas busy half of the time
    saturated   more than they can serve for long
    short       prompts of which there is never enough to be worth a call
    at once     long evidence that comes within a moment, so that nothing is waited for

What is compared is the time from the last part to the first word: all before that is the same. Each
request also makes a short call of another kind when it comes, which shows what prewarming costs the
others.

    python -m benchmarks.prewarm [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from alto import Call, Config, Pipeline, Simulated, Stream, lm, pipeline, stage
from alto.simulation import Poisson, Report, simulate

from .report import Report as Printed
from .report import Target

ANSWER = "A word or two of the answer. " * 20  # 140 tokens
SEEDS = (1, 2, 3)
DURATION_S = 60.0
DURATION_QUICK_S = 20.0

SOONER_MIN = 2.0
NO_WORSE_MAX = 1.02


@dataclass(frozen=True)
class World:
    """Evidence of so many parts of so many tokens, one each `gap_s`; requests a second."""

    name: str
    parts: int
    part_tokens: int
    gap_s: float
    rate: float
    profile: str = "llama-3-8b_h100_tp1"
    replicas: int = 4


WORLDS = [
    World("idle", 8, 1000, 0.4, 0.5),
    World("70B", 8, 1000, 0.8, 0.2, profile="llama-3-70b_h100_tp4"),
    World("half", 8, 1000, 0.4, 8.0),
    World("saturated", 8, 1000, 0.4, 16.0),
    World("short", 8, 30, 0.4, 0.5),
    World("at once", 8, 1000, 0.001, 0.5),
]


@dataclass(frozen=True)
class Row:
    """One world, with or without prewarming: means of all requests, in seconds."""

    first_s: float
    """From the last part to the first word."""
    first_p99_s: float
    total_s: float
    """From the last part to the last word."""
    other_s: float
    """The short call of another kind, from beginning to end."""
    read: float
    """Prompt tokens that the engines computed, a request."""
    prewarm: float
    """Tokens of prewarms, a request, cached ones included."""


def words(random: Random, tokens: int) -> str:
    """A text of so many tokens: three letters and a space each."""
    letters = random.choices("abcdefghijklmnopqrstuvwxyz", k=3 * tokens)
    return "".join(f"{a}{b}{c} " for a, b, c in zip(*[iter(letters)] * 3, strict=True))


def asking(world: World, prewarm: bool) -> Pipeline[..., Any]:
    """The pipeline of one world."""

    @stage
    async def find(question: int) -> AsyncIterator[str]:
        random = Random(question)
        for _ in range(world.parts):
            await asyncio.sleep(world.gap_s)
            yield words(random, world.part_tokens)

    @lm(engine="chat", returns=Stream[str], max_tokens=200, prewarm=prewarm)
    async def answer(question: int, evidence: Stream[str]) -> AsyncIterator[str]:
        yield f"Answer question {question} from the evidence.\n"
        async for part in evidence:
            yield part

    @lm(engine="chat", returns=str, max_tokens=100)
    def remark(question: int) -> str:
        return f"Remark on {question}: {words(Random(-question), 300)}"

    @pipeline
    def ask(question: int):  # type: ignore[no-untyped-def]
        return {"answer": answer(question, find(question)), "remark": remark(question)}

    return ask


def respond(call: Call) -> str:
    return ANSWER


def load(world: World, prewarm: bool, seed: int, duration_s: float) -> Report:
    """One simulated load."""
    spec = Simulated(
        profile=world.profile, replicas=world.replicas, respond=respond, host_overhead=True
    )
    return simulate(
        asking(world, prewarm),
        [seed * 100_000 + number for number in range(10_000)],
        arrivals=Poisson(rate=world.rate, seed=seed),
        duration=duration_s,
        config=Config(engines={"chat": spec}, seed=seed),
    )


def row(world: World, reports: list[Report]) -> Row:
    """What several loads of one world came to."""
    known_s = world.parts * world.gap_s
    requests = [request for report in reports for request in report.requests]
    for request in requests:
        if request.error is not None:
            raise request.error
    first = sorted(request.first["answer"] - request.arrival - known_s for request in requests)
    total = [(request.latency or 0.0) - known_s for request in requests]
    other = [request.first["remark"] - request.arrival for request in requests]
    engines = [report.engines["chat"] for report in reports]
    read = sum(engine.cache_queries - engine.cache_hits for engine in engines)
    prewarm = sum(request.usage.prewarm_tokens for request in requests)
    return Row(
        statistics.fmean(first),
        first[int(len(first) * 0.99)],
        statistics.fmean(total),
        statistics.fmean(other),
        read / len(requests),
        prewarm / len(requests),
    )


def measure(quick: bool = False) -> Printed:
    """Every world with and without."""
    duration_s = DURATION_QUICK_S if quick else DURATION_S
    seeds = SEEDS[:1] if quick else SEEDS
    rows, raw, sooner, longer, others = [], {}, {}, {}, {}
    for world in WORLDS:
        plain, ahead = (
            row(world, [load(world, prewarm, seed, duration_s) for seed in seeds])
            for prewarm in (False, True)
        )
        sooner[world.name] = plain.first_s / ahead.first_s
        longer[world.name] = ahead.total_s / plain.total_s
        others[world.name] = ahead.other_s / plain.other_s
        raw[world.name] = {"plain": asdict(plain), "prewarm": asdict(ahead)}
        rows.append(
            (
                world.name,
                f"{plain.first_s * 1e3:.0f}",
                f"{ahead.first_s * 1e3:.0f}",
                f"{sooner[world.name]:.2f}",
                f"{plain.first_p99_s / ahead.first_p99_s:.2f}",
                f"{plain.total_s / ahead.total_s:.2f}",
                f"{others[world.name]:.3f}",
                f"{ahead.read / plain.read:.3f}",
                f"{ahead.prewarm / plain.read:.2f}",
            )
        )
    return Printed(
        name="prewarm",
        title="Growing prompts: the first word after the last part, with and without prewarming",
        header=(
            "world",
            "without, ms",
            "with, ms",
            "times sooner",
            "p99, times sooner",
            "last word, times sooner",
            "other calls, times longer",
            "tokens read, times",
            "sent ahead, times the prompt",
        ),
        rows=rows,
        targets=[
            Target("first word sooner, idle", sooner["idle"], SOONER_MIN, "at least", "x"),
            Target("first word sooner, 70B", sooner["70B"], SOONER_MIN, "at least", "x"),
            *(
                Target(f"last word later, {world.name}", longer[world.name], NO_WORSE_MAX, unit="x")
                for world in WORLDS
            ),
            *(
                Target(
                    f"other calls longer, {world.name}", others[world.name], NO_WORSE_MAX, unit="x"
                )
                for world in WORLDS
            ),
        ],
        raw=raw,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, a shorter load")
    report = measure(quick=parser.parse_args().quick)
    report.save()
    print(report.text())


if __name__ == "__main__":
    main()
