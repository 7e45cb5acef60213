"""Requests of a pipeline in a world where the replicas of its engine are moody, and some garble.

Safety: each request ends, with just what an unbroken world gives or with one named error, and
nothing is left behind. Liveness: once all are well every request comes out right.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Sequence
from random import Random
from typing import Any, Literal

import msgspec

from alto import Config, Runtime, Sentence, Stream, lm, pipeline, stage
from alto.core.calls import Call
from alto.core.replicas import Limits
from alto.engines.pool import Pool
from alto.errors import AltoError
from alto.testing.loop import run

from .moody import MOODS, MoodyReplica, PushingReplica, Span

HEALED_S = 30.0
REQUESTS = 12
LABELS = ("SUPPORTED", "REFUTED", "UNKNOWN")


class Claim(msgspec.Struct):
    text: str


@lm(engine="chat")
def answer(question: str) -> Stream[Sentence]:
    return f"Answer in a few sentences.\n{question}"  # type: ignore[return-value]


@lm(engine="chat")
def extract(sentence: Sentence) -> Stream[Claim]:
    return f"List the claims.\n{sentence}"  # type: ignore[return-value]


@stage
async def search(claim: Claim) -> list[str]:
    await asyncio.sleep(0.05)
    return [f"about {claim.text}"]


@lm(engine="chat")
def verify(claim: Claim, evidence: list[str]) -> Literal["SUPPORTED", "REFUTED", "UNKNOWN"]:
    return f"Judge {claim.text} by {evidence}"  # type: ignore[return-value]


@pipeline
def factcheck(question: str) -> Any:
    sentences = answer(question)
    claims = extract(sentences)
    return {"sentences": sentences, "claims": claims, "verdicts": verify(claims, search(claims))}


def written(call: Call) -> str:
    """The whole answer to a call, by what it is asked about."""
    about = call.arguments
    if call.stage == "answer":
        luck = _luck(about["question"])
        return " ".join(f"Note {n} is {luck.randrange(1000)}." for n in range(luck.randint(1, 4)))
    if call.stage == "extract":
        luck = _luck(about["sentence"])
        return json.dumps([{"text": f"c{luck.randrange(1000)}"} for _ in range(luck.randint(0, 3))])
    return _luck(about["claim"].text).choice(LABELS)


def _luck(text: str) -> Random:
    return Random(zlib.crc32(text.strip().encode()))


def expected(question: str) -> dict[str, list[Any]]:
    """What comes of a question where nothing goes wrong, by plain loops."""
    text = written(Call(messages=[], stage="answer", arguments={"question": question}))
    sentences = [f"{part.strip(' .')}." for part in text.split(".") if part.strip()]
    claims = []
    for sentence in sentences:
        said = written(Call(messages=[], stage="extract", arguments={"sentence": sentence}))
        claims += [Claim(**each) for each in json.loads(said)]
    verdicts = [
        written(Call(messages=[], stage="verify", arguments={"claim": claim})) for claim in claims
    ]
    return {"sentences": sentences, "claims": claims, "verdicts": verdicts}


class World:
    """Everything drawn by one seed. It is the engine of its own configuration."""

    def __init__(self, seed: int) -> None:
        luck = self.luck = Random(seed)
        self.safe = luck.random() < 0.5
        """One replica is well all the time, and none raises what cannot be tried again."""
        moods = [mood for mood in MOODS if not (self.safe and mood == "raises")]
        plans: list[Sequence[Span]] = [self._plan(moods) for _ in range(luck.randint(1, 3))]
        if self.safe:
            plans.append([Span(0.0, "well")])
        kind = MoodyReplica if seed % 2 else PushingReplica
        self.replicas = [
            kind(f"r{n}", plan, Random(f"{seed} {n}"), luck.choice((0.002, 0.02)), written)
            for n, plan in enumerate(plans)
        ]
        self.pool = Pool(
            "chat",
            self.replicas,
            policy=luck.choice(("prompt-aware", "least-outstanding", "round-robin")),
            seed=seed,
            limits=Limits(dark_s=luck.choice((1.0, 10.0))),
        )
        self.right = 0

    def open(self, name: str) -> Pool:
        return self.pool

    def _plan(self, moods: list[str]) -> list[Span]:
        times = sorted(self.luck.uniform(0, HEALED_S) for _ in range(self.luck.randint(0, 4)))
        plan = [Span(at, self.luck.choice((*moods, "garbles"))) for at in (0.0, *times)]
        return [*plan, Span(HEALED_S, "well")]

    async def request(self, runtime: Runtime, number: int) -> None:
        await asyncio.sleep(self.luck.uniform(0, HEALED_S))
        question = f"question {number}"
        timeout = self.luck.choice((None, None, 5.0))
        try:
            result = await runtime.call(factcheck, question, timeout=timeout)
        except AltoError:
            # Of two replicas one is well: what the other spoils the first mends, if there is time.
            if self.safe and len(self.replicas) == 2 and timeout is None:
                raise
            return
        assert _plain(result) == expected(question), question
        self.right += 1

    async def main(self) -> None:
        async with Runtime(Config(engines={"chat": self})) as runtime:
            await asyncio.gather(*(self.request(runtime, n) for n in range(REQUESTS)))
            self.at_rest(runtime)
            well_at = HEALED_S + self.pool._core.limits.hold_max_s
            await asyncio.sleep(max(0.0, well_at - asyncio.get_running_loop().time()))
            for number in range(REQUESTS):
                question = f"calm question {number}"
                assert _plain(await runtime.call(factcheck, question)) == expected(question)
            self.at_rest(runtime)

    def at_rest(self, runtime: Runtime) -> None:
        self.pool.check()
        assert not runtime.open_requests
        assert self.pool.waiting == 0
        assert [load.sequences for load in self.pool.load().values()] == [0] * len(self.replicas)
        assert [replica.running for replica in self.replicas] == [0] * len(self.replicas)


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "sentences": [each.strip() for each in result["sentences"]]}


def one(seed: int) -> int:
    """Run one world; how many requests came out right while replicas were moody."""
    world = World(seed)
    run(world.main())
    return world.right
