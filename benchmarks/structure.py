"""Does streaming between stages come as close to the limit as it can?

One verification request at a time on simulated servers, on virtual time, so the numbers are exact
and the same on every machine:

    unloaded    many servers: the first verdict and the last against the critical path, which is
                computed from the engine model alone (`critical.py`)
    two calls   one server that takes two calls at a time, and one search at a time: the final
                answer against the same request with a barrier after every stage

With two calls at a time no order of work can win more than 1.5 times on LM calls alone, since the
answer is one call and takes one of the two places: A + W/2 against (A + W)/2, at best where the
answer A is as long as the rest W. What else streaming wins, it wins by searching while LMs write.

    python -m benchmarks.structure [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from dataclasses import dataclass
from typing import Any

from alto import Config, Pipeline, Simulated, pipeline, stage
from alto.simulation import Trace, simulate
from alto.testing.loop import run

from . import workload
from .contenders import handwritten
from .contenders.alto_ import Claim, answer, extract, search, tally, verify
from .critical import EngineLM, critical_path, respond
from .report import Report, Spread, Target

ABOVE_PATH_MAX = 1.02
GAIN_MIN = 1.5
QUESTIONS = 20
QUESTIONS_QUICK = 5

DURATION_S = 60.0
"""No request here takes longer."""
MANY_REPLICAS = 32
RETRIEVER_S = 0.050
"""One search of a retriever that reranks what it finds and does one query at a time."""


@stage(max_concurrency=1)
async def retrieve(claim: Claim) -> list[str]:
    await asyncio.sleep(RETRIEVER_S)
    return workload.passages(claim.text)


@pipeline
def checked(question: str):  # type: ignore[no-untyped-def]
    claims = extract(answer(question))
    verdicts = verify(claims, search(claims))
    return {"verdicts": verdicts, "report": tally(question, verdicts)}


@pipeline
def checked_one_search(question: str):  # type: ignore[no-untyped-def]
    claims = extract(answer(question))
    verdicts = verify(claims, retrieve(claims))
    return {"verdicts": verdicts, "report": tally(question, verdicts)}


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from a request's arrival to its first verdict and to its end."""

    first: float
    last: float


def alto(flow: Pipeline[..., Any], spec: Simulated, question: str, streaming: bool) -> Times:
    """One request through the production driver on virtual time."""
    report = simulate(
        flow,
        [question],
        arrivals=Trace([0.0]),
        duration=DURATION_S,
        config=Config(engines={"chat": spec}),
        streaming=streaming,
    )
    (request,) = report.requests
    if request.error is not None or request.finish is None:
        raise request.error or AssertionError(f"{question!r} was not finished")
    if request.outputs["report"] != workload.expected(question):
        raise AssertionError(f"{question!r} was answered {request.outputs['report']}")
    return Times(request.first["verdicts"] - request.arrival, request.finish - request.arrival)


def by_hand(spec: Simulated, question: str) -> float:
    """Seconds for one request streamed by hand, one search at a time: what can be reached."""

    async def main() -> float:
        one_at_a_time = asyncio.Lock()

        async def find(claim: str) -> list[str]:
            async with one_at_a_time:
                await asyncio.sleep(RETRIEVER_S)
            return workload.passages(claim)

        engine = spec.open("chat")
        start = asyncio.get_running_loop().time()
        await handwritten.factcheck(EngineLM(engine), question, find)
        took = asyncio.get_running_loop().time() - start
        await engine.aclose()
        return took

    return run(main())


def measure(quick: bool = False) -> Report:
    """Run both comparisons over several questions."""
    questions = workload.questions(QUESTIONS_QUICK if quick else QUESTIONS)
    many = Simulated(replicas=MANY_REPLICAS, respond=respond, prefix_caching=False)
    limits = [run(critical_path(many, question, workload.SEARCH_S)) for question in questions]
    strict = [
        run(critical_path(many, question, workload.SEARCH_S, known_at_stop=True))
        for question in questions
    ]
    unloaded = [alto(checked, many, question, True) for question in questions]
    first = [ours.first / limit.first for ours, limit in zip(unloaded, limits, strict=True)]
    last = [ours.last / limit.last for ours, limit in zip(unloaded, limits, strict=True)]

    first_strict = [ours.first / limit.first for ours, limit in zip(unloaded, strict, strict=True)]
    last_strict = [ours.last / limit.last for ours, limit in zip(unloaded, strict, strict=True)]

    two = Simulated(replicas=1, max_num_seqs=2, respond=respond)
    streamed = [alto(checked_one_search, two, question, True).last for question in questions]
    staged = [alto(checked_one_search, two, question, False).last for question in questions]
    free_streamed = [alto(checked, two, question, True).last for question in questions]
    free_staged = [alto(checked, two, question, False).last for question in questions]
    free_gain = [slow / fast for slow, fast in zip(free_staged, free_streamed, strict=True)]
    hand = [by_hand(two, question) for question in questions]
    gain = [slow / fast for slow, fast in zip(staged, streamed, strict=True)]
    reachable = [slow / fast for slow, fast in zip(staged, hand, strict=True)]

    return Report(
        name="structure",
        title="One request: streaming against its critical path, and against stage by stage",
        header=("what", "median (range)"),
        rows=[
            ("unloaded: critical path, s", Spread.of(limit.last for limit in limits).text()),
            ("unloaded: first verdict, times the critical path", Spread.of(first).text(3)),
            ("unloaded: last verdict, times the critical path", Spread.of(last).text(3)),
            ("  first, if a full stop alone ended a sentence", Spread.of(first_strict).text(3)),
            ("  last, if a full stop alone ended a sentence", Spread.of(last_strict).text(3)),
            ("two calls at a time: stage by stage, s", Spread.of(staged).text()),
            ("two calls at a time: streaming, s", Spread.of(streamed).text()),
            ("two calls at a time: times sooner", Spread.of(gain).text()),
            ("  by hand", Spread.of(reachable).text()),
            ("  if any number of searches ran at once, 10 ms each", Spread.of(free_gain).text()),
        ],
        targets=[
            Target(
                "unloaded, first verdict, times the critical path",
                statistics.median(first),
                ABOVE_PATH_MAX,
                unit="x",
            ),
            Target(
                "unloaded, last verdict, times the critical path",
                statistics.median(last),
                ABOVE_PATH_MAX,
                unit="x",
            ),
            Target(
                "two LM calls at a time, final answer sooner than stage by stage",
                statistics.median(gain),
                GAIN_MIN,
                "at least",
                unit="x",
            ),
        ],
        raw={
            "questions": questions,
            "first": first,
            "last": last,
            "streamed_s": streamed,
            "staged_s": staged,
            "by_hand_s": hand,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUESTIONS_QUICK} questions")
    report = measure(quick=parser.parse_args().quick)
    report.save()
    print(report.text())


if __name__ == "__main__":
    main()
