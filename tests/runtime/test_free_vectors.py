"""Embedding and reranking from inside stages, on the loop and in threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from leaks import PATIENCE_S, on_real_loop, on_virtual_time, quiet, watched

import alto
from alto import Call, Delta, Stream, Usage, pipeline, stage
from alto.core.encode import EmbedCall, Embedded, RerankCall, Scored
from alto.engines.batch_options import BatchOptions
from alto.engines.pool import Pool
from alto.simulation import Trace, simulate


class Server:
    """A replica whose vector of a text is its length; at "wait" it waits, "break" it refuses."""

    name = "r0"

    def __init__(self) -> None:
        self.calls: list[EmbedCall | RerankCall] = []
        self.open_calls = 0

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        assert isinstance(call, EmbedCall | RerankCall)
        call.seal()
        self.calls.append(call)
        texts = call.inputs if isinstance(call, EmbedCall) else call.documents
        self.open_calls += 1
        try:
            if "wait" in texts:
                await asyncio.sleep(3600)
            if "break" in texts:
                raise alto.EngineError("it broke", status=400, retryable=False)
            usage = Usage(prompt_tokens=10 * len(texts), calls=1)
            if isinstance(call, EmbedCall):
                yield Embedded.of([[float(len(text))] for text in texts], usage)
            else:
                yield Scored.of({at: len(text) for at, text in enumerate(texts)}, usage)
        finally:
            self.open_calls -= 1

    async def aclose(self) -> None:
        assert self.open_calls == 0, "a call is left open"


class Spec:
    """An engine of one such server."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def open(self, name: str) -> Pool:
        return Pool(name, [self.server], batches=BatchOptions(rerank_batch=3))


def one_stage(subject: Any) -> Any:
    @pipeline
    def p(x: str):
        return subject(x)

    return p


def call(subject: Any, x: str, *, real: bool = True, **options: Any) -> tuple[Any, Server, Usage]:
    server = Server()

    async def main() -> Any:
        async with watched(alto.Config(engines={"embed": Spec(server)})) as runtime:
            try:
                request = runtime.start(one_stage(subject), x, **options)
                return await request.result(), request.usage
            finally:
                await quiet(runtime)

    result, usage = (on_real_loop if real else on_virtual_time)(main)
    return result, server, usage


@stage
async def on_the_loop(x: str) -> list[Any]:
    engine = alto.engine("embed")
    one = await engine.embed(x)
    several = await asyncio.create_task(engine.embed([x, x + x], model="m", task="query"))
    ranked = await engine.rerank(x, ["aa", "b", "cccc", "dddd"], top_n=3)
    return [one, list(several), [(each.index, each.score, each.document) for each in ranked]]


@stage
def in_a_thread(x: str) -> list[Any]:
    engine = alto.engine("embed")
    one = engine.embed(x).result()
    several = engine.embed([x, x + x], model="m", task="query").result()
    ranked = engine.rerank(x, ["aa", "b", "cccc", "dddd"], top_n=3).result()
    return [one, list(several), [(each.index, each.score, each.document) for each in ranked]]


@pytest.mark.parametrize("subject", [on_the_loop, in_a_thread], ids=["loop", "thread"])
def test_a_stage_embeds_and_reranks(subject: Any) -> None:
    result, server, usage = call(subject, "abc", timeout=60)
    assert result == [[3.0], [[3.0], [6.0]], [(2, 4.0, "cccc"), (3, 4.0, "dddd"), (0, 2.0, "aa")]]
    assert usage == Usage(prompt_tokens=10 + 20 + 40, calls=3)
    first, second, *parts = server.calls
    assert first.stage == f"{subject.name}/embed"
    assert first.request
    assert first.deadline is not None
    assert (second.model, second.extra) == ("m", {"task": "query"})
    assert sorted(len(part.documents) for part in parts if isinstance(part, RerankCall)) == [1, 3]
    assert {part.stage for part in parts} == {f"{subject.name}/rerank"}


@stage
def split(x: str) -> Stream[str]:
    yield from x.split()


@stage
async def embed(word: str) -> float:
    [size] = await alto.engine("embed").embed(word)
    return size


def test_invocations_and_requests_share_a_request_to_the_server() -> None:
    @pipeline
    def p(x: str):
        return embed(split(x))

    server = Server()

    async def main() -> Any:
        async with watched(alto.Config(engines={"embed": Spec(server)})) as runtime:
            requests = [runtime.start(p, x) for x in ("a bb ccc", "dddd", "eeeee f")]
            results = [await request.result() for request in requests]
            return results, [request.usage for request in requests]

    results, usages = on_virtual_time(main)
    assert results == [[1.0, 2.0, 3.0], [4.0], [5.0, 1.0]]
    assert len(server.calls) == 1
    assert sum(usage.prompt_tokens for usage in usages) == 60
    assert [usage.calls for usage in usages] == [3, 1, 2]


@pytest.mark.parametrize("subject", [on_the_loop, in_a_thread], ids=["loop", "thread"])
def test_an_error_of_the_engine_reaches_the_stage(subject: Any) -> None:
    with pytest.raises(alto.StageError, match="it broke"):
        call(subject, "break")


def test_a_stage_may_go_on_after_it() -> None:
    @stage
    async def tries(x: str) -> str:
        try:
            await alto.engine("embed").embed([x, "fine"])
        except alto.EngineError as error:
            return str(error)
        return "?"

    assert call(tries, "break")[0] == "text 1 of 2 ('break'): it broke"


@pytest.mark.parametrize("subject", [on_the_loop, in_a_thread], ids=["loop", "thread"])
def test_a_deadline_ends_the_call(subject: Any) -> None:
    with pytest.raises(alto.DeadlineExceeded):
        call(subject, "wait", timeout=0.1)


def test_a_deadline_unwinds_the_thread() -> None:
    unwound = threading.Event()

    @stage
    def waits(x: str) -> Any:
        try:
            return alto.engine("embed").embed(x).result()
        finally:
            unwound.set()

    with pytest.raises(alto.DeadlineExceeded):
        call(waits, "wait", timeout=0.1)
    assert unwound.wait(PATIENCE_S)


def test_a_cancelled_request_cancels_the_call() -> None:
    server = Server()

    async def main() -> None:
        async with watched(alto.Config(engines={"embed": Spec(server)})) as runtime:
            request = runtime.start(one_stage(embed), "wait")
            await asyncio.sleep(1)
            assert server.open_calls == 1
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request.result()
            await asyncio.sleep(0)
            assert server.open_calls == 0

    on_virtual_time(main)


def test_result_on_the_loop_is_told() -> None:
    @stage
    async def waits(x: str) -> Any:
        return alto.engine("embed").embed(x).result()

    with pytest.raises(alto.StageError, match=r"on the event loop engine.*is awaited"):
        call(waits, "a")


def test_outside_a_stage_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"embed\(\) was called outside a stage.*Runtime.engine"):
        alto.engine("embed").embed("a")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda engine: engine.embed(["a", 3]), "text 2 of 2 is int"),
        (lambda engine: engine.embed(None), "got NoneType, expected a list of strings"),
        (lambda engine: engine.embed("a", dimensions=0), "dimensions is 0"),
        (lambda engine: engine.rerank(["q"], ["a"]), "the query is list"),
        (lambda engine: engine.rerank("q", "a"), "documents is one string"),
        (lambda engine: engine.rerank("q", ["a", None]), "document 2 of 2 is NoneType"),
        (lambda engine: engine.rerank("q", ["a"], top_n=0), "top_n is 0"),
    ],
)
def test_what_cannot_be_embedded_or_ranked_is_told(wrong: Any, told: str) -> None:
    @stage
    async def asks(x: str) -> Any:
        return await wrong(alto.engine("embed"))

    with pytest.raises(alto.StageError, match=told):
        call(asks, "a")


def test_an_engine_that_only_writes_is_told() -> None:
    class Writer:
        name = "embed"

        def open(self, name: str) -> Writer:
            return self

        async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
            yield Delta("", finish_reason="stop")

        async def aclose(self) -> None: ...

    async def main() -> None:
        async with watched(alto.Config(engines={"embed": Writer()})) as runtime:
            await runtime.call(one_stage(embed), "a")

    with pytest.raises(alto.StageError, match="'embed' is a Writer, which cannot embed"):
        on_virtual_time(main)


def test_a_simulation_counts_texts_and_documents() -> None:
    @stage
    async def retrieve(x: str) -> str:
        engine = alto.engine("embed")
        await engine.embed([x, "and another"])
        [best] = await engine.rerank(x, ["about ships", "about penguins", "trees"], top_n=1)
        return best.document

    report = simulate(
        one_stage(retrieve),
        ["penguins"],
        arrivals=Trace([0.0, 0.5]),
        duration=1.0,
        config=alto.Config(engines={"embed": alto.Simulated()}),
    )
    assert [request.outputs for request in report.requests] == ["about penguins"] * 2
    engine = report.engines["embed"]
    assert (engine.embedded, engine.reranked, engine.generation_tokens) == (4, 6, 0)
    assert engine.prompt_tokens == sum(request.usage.prompt_tokens for request in report.requests)
    latencies = [request.latency for request in report.requests]
    assert all(latency is not None and 0.002 < latency < 0.1 for latency in latencies)
