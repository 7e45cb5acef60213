"""Texts of many callers in few requests, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from random import Random
from typing import Any

import pytest

from alto.core.calls import Call, Delta, Usage
from alto.core.encode import BadAnswer, EmbedCall, Embedded, Vectors
from alto.core.replicas import Limits
from alto.engines.batch_options import BatchOptions
from alto.engines.micro_batch import CALLER_BATCHES_MAX, Batcher
from alto.engines.pool import Pool
from alto.engines.simulated import Simulated
from alto.errors import ConfigError, DeadlineExceeded, EngineError
from alto.testing.loop import run

Refuse = Callable[[list[str]], "Exception | None"]


def vector(text: str) -> list[float]:
    """What tells texts apart."""
    return [float(len(text)), float(sum(map(ord, text)))]


class Server:
    """A replica that embeds in a tenth of a second; `refuse` may raise instead."""

    def __init__(self, name: str = "s0", refuse: Refuse = lambda texts: None) -> None:
        self.name = name
        self.refuse = refuse
        self.asked: list[list[str]] = []
        self.calls: list[EmbedCall] = []
        self.running = 0
        self.seconds = 0.1

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        assert isinstance(call, EmbedCall)
        call.seal()
        texts = list(call.inputs)
        self.asked.append(texts)
        self.calls.append(call)
        self.running += 1
        try:
            await asyncio.sleep(self.seconds)
            assert texts == call.inputs, "V1"
            if (error := self.refuse(texts)) is not None:
                raise error
            usage = Usage(prompt_tokens=sum(map(len, texts)), calls=1)
            yield Embedded.of([vector(text) for text in texts], usage)
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        assert self.running == 0


def options(**more: Any) -> BatchOptions:
    return BatchOptions(**{"embed_batch": 4, "embed_max_wait": 0.01, **more})


def batcher(server: Server, **more: Any) -> Batcher:
    return Batcher("embed", server.stream, options(**more))


def call(*texts: str, **more: Any) -> EmbedCall:
    return EmbedCall(inputs=list(texts), **more)


def world(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def checked() -> None:
        await main()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    run(checked())


def refused(status: int | None, *bad: str, **more: Any) -> Refuse:
    """Refuse requests that contain one of these texts."""

    def refuse(texts: list[str]) -> Exception | None:
        if any(text in bad for text in texts):
            return EngineError("no", status=status, retryable=False, **more)
        return None

    return refuse


def test_texts_that_come_together_share_a_request_and_each_gets_its_own_back() -> None:
    async def main() -> None:
        server = Server()
        subject = batcher(server)
        one, two = await asyncio.gather(
            subject.vectors(call("a", "bb")), subject.vectors(call("c"))
        )
        assert server.asked == [["a", "bb", "c"]]
        assert (list(one), list(two)) == ([vector("a"), vector("bb")], [vector("c")])
        assert (one.usage, two.usage) == (Usage(3, calls=1), Usage(1, calls=1))
        assert asyncio.get_running_loop().time() == pytest.approx(0.11)

    world(main)


def test_a_full_batch_does_not_wait_and_the_rest_goes_in_the_next() -> None:
    async def main() -> None:
        server = Server()
        subject = batcher(server, embed_max_wait=5)
        waiting = asyncio.create_task(subject.vectors(call(*"abcdef")))
        await asyncio.sleep(0.2)
        assert server.asked == [list("abcd")]
        assert list(await waiting) == [vector(text) for text in "abcdef"]
        assert server.asked == [list("abcd"), list("ef")]

    world(main)


def test_tokens_bound_a_batch_and_a_long_text_goes_alone() -> None:
    async def main() -> None:
        server = Server()
        subject = batcher(server, embed_tokens=10)  # 40 bytes
        texts = ["x" * 30, "y" * 100, "z" * 20, "w" * 20]
        assert list(await subject.vectors(call(*texts))) == [vector(text) for text in texts]
        assert server.asked == [texts[:1], texts[1:2], texts[2:]]

    world(main)


def test_a_batch_is_as_urgent_as_the_most_urgent_of_its_callers() -> None:
    async def main() -> None:
        server = Server(refuse=refused(400, "bad"))
        subject = batcher(server)
        asked = [("a", 0), ("b", 2), ("bad", 1), ("c", 1)]
        tasks = [asyncio.create_task(subject.vectors(call(t, priority=p))) for t, p in asked]
        await asyncio.gather(*tasks, return_exceptions=True)
        found = {tuple(one.inputs): one.priority for one in server.calls}
        assert found[("a", "b", "bad", "c")] == 2
        assert found[("a", "b")] == 2
        assert found[("bad", "c")] == found[("bad",)] == 1

    world(main)


def test_other_models_and_options_are_other_requests() -> None:
    async def main() -> None:
        server = Server()
        subject = batcher(server)
        calls = [
            call("a"),
            call("b", model="large"),
            call("c", dimensions=2),
            call("d", extra={"task": "query"}),
            call("e", extra={"task": "query"}),
        ]
        await asyncio.gather(*(subject.vectors(each) for each in calls))
        made = {"".join(each.inputs): each for each in server.calls}
        assert sorted(made) == ["a", "b", "c", "de"]
        assert (made["b"].model, made["c"].dimensions) == ("large", 2)
        assert made["de"].extra == {"task": "query"}

    world(main)


def test_a_batch_that_waits_for_room_goes_on_taking_texts_in() -> None:
    async def main() -> None:
        server = Server()
        limits = Limits(sequences_start=1, sequences_max=1)
        pool = Pool("embed", [server], limits=limits, batches=options())
        asked = [asyncio.create_task(pool.embed(text)) for text in "ab"]
        await asyncio.sleep(0.05)  # the first is under way
        for text in "cdefg":
            asked.append(asyncio.create_task(pool.embed(text)))
            await asyncio.sleep(0.012)  # longer than embed_max_wait
        assert await asyncio.gather(*asked) == [vector(text) for text in "abcdefg"]
        assert server.asked == [list("ab"), list("cdef"), list("g")]
        pool.check()
        await pool.aclose()

    world(main)


def test_a_cancelled_caller_takes_its_texts_along() -> None:
    async def main() -> None:
        server = Server()
        subject = batcher(server)
        gone = asyncio.create_task(subject.vectors(call("gone", "too")))
        stays = asyncio.create_task(subject.vectors(call("stays")))
        await asyncio.sleep(0.005)
        gone.cancel()
        assert list(await stays) == [vector("stays")]
        assert server.asked == [["stays"]]

    world(main)


def test_batches_of_a_caller_that_goes_end_in_their_order() -> None:
    async def main() -> None:
        server = Server()
        ended: list[str] = []

        async def stream(call: Call) -> AsyncGenerator[Delta, None]:
            try:
                async with aclosing(server.stream(call)) as deltas:
                    async for delta in deltas:
                        yield delta
            finally:
                assert isinstance(call, EmbedCall)
                ended.append(call.inputs[0])

        subject = Batcher("embed", stream, options())
        texts = [str(number) for number in range(4 * CALLER_BATCHES_MAX)]
        gone = asyncio.create_task(subject.vectors(call(*texts)))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await asyncio.sleep(0)
        assert ended == texts[::4]

    world(main)


@pytest.mark.parametrize("after", [0.0, 0.005, 0.05])
def test_a_request_nobody_waits_for_is_not_sent_or_is_cancelled(after: float) -> None:
    async def main() -> None:
        server = Server()
        subject = batcher(server)
        asked = [asyncio.create_task(subject.vectors(call(text))) for text in "ab"]
        await asyncio.sleep(after)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0)
        assert server.running == 0
        assert len(server.asked) == (after > 0.01)
        assert not subject._open
        assert not subject._batches
        await asyncio.sleep(1)
        assert len(server.asked) == (after > 0.01)

    world(main)


def test_a_request_goes_on_while_one_of_its_callers_waits() -> None:
    async def main() -> None:
        server = Server()
        subject = batcher(server)
        gone, stays = (asyncio.create_task(subject.vectors(call(text))) for text in "ab")
        await asyncio.sleep(0.05)
        gone.cancel()
        assert list(await stays) == [vector("b")]

    world(main)


def test_a_deadline_is_the_callers_own() -> None:
    async def main() -> None:
        server = Server()
        subject = batcher(server)
        hasty = asyncio.create_task(subject.vectors(call("a", deadline=0.05, stage="search")))
        patient = asyncio.create_task(subject.vectors(call("b", deadline=0.5)))
        with pytest.raises(DeadlineExceeded, match="1 texts of stage search"):
            await hasty
        assert asyncio.get_running_loop().time() == pytest.approx(0.05)
        assert list(await patient) == [vector("b")]
        assert server.calls[0].deadline == 0.5
        with pytest.raises(DeadlineExceeded):
            await subject.vectors(call("late", deadline=0.01))
        assert len(server.asked) == 1

    world(main)


def test_a_batch_in_the_queue_is_joined_only_by_those_with_no_more_time() -> None:
    async def main() -> None:
        server = Server()
        limits = Limits(sequences_start=1, sequences_max=1)
        pool = Pool("embed", [server], limits=limits, batches=options())
        first = asyncio.create_task(pool.embed("first"))
        await asyncio.sleep(0.02)
        asked = []
        for text, deadline in (("a", 0.3), ("b", None), ("c", 0.25), ("d", 0.31)):
            asked.append(asyncio.create_task(pool.embed(text, deadline=deadline)))
            await asyncio.sleep(0.015)
        await asyncio.gather(first, *asked, return_exceptions=True)
        assert server.asked == [["first"], ["a"], ["b", "c", "d"]]
        await pool.aclose()

    world(main)


@pytest.mark.parametrize("status", [400, 413, 422, 500])
@pytest.mark.parametrize("bad", ["a", "b", "c", "d"])
def test_one_bad_text_does_not_fail_its_neighbours(status: int, bad: str) -> None:
    async def main() -> None:
        server = Server(refuse=refused(status, bad))
        subject = batcher(server)
        found = await asyncio.gather(
            *(subject.vectors(call(text)) for text in "abcd"), return_exceptions=True
        )
        for text, each in zip("abcd", found, strict=True):
            if text == bad:
                assert isinstance(each, EngineError)
                assert each.status == status
            else:
                assert each == [vector(text)]
        assert len(server.asked) == 5  # all, two halves, two of one

    world(main)


def test_the_error_names_the_text_at_fault() -> None:
    async def main() -> None:
        subject = batcher(Server(refuse=refused(400, "bad")))
        with pytest.raises(EngineError, match=r"^text 2 of 3 \('bad'\): no$") as caught:
            await subject.vectors(call("good", "bad", "fine"))
        assert not caught.value.retryable
        assert caught.value.__cause__ is not None

    world(main)


def test_nonsense_for_one_text_is_divided_too() -> None:
    async def main() -> None:
        def refuse(texts: list[str]) -> Exception | None:
            return BadAnswer("NaN") if "bad" in texts else None

        server = Server(refuse=refuse)
        subject = batcher(server)
        good, bad = await asyncio.gather(
            subject.vectors(call("good")), subject.vectors(call("bad")), return_exceptions=True
        )
        assert good == [vector("good")]
        assert isinstance(bad, BadAnswer)

    world(main)


def test_a_server_that_fails_both_halves_is_not_asked_text_by_text() -> None:
    async def main() -> None:
        server = Server(refuse=lambda texts: EngineError("broken", status=500))
        with pytest.raises(EngineError, match="broken"):
            await batcher(server).vectors(call(*"abcd"))
        assert [len(texts) for texts in server.asked] == [4, 2, 2]

    world(main)


@pytest.mark.parametrize("status", [401, 404, 429, 503, None])
def test_what_is_not_about_the_texts_is_not_tried_in_halves(status: int | None) -> None:
    async def main() -> None:
        server = Server(refuse=lambda texts: EngineError("go away", status=status))
        subject = batcher(server)
        found = await asyncio.gather(
            *(subject.vectors(call(text)) for text in "ab"), return_exceptions=True
        )
        assert [str(each) for each in found] == ["go away"] * 2
        assert found[0] is not found[1], "two tasks raise them"
        assert len(server.asked) == 1

    world(main)


def test_the_size_that_a_server_takes_is_learned() -> None:
    async def main() -> None:
        def refuse(texts: list[str]) -> Exception | None:
            return EngineError("at most 3", status=413) if len(texts) > 3 else None

        server = Server(refuse=refuse)
        subject = batcher(server, embed_batch=8)
        texts = [f"text {n}" for n in range(16)]
        assert list(await subject.vectors(call(*texts))) == [vector(text) for text in texts]
        assert subject.texts_max == 2
        server.asked.clear()
        assert list(await subject.vectors(call(*texts))) == [vector(text) for text in texts]
        assert [len(each) for each in server.asked] == [2] * 8

    world(main)


def test_a_single_bad_text_teaches_nothing_about_sizes() -> None:
    async def main() -> None:
        subject = batcher(Server(refuse=refused(400, "a")))
        await asyncio.gather(
            *(subject.vectors(call(text)) for text in "abcd"), return_exceptions=True
        )
        assert subject.texts_max == 4

    world(main)


def test_one_with_many_texts_leaves_room_for_others() -> None:
    async def main() -> None:
        server = Server()
        subject = batcher(server)
        texts = [f"text {n}" for n in range(4 * CALLER_BATCHES_MAX * 3 + 1)]
        library = asyncio.create_task(subject.vectors(call(*texts)))
        await asyncio.sleep(0.02)
        assert server.running == CALLER_BATCHES_MAX
        assert list(await subject.vectors(call("mine"))) == [vector("mine")]
        assert not library.done()
        assert list(await library) == [vector(text) for text in texts]

    world(main)


def test_closing_fails_those_who_wait_and_leaves_nothing() -> None:
    async def main() -> None:
        server = Server()
        pool = Pool("embed", [server], batches=options())
        under_way = asyncio.create_task(pool.embed(["a"] * 4))
        await asyncio.sleep(0.05)
        gathering = asyncio.create_task(pool.embed("b"))
        await asyncio.sleep(0.001)
        await pool.aclose()
        for task in (under_way, gathering):
            with pytest.raises(EngineError, match="engine embed is closed"):
                await task
        with pytest.raises(EngineError, match="engine embed is closed"):
            await pool.embed("c")
        assert await pool.embed([]) == []

    world(main)


def test_replicas_of_different_models_are_noticed() -> None:
    async def main() -> None:
        lengths = iter([2, 3])

        async def stream(call: Call) -> AsyncGenerator[Delta, None]:
            assert isinstance(call, EmbedCall)
            call.seal()
            yield Embedded.of([[0.0] * next(lengths)] * len(call.inputs), None)

        with pytest.raises(EngineError, match=r"vectors of 2 and of 3 numbers.*same model"):
            await Batcher("embed", stream, options()).vectors(call(*"abcdef"))

    world(main)


@pytest.mark.parametrize("answers", [[], [Delta("text", finish_reason="stop")]])
def test_an_engine_that_writes_text_is_named(answers: list[Delta]) -> None:
    async def main() -> None:
        async def stream(call: Call) -> AsyncGenerator[Delta, None]:
            for delta in answers:
                yield delta

        with pytest.raises(EngineError, match="engine chat answered with text, expected vectors"):
            await Batcher("chat", stream, options()).vectors(call("a"))

    world(main)


def test_an_engine_that_raises_what_it_must_not_is_told_apart() -> None:
    async def main() -> None:
        server = Server(refuse=lambda texts: ZeroDivisionError("oops"))
        with pytest.raises(EngineError, match=r"ZeroDivisionError: oops.*fault of the engine"):
            await batcher(server).vectors(call("a"))

    world(main)


@pytest.mark.parametrize(
    "wrong",
    [
        {"embed_batch": 0},
        {"embed_batch": "64"},
        {"embed_tokens": -1},
        {"embed_max_wait": "soon"},
        {"embed_max_wait": None},
        {"rerank_batch": True},
    ],
)
def test_wrong_options_are_told(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises(ConfigError, match=name):
        BatchOptions(**wrong)
    with pytest.raises(ConfigError, match=f"Simulated.*{name}"):
        Simulated(**wrong)


def test_durations_may_be_texts() -> None:
    assert Simulated(embed_max_wait="5ms").embed_max_wait_s == 0.005


# ---- worlds drawn by a seed


class Unsteady(Server):
    """Answers late, breaks, is busy, refuses what holds "bad", as the dice fall."""

    def __init__(self, name: str, luck: Random) -> None:
        super().__init__(name)
        self.luck = luck

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        self.seconds = self.luck.choice((0.0, 0.01, 0.1, 0.5))
        fate = self.luck.random()

        def refuse(texts: list[str]) -> Exception | None:
            if fate < 0.05:
                return EngineError("reset")
            if fate < 0.1:
                return EngineError("busy", status=429, retry_after=0.2)
            if fate < 0.13:
                return BadAnswer("one vector too few")
            if any("bad" in text for text in texts):
                return EngineError("cannot embed that", status=400, retryable=False)
            return EngineError("too many", status=413, retryable=False) if len(texts) > 5 else None

        self.refuse = refuse
        inner = super().stream(call)
        try:
            async for delta in inner:
                yield delta
        finally:
            await inner.aclose()


@pytest.mark.parametrize("seed", range(40))
def test_every_caller_gets_its_vectors_or_an_error(seed: int) -> None:
    luck = Random(seed)

    async def caller(pool: Pool) -> None:
        await asyncio.sleep(luck.random() * 2)
        texts = [
            luck.choice(("bad", "good")) + str(luck.randrange(99)) if luck.random() < 0.1 else "ok"
            for _ in range(luck.randrange(30))
        ]
        deadline = None
        if luck.random() < 0.3:
            deadline = asyncio.get_running_loop().time() + luck.random() * 3
        try:
            found = await pool.embed(texts, deadline=deadline, model=luck.choice((None, "m")))
        except (EngineError, DeadlineExceeded) as error:
            fault = isinstance(error, EngineError) and error.status == 400
            assert not fault or any("bad" in text for text in texts), "a neighbour's fault"
        else:
            assert isinstance(found, Vectors)
            assert list(found) == [vector(text) for text in texts]
            assert found.usage.prompt_tokens == sum(map(len, texts))
            assert not any("bad" in text for text in texts)

    async def main() -> None:
        servers = [Unsteady(f"s{n}", luck) for n in range(luck.randrange(1, 4))]
        limits = Limits(sequences_start=2, sequences_max=luck.choice((2, 8)))
        pool = Pool("embed", servers, limits=limits, batches=options(embed_batch=8), seed=seed)
        callers = [asyncio.create_task(caller(pool)) for _ in range(60)]
        await asyncio.sleep(luck.random() * 2)
        for task in luck.sample(callers, 10):
            task.cancel()
        for outcome in await asyncio.gather(*callers, return_exceptions=True):
            if outcome is not None and not isinstance(outcome, asyncio.CancelledError):
                raise outcome
        await asyncio.sleep(0.01)
        pool.check()
        assert pool.waiting == 0
        assert [server.running for server in servers] == [0] * len(servers)
        assert pool._batcher is not None
        assert not pool._batcher._open
        assert not pool._batcher._batches
        await pool.aclose()

    world(main)
