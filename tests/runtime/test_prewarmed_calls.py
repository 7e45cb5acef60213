"""`@lm(prewarm=True)`: the parts of a prompt that are known are read while the others are missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from leaks import nothing_held, on_real_loop, on_virtual_time, watched

import alto
from alto import Call, Delta, Recorded, Simulated, Stream, lm, pipeline, stage
from alto.engines import sim_server
from alto.engines.pool import Pool
from alto.engines.sim_replica import SimReplica
from alto.errors import EngineError

PART = "Some evidence that somebody has found somewhere, and what it says. " * 60  # 720 tokens
PARTS = 5


@stage
async def search(question: str) -> AsyncIterator[str]:
    for number in range(PARTS):
        await asyncio.sleep(0.5)
        yield f"{number}: {PART}"


def growing(prewarm: bool, source: Any = search) -> Any:
    @lm(engine="chat", returns=str, max_tokens=20, prewarm=prewarm)
    async def answer(question: str, evidence: Stream[str]) -> AsyncIterator[str]:
        yield f"Question: {question}\n"
        async for found in evidence:
            yield found

    @pipeline
    def asking(question: str) -> Any:
        return answer(question, source(question))

    return asking


def simulated(**options: Any) -> Simulated:
    return Simulated(respond=lambda call: "This is the answer.", **options)


async def asked(engine: Any, *, prewarm: bool = True, **more: Any) -> tuple[float, alto.Usage]:
    """Seconds until the answer is there, and what it cost."""
    config = alto.Config(engines={"chat": engine})
    loop = asyncio.get_running_loop()
    async with watched(config) as runtime:
        start = loop.time()
        request = runtime.start(growing(prewarm), "Why?", **more)
        assert await request.result() == "This is the answer."
        live = runtime.engines["chat"]
        if isinstance(live, Pool):
            live.check()
        return loop.time() - start, request.usage


def test_the_call_finds_in_the_cache_what_was_read_ahead_and_answers_sooner() -> None:
    late, plain = on_virtual_time(lambda: asked(simulated(), prewarm=False))
    early, usage = on_virtual_time(lambda: asked(simulated()))
    assert plain.cached_tokens == plain.prewarm_tokens == 0
    assert usage.prompt_tokens == plain.prompt_tokens
    assert usage.completion_tokens == plain.completion_tokens
    assert usage.calls == 1
    # All but the last part, which nothing was waited for behind.
    assert usage.cached_tokens > 0.75 * usage.prompt_tokens
    # Each prewarm is the whole prompt so far, and a token.
    assert usage.prewarm_tokens > usage.prompt_tokens
    assert early < late - 0.05


def test_in_a_request_with_a_token_budget_nothing_is_sent_ahead() -> None:
    _, usage = on_virtual_time(lambda: asked(simulated(), token_budget=10_000))
    assert usage.prewarm_tokens == 0


@pytest.mark.parametrize(
    "policy", ["round-robin", "least-outstanding", "prefix-affinity", "prompt-aware"]
)
def test_the_call_follows_to_the_replica_that_has_read_its_beginning(policy: str) -> None:
    _, usage = on_virtual_time(lambda: asked(simulated(replicas=4, policy=policy)))
    assert usage.cached_tokens > 0.75 * usage.prompt_tokens


def test_an_engine_in_a_recording_is_warmed_too() -> None:
    spec = Recorded(
        entries=[
            {
                "stage": "answer",
                "arguments": {
                    "question": "Why?",
                    "evidence": [f"{number}: {PART}" for number in range(PARTS)],
                },
                "text": "This is the answer.",
            }
        ]
    )
    _, usage = on_virtual_time(lambda: asked(spec))
    assert usage.cached_tokens > 0.75 * usage.prompt_tokens


@pytest.mark.parametrize("servers", [1, 2])
def test_over_a_socket_a_prewarm_is_a_call_for_one_token(servers: int) -> None:
    asked_for: list[int | None] = []

    async def main() -> alto.Usage:
        came: asyncio.Queue[None] = asyncio.Queue()

        def respond(call: Call) -> str:
            asked_for.append(call.max_tokens)
            came.put_nowait(None)
            return "This is the answer."

        @stage
        async def search_on(question: str) -> AsyncIterator[str]:
            for number in range(PARTS):
                yield f"{number}: {PART}"
                if number < PARTS - 1:
                    await came.get()  # until it is being read

        running = [
            await sim_server.start(Simulated(respond=respond, speed=50.0)) for _ in range(servers)
        ]
        try:
            config = alto.Config(
                engines={"chat": alto.OpenAI(urls=[server.url for server in running], model="sim")}
            )
            async with alto.Runtime(config) as runtime:
                request = runtime.start(growing(True, search_on), "Why?")
                assert await request.result() == "This is the answer."
                nothing_held(runtime)
            return request.usage
        finally:
            for server in running:
                await server.aclose()

    usage = on_real_loop(main)
    assert asked_for == [1] * (PARTS - 1) + [20]
    assert usage.calls == 1
    assert usage.cached_tokens > 0.5 * usage.prompt_tokens  # the first three parts of five


# ---------------------------------------------------------------------- nothing is left, nothing waits


class Frail(SimReplica):
    """A replica that does to prewarms what `fault` says, and answers calls."""

    fault = ""

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        if call.prewarm and self.fault == "hangs":
            await asyncio.Event().wait()
        if call.prewarm and self.fault == "refuses":
            raise EngineError("max_tokens is too small", status=400, retryable=False)
        if call.prewarm and self.fault == "breaks":
            raise EngineError("connection reset")
        if call.prewarm and self.fault == "raises":
            raise ValueError("a fault of the replica class")
        inner = super().stream(call)
        try:
            async for delta in inner:
                yield delta
        finally:
            await inner.aclose()


class FrailEngine(Simulated):
    def open_replicas(self, name: str) -> list[SimReplica]:
        replicas = super().open_replicas(name)
        for replica in replicas:
            replica.__class__ = Frail
        return replicas


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("fault", ["hangs", "refuses", "breaks", "raises"])
def test_a_prewarm_that_fails_costs_its_call_nothing(
    fault: str, replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = FrailEngine(respond=lambda call: "This is the answer.", replicas=replicas)
    plain, _ = on_virtual_time(lambda: asked(spec, prewarm=False))
    monkeypatch.setattr(Frail, "fault", fault)
    took, usage = on_virtual_time(lambda: asked(spec))
    assert took == pytest.approx(plain)
    assert usage.calls == 1


@pytest.mark.parametrize("timeout", [0.55, 0.8, 2.1])
def test_a_request_that_ends_meanwhile_leaves_no_prewarm(timeout: float) -> None:
    async def main() -> None:
        spec = simulated(speed=0.01)  # so slow that a prewarm is under way whenever it ends
        async with watched(alto.Config(engines={"chat": spec})) as runtime:
            request = runtime.start(growing(True), "Why?", timeout=timeout)
            with pytest.raises(alto.DeadlineExceeded):
                await request.result()
            live = runtime.engines["chat"]
            assert isinstance(live, Pool)
            live.check()
            (replica,) = live.replicas
            assert isinstance(replica, SimReplica)
            assert (replica.running, replica.waiting) == (0, 0)
            assert live.load()[replica.name].sequences == 0
            assert request.usage.prewarm_tokens > 0  # estimated: it was cut short

    on_virtual_time(main)


def test_closing_the_runtime_ends_prewarms() -> None:
    async def main() -> None:
        runtime = alto.Runtime(alto.Config(engines={"chat": simulated(speed=0.01)}))
        request = runtime.start(growing(True), "Why?")
        await asyncio.sleep(0.8)
        assert len(asyncio.all_tasks()) > 1
        await runtime.aclose()
        with pytest.raises(asyncio.CancelledError):
            await request.result()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    on_virtual_time(main)


def test_an_engine_that_cannot_is_asked_as_ever() -> None:
    class Plain:
        name = "plain"

        def open(self, name: str) -> Plain:
            return self

        async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
            assert not call.prewarm
            yield Delta("This is the answer.", finish_reason="stop")

        async def aclose(self) -> None: ...

    _, usage = on_virtual_time(lambda: asked(Plain()))
    assert usage == alto.Usage()


def test_a_prompt_that_is_there_at_once_is_not_sent_ahead() -> None:
    @lm(engine="chat", returns=str, prewarm=True)
    async def answer(question: str) -> AsyncIterator[str]:
        for number in range(PARTS):
            yield f"{number}: {PART}"

    @pipeline
    def asking(question: str) -> Any:
        return answer(question)

    async def main() -> None:
        async with watched(alto.Config(engines={"chat": simulated()})) as runtime:
            request = runtime.start(asking, "Why?")
            await request.result()
            assert request.usage.prewarm_tokens == 0

    on_virtual_time(main)


def test_a_retry_begins_anew_and_finds_what_was_read_before() -> None:
    attempts: list[int] = []

    def respond(call: Call) -> str:
        attempts.append(call.attempt)
        return "This is the answer." if call.attempt > 1 else "7"

    @lm(engine="chat", returns=str, prewarm=True, retries=1, backoff=0)
    async def answer(question: str, evidence: Stream[str]) -> AsyncIterator[str]:
        async for found in evidence:
            yield found
            if alto.current().attempt == 1 and found.startswith("3"):
                raise ConnectionError("not now")

    @pipeline
    def asking(question: str) -> Any:
        return answer(question, search(question))

    async def main() -> alto.Usage:
        spec = Simulated(respond=respond, replicas=3)
        async with watched(alto.Config(engines={"chat": spec})) as runtime:
            request = runtime.start(asking, "Why?")
            assert await request.result() == "This is the answer."
            return request.usage

    usage = on_virtual_time(main)
    assert attempts == [2]
    assert usage.cached_tokens > 0.75 * usage.prompt_tokens


TEMPLATE = "Check the claim with the utmost care, and say in one word what came of it. " * 60


@lm(engine="chat", returns=str, prewarm=True)
def check(claim: str) -> str:
    return f"{TEMPLATE}\nClaim: {claim}"


@pipeline
def checking(claim: str) -> Any:
    return check(claim)


@pytest.mark.parametrize("prepared", [True, False])
def test_what_prompts_begin_with_is_read_before_the_first_call(prepared: bool) -> None:
    async def main() -> int:
        config = alto.Config(engines={"chat": simulated(replicas=3)})
        async with watched(config) as runtime:
            if prepared:
                runtime.prepare(checking)
                await asyncio.sleep(1)
            request = runtime.start(checking, "Tea is hot.")
            await request.result()
            assert request.usage.prewarm_tokens == 0  # it was for all requests
            live = runtime.engines["chat"]
            assert isinstance(live, Pool)
            live.check()
            return request.usage.cached_tokens

    found = on_virtual_time(main)
    assert found > 900 if prepared else found == 0


def test_it_needs_something_to_send_ahead() -> None:
    with pytest.raises(alto.GraphError) as caught:

        @lm(prewarm=True)
        async def answer(question: str) -> str:
            return question

    assert str(caught.value) == (
        "stage answer: prewarm=True on an async function that returns its prompt: nothing of it is "
        "known before it is complete. Yield the parts of the prompt as they become known."
    )
