"""`alto.simulation`: the production driver on virtual time."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

import alto
from alto import Line, Stream, lm, pipeline, stage
from alto.simulation import Poisson, Trace, simulate
from alto.testing import Stuck


@lm(engine="chat", returns=Stream[Line])
def write(topic: str) -> str:
    return f"Write lines about {topic}."


@lm(engine="chat", returns=str)
def shorten(line: Line) -> str:
    return f"Shorten: {line}"


@stage
def look_up(line: Line) -> int:
    return len(line)


@stage
async def total(short: Stream[str], lengths: Stream[int]) -> int:
    return len([text async for text in short]) + sum([number async for number in lengths])


@pipeline
def digest(topic: str) -> dict[str, Any]:
    lines = write(topic)
    short = shorten(lines)
    return {"short": short, "total": total(short, look_up(lines))}


def respond(call: alto.Call) -> str:
    return "one two three four five six\n" * 4 if call.stage == "write" else "brief " * 20


def config(**settings: Any) -> alto.Config:
    return alto.Config(engines={"chat": alto.Simulated(respond=respond, **settings)})


def test_a_report_says_when_everything_happened() -> None:
    report = simulate(digest, ["tea"], arrivals=Trace([5.5, 5.0]), duration=10.0, config=config())
    first, second = report.requests
    assert (first.arrival, second.arrival) == (5.0, 5.5)
    assert first.error is None
    assert first.outputs == {"short": ["brief " * 20] * 4, "total": 4 + 27 * 4}
    assert first.finish is not None
    assert 5.0 < first.first["short"] < first.first["total"] <= first.finish
    assert report.latency(100) >= report.latency(0) > 0
    assert report.throughput == 2 / 10.0
    assert report.engines["chat"].generation_tokens > 0
    assert report.requests[0].usage.calls == 5


def test_a_report_is_printed_in_a_few_lines() -> None:
    report = simulate(digest, ["tea"], arrivals=Trace([0.0] * 50), duration=1.0, config=config())
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines] == ["requests", "latency", "first", "engine"]
    assert lines[0].startswith("requests     50, 0 failed, ")
    assert lines[2].startswith(f"first item   short {report.time_to_first('short'):.3f} s")


def test_streaming_is_sooner_than_a_barrier_after_every_stage() -> None:
    reports = [
        simulate(digest, ["tea"], arrivals=Trace([0.0]), duration=1.0, config=config(), streaming=s)
        for s in (True, False)
    ]
    streaming, barrier = (report.requests[0] for report in reports)
    assert streaming.outputs == barrier.outputs
    assert streaming.first["short"] < barrier.first["short"]
    assert streaming.finish is not None
    assert barrier.finish is not None
    assert streaming.finish < barrier.finish


def test_a_barrier_starts_no_stage_before_the_one_before_is_complete() -> None:
    seen: list[tuple[str, float]] = []

    def watch(call: alto.Call) -> str:
        import asyncio

        seen.append((call.stage, asyncio.get_running_loop().time()))
        return respond(call)

    engines = {"chat": alto.Simulated(respond=watch)}
    simulate(
        digest,
        ["tea"],
        arrivals=Trace([0.0]),
        duration=1.0,
        config=alto.Config(engines=engines),
        streaming=False,
    )
    starts = {at for name, at in seen if name == "shorten"}
    assert len(seen) == 5
    assert len(starts) == 1


def test_blocking_stages_take_the_time_that_is_said() -> None:
    times = [
        simulate(digest, ["tea"], arrivals=Trace([0.0]), duration=1.0, config=config(), durations=d)
        .requests[0]
        .finish
        for d in ({}, {"look_up": 100.0})
    ]
    assert times[0] is not None
    assert times[1] is not None
    assert times[0] < 100.0 < times[1] < 110.0


def test_asynchronous_stages_take_it_beside_what_they_wait_for() -> None:
    def ends(durations: dict[str, float]) -> float:
        load = {"arrivals": Trace([0.0]), "duration": 1.0, "config": alto.Config()}
        [request] = simulate(napping, [3], durations=durations, **load).requests
        assert request.outputs == [0, 2, 4]
        assert request.finish is not None
        return request.finish

    assert [ends(d) for d in ({}, {"nap": 1.0}, {"upto": 10.0})] == [0.5, 1.5, 10.5]


@stage
async def upto(count: int) -> Stream[int]:
    for number in range(count):
        yield number


@stage
async def nap(number: int) -> int:
    await asyncio.sleep(0.5)
    return number * 2


@pipeline
def napping(count: int) -> Any:
    return nap(upto(count))


def test_a_request_that_runs_out_of_time_is_reported_as_failed() -> None:
    report = simulate(
        digest, ["tea"], arrivals=Trace([0.0]), duration=1.0, config=config(), timeout=0.05
    )
    assert isinstance(report.requests[0].error, alto.DeadlineExceeded)
    assert report.requests[0].finish == 0.05
    assert report.throughput == 0
    assert len(report.errors) == 1


def test_inputs_are_taken_in_turn_as_one_several_or_named_arguments() -> None:
    seen = []

    @stage
    async def note(a: str, b: int) -> str:
        seen.append((a, b))
        return a

    @pipeline
    def noting(a: str, b: int = 0) -> Any:
        return note(a, b)

    simulate(
        noting,
        ["x", ("y", 1), {"b": 2, "a": "z"}],
        arrivals=Trace([0, 1, 2, 3]),
        duration=9,
        config=alto.Config(),
    )
    assert seen == [("x", 0), ("y", 1), ("z", 2), ("x", 0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": []}, "inputs is empty"),
        ({"duration": 0}, "duration=0, expected seconds above 0"),
        ({"durations": {"lookup": 1}}, r"durations names \['lookup'\], which are no stages of it"),
        ({"arrivals": Poisson(0)}, "rate=0, expected requests per second above 0"),
        ({"arrivals": Poisson(math.inf)}, "rate=inf, expected requests per second above 0"),
        ({"arrivals": Poisson(1, seed=math.nan)}, "Poisson: seed is nan, expected a whole number"),
        ({"arrivals": Trace(["a"])}, "Trace: at has 'a', expected times in seconds"),
        ({"arrivals": Trace([0.0, None])}, "Trace: at has None, expected times in seconds"),
        ({"arrivals": Trace([1.0, -1.0])}, "Trace: at has -1.0, expected times in seconds"),
        ({"arrivals": Trace(None)}, "Trace: at is None, expected a list of times"),
        ({"arrivals": Trace(iter([0.0]))}, "Trace: at is <list_iterator.*expected a list of times"),
        ({"arrivals": Trace([1.7e9])}, "first time is 1700000000.0 .* so nothing comes"),
        ({"duration": math.inf}, "duration=inf, and Poisson arrivals never end"),
        ({"inputs": None}, "inputs is None, expected a list with the argument of each request"),
        ({"inputs": "tea"}, "inputs is 'tea', expected a list with the argument of each request"),
        ({"durations": {"shorten": 1}}, "durations names shorten, an LM stage: its engine says"),
        ({"orchestrators": 1.5}, "orchestrators=1.5, exchange_s=0.1; expected at least one"),
        ({"exchange_s": "x"}, "orchestrators=1, exchange_s='x'; expected at least one"),
        (
            {"config": alto.Config(engines={"chat": alto.OpenAI(url="http://x/v1", model="m")})},
            "engine chat is alto.OpenAI, and servers do not answer on virtual time",
        ),
        ({"config": None}, r"config is None, expected alto.Config\(...\)"),
        ({"arrivals": Trace([0.0], speed=0)}, "Trace: speed=0, expected a number above 0"),
        ({"arrivals": 3}, r"arrivals=3, expected Poisson\(...\), Trace\(...\) or what has times"),
        ({"duration": "x"}, "duration='x', expected seconds above 0"),
        ({"durations": {"look_up": -1}}, "durations has -1 for look_up, expected seconds, 0 or mo"),
        ({"timeout": -1}, "timeout=-1, expected seconds above 0"),
        ({"config": alto.Config()}, "engine 'chat' is not configured"),
        ({"inputs": [("x", "y", "z")]}, "the call does not fit"),
    ],
)
def test_a_mistake_is_named(
    change: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"inputs": ["x"], "arrivals": Poisson(1), "duration": 1.0, "config": config(), **change}
    with pytest.raises((alto.ConfigError, alto.GraphError), match=message):
        simulate(digest, **given)
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_what_is_no_pipeline_is_refused() -> None:
    with pytest.raises(alto.ConfigError, match="expected a pipeline, a function with @pipeline"):
        simulate(look_up, ["x"], arrivals=Poisson(1), duration=1.0, config=config())  # type: ignore[arg-type]


def test_time_goes_on_after_years() -> None:
    durations = {"nap": 1e9}
    load = {"arrivals": Trace([0.0]), "duration": 1.0, "config": alto.Config()}
    [request] = simulate(napping, [3], durations=durations, **load).requests
    assert request.finish == 1e9 + 0.5


def test_a_percentile_is_a_number() -> None:
    report = simulate(digest, ["tea"], arrivals=Trace([0.0]), duration=1.0, config=config())
    with pytest.raises(alto.ConfigError, match="a percentile is between 0 and 100; got '50'"):
        report.latency("50")  # type: ignore[arg-type]


def test_what_waits_for_a_thread_is_named() -> None:
    @stage
    async def elsewhere(topic: str) -> str:
        return await asyncio.to_thread(str, topic)

    @pipeline
    def threaded(topic: str) -> Any:
        return elsewhere(topic)

    load = {"arrivals": Trace([0.0, 0.5]), "duration": 1.0, "config": alto.Config()}
    with pytest.raises(Stuck, match=r"It was running elsewhere at the request. Give the stage a"):
        simulate(threaded, ["tea"], **load)


def test_it_runs_where_a_loop_is_running() -> None:
    async def cell() -> float:
        report = simulate(digest, ["tea"], arrivals=Trace([0.0]), duration=1.0, config=config())
        return report.latency(50)

    assert asyncio.run(cell()) > 0


def test_poisson_arrivals_have_the_rate_and_the_seed() -> None:
    def first(seed: int, count: int) -> list[float]:
        times = Poisson(4.0, seed).times()
        return [next(times) for _ in range(count)]

    assert first(1, 5) == first(1, 5) != first(2, 5)
    assert 230 < first(1, 1000)[-1] < 270


REPORT = """
    import sys
    sys.path[:0] = [{here!r}]
    import test_simulate as t
    from alto.simulation import Poisson, simulate
    from alto import Config, Simulated
    report = simulate(t.digest, ["tea", "rice"], arrivals=Poisson(3.0, seed=5), duration=20.0,
                      config=Config(engines={{"chat": Simulated(replicas=2, seed=4)}}))
    print([(r.arrival, r.finish, sorted(r.first.items()), r.outputs) for r in report.requests], report.engines)
"""


def test_the_same_seed_gives_the_same_report_whatever_the_hash_seed() -> None:
    program = textwrap.dedent(REPORT).format(here=os.path.dirname(__file__))
    reports = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "12345")
    }
    assert len(reports) == 1
    assert len(reports.pop()) > 1000
