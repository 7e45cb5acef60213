"""ALTO as it comes: the default configuration, nothing switched off.

The LM stands behind a pool of replicas, as a served one would, so what is measured includes the
scheduling of every call. The pool's limits are above what the benchmark asks: this LM has none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from alto import Config, Runtime, Sentence, Stream, lm, pipeline, stage
from alto.core.calls import Call, Delta
from alto.core.replicas import Limits
from alto.engines.pool import Pool
from alto.engines.protocol import Engine, Take

from .. import workload
from ..workload import ScheduledLM, answer_prompt, extract_prompt, verify_prompt
from . import Fanout, Serve

REPLICAS = 4
LIMITS = Limits(sequences_start=1024, sequences_max=4096, prefill_tokens_min=1_000_000)


@stage
async def source(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


@stage
async def one(value: int) -> int:
    return value + 1


@stage
async def two(value: int) -> int:
    return value + 1


@stage
async def three(value: int) -> int:
    return value + 1


@pipeline
def fan(n: int):  # type: ignore[no-untyped-def]
    return three(two(one(source(n))))


@asynccontextmanager
async def fanout() -> AsyncIterator[Fanout]:
    async with Runtime(Config()) as runtime:

        async def run(n: int) -> list[int]:
            results: list[int] = await runtime.call(fan, n)
            return results

        yield run


@dataclass(slots=True)
class PlayedReplica:
    """One of several LM servers that all write by the same clock."""

    name: str
    lm: ScheduledLM

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        async for piece in self.lm.stream(call.messages[-1]["content"]):
            yield Delta(piece)
        yield Delta(finish_reason="stop")

    async def read(self, call: Call, take: Take) -> None:
        """The same for a reader that is called with each piece."""
        async with aclosing(self.lm.stream(call.messages[-1]["content"])) as pieces:
            async for piece in pieces:
                going = take(piece)
                if going is not True and (going is False or not await going):
                    return
        going = take(Delta(finish_reason="stop"))
        if not isinstance(going, bool):
            await going

    async def aclose(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True, slots=True)
class Played:
    """The engine of `Config(engines=...)`: a pool of replicas that play the scheduled LM."""

    lm: ScheduledLM

    def open(self, name: str) -> Engine:
        replicas = [PlayedReplica(f"{name}/{k}", self.lm) for k in range(REPLICAS)]
        return Pool(name, replicas, limits=LIMITS)


@dataclass
class Claim:
    text: str


@lm(engine="chat")
def answer(question: str) -> Stream[Sentence]:
    return answer_prompt(question)  # type: ignore[return-value]


@lm(engine="chat")
def extract(sentence: Sentence) -> Stream[Claim]:
    return extract_prompt(sentence)  # type: ignore[return-value]


@stage
async def search(claim: Claim) -> list[str]:
    return await workload.search(claim.text)


@lm(engine="chat")
def verify(claim: Claim, evidence: list[str]) -> Literal["SUPPORTED", "REFUTED", "UNKNOWN"]:
    return verify_prompt(claim.text, evidence)  # type: ignore[return-value]


@stage
async def tally(question: str, verdicts: list[str]) -> dict[str, int]:
    return workload.tally(verdicts)


@pipeline
def factcheck(question: str):  # type: ignore[no-untyped-def]
    claims = extract(answer(question))
    verdicts = verify(claims, search(claims))
    return tally(question, verdicts)


@asynccontextmanager
async def verification(lm: ScheduledLM) -> AsyncIterator[Serve]:
    async with Runtime(Config(engines={"chat": Played(lm)})) as runtime:

        async def serve(question: str) -> dict[str, int]:
            report: dict[str, int] = await runtime.call(factcheck, question)
            return report

        yield serve
