"""Requests that are refused or given up under overload, in the real driver on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest
from leaks import nothing_held, on_virtual_time, watched

import alto
from alto import Delta, Line, Stream, Usage, lm, pipeline, stage
from alto.core.admission import SEEN_MIN
from alto.simulation import Poisson, simulate


@dataclass
class Crowded:
    """An engine that takes a tenth of a second for each call that is under way."""

    seconds: float = 0.1
    running: int = 0
    calls: list[alto.Call] = field(default_factory=list)

    def open(self, name: str) -> Crowded:
        return self

    async def stream(self, call: alto.Call) -> AsyncGenerator[Delta, None]:
        self.calls.append(call)
        self.running += 1
        try:
            await asyncio.sleep(self.seconds * self.running)
            yield Delta("one\ntwo\n", finish_reason="stop")
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        pass


@lm(engine="chat", returns=Stream[Line])
def write(topic: str) -> str:
    return topic


@lm(engine="chat", on_error="drop", retries=2)
def shorten(line: Line) -> str:
    return line


@pipeline
def digest(topic: str) -> Any:
    return shorten(write(topic))


def config(engine: Crowded, **options: Any) -> alto.Config:
    return alto.Config(engines={"chat": engine}, **options)


async def learn(runtime: alto.Runtime, at_once: int, subject: Any = digest) -> None:
    """Let the runtime see what so many requests at once take."""
    await asyncio.gather(*(runtime.call(subject, "tea", timeout=1e3) for _ in range(at_once)))


async def overloaded(runtime: alto.Runtime, subject: Any = digest) -> list[alto.Request]:
    """Low and high load are known, and there are 30 requests under way."""
    for _ in range(SEEN_MIN):
        await learn(runtime, 1, subject)
    await learn(runtime, 30, subject)
    return [runtime.start(subject, "tea", timeout=1e3) for _ in range(30)]


def test_a_refused_request_ends_before_it_begins() -> None:
    async def main() -> None:
        engine = Crowded()
        async with watched(config(engine)) as runtime:
            under_way = await overloaded(runtime)
            await asyncio.sleep(0.1)
            asked, now = len(engine.calls), asyncio.get_running_loop().time()
            with pytest.raises(alto.Overloaded, match=r"pipeline digest: .* not started") as caught:
                await runtime.call(digest, "tea", timeout=1.0)
            with pytest.raises(alto.Overloaded):
                runtime.start(digest, "tea", timeout=1.0)
            with pytest.raises(alto.Overloaded):
                async for _ in runtime.stream(digest, "tea", timeout=1.0):
                    pass
            assert caught.value.retry_after is not None and caught.value.retry_after >= 1.0
            assert asyncio.get_running_loop().time() == now
            assert len(engine.calls) == asked
            assert runtime.open_requests == 30
            assert len(await runtime.call(digest, "tea")) == 2  # without a deadline
            for request in under_way:
                await request.result()
            runtime.admission.check()

    on_virtual_time(main)


def test_a_request_given_up_in_mid_flight_ends_with_that_whatever_its_stages_say() -> None:
    """`shorten` would be tried again, and its item dropped; the request is over all the same."""

    async def main() -> None:
        engine = Crowded()
        async with watched(config(engine)) as runtime:
            for _ in range(SEEN_MIN):
                await learn(runtime, 1)
            await learn(runtime, 30)
            early = runtime.start(digest, "tea", timeout=1.0)
            crowd = [runtime.start(digest, "tea", timeout=1e3) for _ in range(30)]
            with pytest.raises(alto.Overloaded, match=r"given up after .* stage (write|shorten)"):
                await early.result()
            assert early.finished
            for request in crowd:
                await request.result()
            nothing_held(runtime)
            runtime.admission.check()
            assert engine.running == 0

    on_virtual_time(main)


def test_a_free_call_of_a_request_that_is_too_late_ends_it() -> None:
    heard: list[BaseException] = []

    @stage
    async def agent(topic: str) -> str:
        engine = alto.engine("chat")
        try:
            for _ in range(3):
                await engine.complete(topic)
        except alto.Overloaded as error:
            heard.append(error)
            raise
        return "done"

    @pipeline
    def acts(topic: str) -> Any:
        return agent(topic)

    async def main() -> None:
        async with watched(config(Crowded())) as runtime:
            for _ in range(SEEN_MIN):
                await learn(runtime, 1, acts)
            await learn(runtime, 30, acts)
            late = runtime.start(acts, "tea", timeout=0.7)
            crowd = [runtime.start(acts, "tea", timeout=1e3) for _ in range(30)]
            with pytest.raises(alto.Overloaded, match="stage agent"):
                await late.result()
            for request in crowd:
                await request.result()
            assert len(heard) == 1

    on_virtual_time(main)


def test_without_deadlines_nothing_is_counted() -> None:
    async def main() -> None:
        engine = Crowded()
        async with watched(config(engine)) as runtime:
            await asyncio.gather(*(runtime.call(digest, "tea") for _ in range(30)))
            assert not runtime.admission.pipelines
            assert all(call.rest_s is None for call in engine.calls)

    on_virtual_time(main)


def test_it_can_be_switched_off() -> None:
    async def main() -> None:
        async with watched(config(Crowded(), shed=False)) as runtime:
            under_way = await overloaded(runtime)
            with pytest.raises(alto.DeadlineExceeded):
                await runtime.call(digest, "tea", timeout=1.0)
            for request in under_way:
                await request.result()

    on_virtual_time(main)


def test_every_request_is_counted_out_however_it_ends() -> None:
    async def main() -> None:
        async with watched(config(Crowded())) as runtime:
            for _ in range(SEEN_MIN):
                await learn(runtime, 1)
            await learn(runtime, 30)
            gone = runtime.start(digest, "tea")
            crowd = [runtime.call(digest, "tea", timeout=0.8 + number / 4) for number in range(20)]
            asyncio.get_running_loop().call_later(0.1, gone.cancel)
            results = await asyncio.gather(*crowd, gone.result(), return_exceptions=True)
            kinds = {type(result) for result in results}
            assert kinds >= {list, alto.Overloaded, asyncio.CancelledError}
            runtime.admission.check()

    on_virtual_time(main)


def test_a_server_that_finds_more_than_it_reads_makes_no_request_weigh_less_than_nothing() -> None:
    @dataclass
    class Miscounting(Crowded):
        async def stream(self, call: alto.Call) -> AsyncGenerator[Delta, None]:
            async for delta in super().stream(call):
                usage = Usage(10, 1, cached_tokens=10_000, calls=1)
                yield Delta(delta.text, finish_reason=delta.finish_reason, usage=usage)

    async def main() -> None:
        async with watched(config(Miscounting())) as runtime:
            await learn(runtime, 3)
            (load,) = runtime.admission.pipelines.values()
            assert load.weight.value > 0

    on_virtual_time(main)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_report_tells_shed_from_late(seed: int) -> None:
    def found(shed: bool) -> Any:
        return simulate(
            digest,
            ["tea"],
            arrivals=Poisson(12.0, seed),
            duration=60.0,
            config=config(Crowded(0.05), shed=shed),
            timeout=2.0,
        )

    with_it, without = found(True), found(False)
    assert without.shed == 0 and without.late > 0
    assert with_it.shed > with_it.late
    assert with_it.goodput(2.0) > 1.2 * without.goodput(2.0)
    assert with_it.goodput(0.0) == 0.0
