"""The pool's driver on virtual time, over replicas that break, stall and refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from random import Random
from typing import Any

import pytest

from alto.core.calls import Call, Delta, Usage
from alto.core.replicas import Limits
from alto.core.scheduling import Candidate, Facts, Finished, Placed
from alto.engines.pool import Pool
from alto.engines.protocol import Engine
from alto.engines.simulated import Simulated
from alto.errors import AltoError, DeadlineExceeded, EngineError, Overloaded
from alto.testing.loop import run

WORDS = [f"w{n:02} " for n in range(20)]
TEXT = "".join(WORDS)
Fate = Callable[[Call], "Exception | int | None"]
"""What happens to a call: an error at once, an error after so many words, or nothing."""


class FakeReplica:
    """Writes `TEXT`, or what is missing of it, a word every tenth of a second."""

    def __init__(
        self,
        name: str,
        fate: Fate = lambda call: None,
        *,
        first_s: float = 0.2,
        word_s: float = 0.1,
    ) -> None:
        self.name = name
        self.fate = fate
        self.first_s = first_s
        self.word_s = word_s
        self.calls: list[Call] = []
        self.running = 0
        self.closed = False

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        self.calls.append(call)
        self.running += 1
        try:
            fate = self.fate(call)
            if isinstance(fate, Exception):
                await asyncio.sleep(0.01)
                raise fate
            await asyncio.sleep(self.first_s)
            words = WORDS[self.begun(call) :][: call.max_tokens]
            for at, word in enumerate(words):
                if fate == at:
                    raise EngineError(f"{self.name} hung up")
                last = at == len(words) - 1
                usage = Usage(100, len(words), calls=1) if last else None
                yield Delta(word, finish_reason="stop" if last else None, usage=usage)
                await asyncio.sleep(self.word_s)
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        self.closed = True

    def begun(self, call: Call) -> int:
        message = call.messages[-1]
        return len(str(message["content"]).split()) if message["role"] == "assistant" else 0


def ask(text: str = "tell me", **more: Any) -> Call:
    return Call(messages=[{"role": "user", "content": text}], **more)


async def answer(pool: Pool, call: Call) -> list[Delta]:
    return [delta async for delta in pool.stream(call)]


def at_rest(pool: Pool) -> None:
    """Nothing is left behind."""
    pool.check()
    assert pool.waiting == 0
    assert [load.sequences for load in pool.load().values()] == [0] * len(pool.replicas)
    assert [replica.running for replica in fakes(pool)] == [0] * len(pool.replicas)
    assert not pool._calls.readers


def fakes(pool: Pool) -> list[FakeReplica]:
    return [replica for replica in pool.replicas if isinstance(replica, FakeReplica)]


def world(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run(main())


def dead(message: str = "connection refused", **more: Any) -> Fate:
    return lambda call: EngineError(message, **more)


def breaks_once(at: int) -> Fate:
    """The first call breaks after so many words."""
    fates: list[int | None] = [at]
    return lambda call: fates.pop() if fates else None


def test_a_pool_goes_by_the_clock_of_the_loop_that_it_is_asked_in() -> None:
    pool = Pool("chat", [FakeReplica("a")])

    async def asked_after(pause_s: float) -> tuple[float, float]:
        await asyncio.sleep(pause_s)
        await answer(pool, ask())
        return pool._core.now, asyncio.get_running_loop().time()

    for pause_s in (100.0, 1.0):  # the second loop's clock is behind the first one's
        told, now = run(asked_after(pause_s))
        assert told == now


def test_a_timer_of_a_loop_that_is_over_holds_up_nothing_in_the_next() -> None:
    pool = Pool("chat", [FakeReplica("a"), FakeReplica("b")], hedge_s=1.0)

    async def asked(first_s: float) -> int:
        for replica in fakes(pool):
            replica.first_s = first_s
        await answer(pool, ask(max_tokens=1))
        return pool.totals().hedged

    assert run(asked(0.2)) == 0  # it ends with the timer set that would see to a hedge
    assert run(asked(9.0)) == 1


def test_it_is_an_engine_and_forwards_what_a_replica_writes() -> None:
    async def main() -> None:
        pool = Pool("chat", [FakeReplica("r0")])
        assert isinstance(pool, Engine)
        deltas = await answer(pool, ask())
        assert "".join(deltas) == TEXT
        assert deltas[-1].usage == Usage(100, 20, calls=1)
        at_rest(pool)
        await pool.aclose()
        assert fakes(pool)[0].closed

    world(main)


def test_a_stream_that_is_not_read_asks_nothing() -> None:
    async def main() -> None:
        pool = Pool("chat", [FakeReplica("r0")])
        await pool.stream(ask()).aclose()
        assert fakes(pool)[0].calls == []
        at_rest(pool)

    world(main)


def test_calls_wait_for_room_and_then_go_in_order() -> None:
    async def main() -> None:
        pool = Pool("chat", [FakeReplica("r0")], limits=Limits(sequences_start=1, sequences_max=1))
        texts = await asyncio.gather(*(answer(pool, ask(f"call {n}")) for n in range(4)))
        assert ["".join(text) for text in texts] == [TEXT] * 4
        asked = [call.messages[0]["content"] for call in fakes(pool)[0].calls]
        assert asked == ["call 0", "call 1", "call 2", "call 3"]
        assert asyncio.get_running_loop().time() == pytest.approx(4 * 2.2)
        at_rest(pool)

    world(main)


def test_cancelling_a_waiting_call_takes_it_out_of_the_queue_at_once() -> None:
    async def main() -> None:
        pool = Pool("chat", [FakeReplica("r0")], limits=Limits(sequences_start=1, sequences_max=1))
        first, second, third = (asyncio.create_task(answer(pool, ask(str(n)))) for n in range(3))
        await asyncio.sleep(0.5)
        assert pool.waiting == 2
        second.cancel()
        await asyncio.sleep(0)
        assert pool.waiting == 1
        assert "".join(await first) == "".join(await third) == TEXT
        assert len(fakes(pool)[0].calls) == 2
        assert second.cancelled()
        at_rest(pool)

    world(main)


def test_a_reader_that_leaves_stops_the_replica() -> None:
    async def main() -> None:
        pool = Pool("chat", [FakeReplica("r0")])
        async with aclosing(pool.stream(ask())) as stream:
            async for _ in stream:
                break
        at_rest(pool)
        task = asyncio.create_task(answer(pool, ask()))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        at_rest(pool)

    world(main)


def test_a_reader_that_goes_at_the_finish_reason_has_read_it_all() -> None:
    async def main() -> None:
        seen = Notebook()
        pool = Pool("chat", [FakeReplica("r0")], policy=seen)
        async with aclosing(pool.stream(ask(stage="answer"))) as stream:
            async for delta in stream:
                if delta.finish_reason:
                    break
        assert [type(note) for note in seen.notes] == [Placed, Finished]
        at_rest(pool)

    world(main)


class Notebook:
    """A user's own policy: the first candidate, and everything written down."""

    def __init__(self) -> None:
        self.notes: list[Placed | Finished] = []

    def choose(
        self, candidates: Sequence[Candidate], facts: Facts, now: float, random: Random
    ) -> int:
        return 0

    def observe(self, seen: Placed | Finished) -> None:
        self.notes.append(seen)


def test_an_own_policy_sees_what_came_of_its_choice() -> None:
    async def main() -> None:
        seen = Notebook()
        pool = Pool("chat", [FakeReplica("r0")], policy=seen)
        await answer(pool, ask(stage="answer"))
        _, finished = seen.notes
        assert isinstance(finished, Finished)
        assert finished.stage == "answer"
        assert finished.first_s == pytest.approx(0.2)
        assert finished.total_s == pytest.approx(2.2)
        assert finished.output_tokens == 20

    world(main)


def test_a_policy_that_fails_after_an_answer_is_told_of_and_the_answer_stands() -> None:
    class Forgetful(Notebook):
        def observe(self, seen: Placed | Finished) -> None:
            if isinstance(seen, Finished):
                raise RuntimeError("no room in my notebook")

    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        pool = Pool("chat", [FakeReplica("r0")], policy=Forgetful())
        assert "".join(await answer(pool, ask())) == TEXT
        (context,) = told
        assert "observe() of scheduling policy" in context["message"]
        assert isinstance(context["exception"].__cause__, RuntimeError)
        assert not pool.totals().refused
        at_rest(pool)

    world(main)


def test_a_replica_that_refuses_is_replaced_before_anybody_notices() -> None:
    async def main() -> None:
        quick = FakeReplica("r1", first_s=0.05, word_s=0.0)
        pool = Pool("chat", [FakeReplica("r0", dead()), quick], policy="round-robin")
        for _ in range(6):
            assert "".join(await answer(pool, ask())) == TEXT
        assert len(fakes(pool)[0].calls) == 3  # then it is left alone for a while
        at_rest(pool)

    world(main)


def test_when_nobody_answers_the_error_names_everybody() -> None:
    async def main() -> None:
        pool = Pool("chat", [FakeReplica("r0", dead("no route")), FakeReplica("r1", dead("reset"))])
        with pytest.raises(EngineError, match=r"engine chat: .*r0: no route; r1: reset"):
            await answer(pool, ask())
        at_rest(pool)

    world(main)


def test_a_replica_that_comes_back_is_found_again() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def fate(call: Call) -> Exception | None:
            return EngineError("starting") if loop.time() < 6.0 else None

        pool = Pool("chat", [FakeReplica("r0", fate)], limits=Limits(tries_max=20, dark_s=30))
        assert "".join(await answer(pool, ask())) == TEXT
        assert 8.0 < loop.time() < 14.0
        assert pool.load()["r0"].healthy
        at_rest(pool)

    world(main)


def test_an_error_that_is_the_calls_own_is_not_tried_twice() -> None:
    async def main() -> None:
        fate = dead("prompt is too long", status=400, retryable=False)
        pool = Pool("chat", [FakeReplica("r0", fate), FakeReplica("r1", fate)])
        with pytest.raises(EngineError, match="prompt is too long"):
            await answer(pool, ask())
        assert sum(len(replica.calls) for replica in fakes(pool)) == 1
        at_rest(pool)

    world(main)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("at", [1, 7, 19])
def test_a_text_that_breaks_is_one_unbroken_text(at: int, native: bool) -> None:
    async def main() -> None:
        pool = Pool(
            "chat",
            [FakeReplica("r0", breaks_once(at)), FakeReplica("r1")],
            policy="round-robin",
            continue_final_message=native,
        )
        deltas = await answer(pool, ask(max_tokens=20, schema={"type": "string"}))
        assert "".join(deltas) == TEXT
        (rest,) = fakes(pool)[1].calls
        assert rest.messages[-1] == {"role": "assistant", "content": "".join(WORDS[:at])}
        assert rest.max_tokens == 20 - at
        assert rest.schema is None
        assert rest.extra == (
            {"continue_final_message": True, "add_generation_prompt": False} if native else {}
        )
        assert sum(1 for delta in deltas if delta.finish_reason) == 1
        usage = deltas[-1].usage
        assert usage is not None
        assert (usage.completion_tokens, usage.calls) == (20, 2)
        assert usage.prompt_tokens > 100
        at_rest(pool)

    world(main)


def test_a_text_that_breaks_twice_is_still_one() -> None:
    async def main() -> None:
        replicas = [FakeReplica(f"r{n}", breaks_once(5)) for n in range(2)] + [FakeReplica("r2")]
        pool = Pool("chat", replicas, policy="round-robin")
        deltas = await answer(pool, ask())
        assert "".join(deltas) == TEXT
        assert deltas[-1].usage is not None
        assert deltas[-1].usage.completion_tokens == 20
        at_rest(pool)

    world(main)


def test_a_text_on_the_only_replica_is_resumed_there() -> None:
    async def main() -> None:
        pool = Pool("chat", [FakeReplica("r0", breaks_once(5))])
        assert "".join(await answer(pool, ask())) == TEXT
        at_rest(pool)

    world(main)


def test_a_text_whose_last_token_came_needs_no_other_replica() -> None:
    class Cut(FakeReplica):
        async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
            self.calls.append(call)
            for word in WORDS[:5]:
                yield Delta(word)
            raise EngineError("hung up before the end was told")

    async def main() -> None:
        pool = Pool("chat", [Cut("r0"), Cut("r1")])
        deltas = await answer(pool, ask(max_tokens=5))
        assert "".join(deltas) == "".join(WORDS[:5])
        assert deltas[-1].finish_reason == "length"
        assert sum(len(replica.calls) for replica in fakes(pool)) == 1
        at_rest(pool)

    world(main)


def test_resuming_can_be_switched_off() -> None:
    async def main() -> None:
        replicas = [FakeReplica("r0", breaks_once(5)), FakeReplica("r1")]
        pool = Pool("chat", replicas, policy="round-robin", resume=False)
        got: list[str] = []
        with pytest.raises(EngineError, match="hung up") as failed:
            for _ in range(2):  # one of the two goes to r0
                async for delta in pool.stream(ask()):
                    got.append(delta)
        cost = failed.value.usage
        assert cost is not None
        assert (cost.calls, cost.completion_tokens) == (1, 5)
        at_rest(pool)

    world(main)


def test_a_tool_call_is_never_resumed() -> None:
    class Tools(FakeReplica):
        async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
            yield Delta("let me see ")
            yield Delta(tool_calls=[{"index": 0, "function": {"arguments": '{"ci'}}])
            raise EngineError("hung up in a tool call")

    async def main() -> None:
        pool = Pool("chat", [Tools("r0"), FakeReplica("r1")], policy="round-robin")
        with pytest.raises(EngineError, match="in a tool call"):
            await answer(pool, ask())
        assert fakes(pool)[1].calls == []
        at_rest(pool)

    world(main)


def test_a_break_in_thinking_starts_the_answer_anew() -> None:
    class Thinks(FakeReplica):
        async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
            yield Delta(reasoning="hmm ")
            raise EngineError("hung up")

    async def main() -> None:
        pool = Pool("chat", [Thinks("r0"), FakeReplica("r1")], policy="round-robin")
        deltas = await answer(pool, ask())
        assert "".join(deltas) == TEXT
        assert fakes(pool)[1].calls[0].messages == ask().messages
        at_rest(pool)

    world(main)


def test_the_end_of_a_waiting_calls_time_is_a_named_error() -> None:
    async def main() -> None:
        pool = Pool("chat", [FakeReplica("r0")], limits=Limits(sequences_start=1, sequences_max=1))
        first = asyncio.create_task(answer(pool, ask()))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="1 of 1"):
            await answer(pool, ask(deadline=1.0))
        assert asyncio.get_running_loop().time() == pytest.approx(1.0)
        await first
        at_rest(pool)

    world(main)


def test_a_call_too_many_is_refused() -> None:
    async def main() -> None:
        limits = Limits(sequences_start=1, sequences_max=1, waiting_max=1)
        pool = Pool("chat", [FakeReplica("r0")], limits=limits)
        results = await asyncio.gather(
            *(answer(pool, ask()) for _ in range(3)), return_exceptions=True
        )
        assert [isinstance(result, Overloaded) for result in results] == [False, False, True]
        at_rest(pool)

    world(main)


def test_what_a_replica_must_not_raise_is_named_as_its_fault() -> None:
    async def main() -> None:
        def fate(call: Call) -> Exception:
            return KeyError("choices")

        pool = Pool("chat", [FakeReplica("r0", fate)])
        with pytest.raises(EngineError, match="replica r0 raised KeyError") as caught:
            await answer(pool, ask())
        assert isinstance(caught.value.__cause__, KeyError)
        at_rest(pool)

    world(main)


def test_an_answer_without_a_single_delta_is_a_failure() -> None:
    class Mute(FakeReplica):
        async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
            for word in WORDS[:0]:
                yield Delta(word)

    async def main() -> None:
        pool = Pool("chat", [Mute("r0"), FakeReplica("r1")], policy="round-robin")
        assert "".join(await answer(pool, ask())) == TEXT
        at_rest(pool)

    world(main)


def test_an_answer_that_does_not_say_why_it_ended_has_broken_off() -> None:
    class Cut(FakeReplica):
        async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
            for word in WORDS[:7]:
                yield Delta(word)

    async def main() -> None:
        pool = Pool("chat", [Cut("r0"), FakeReplica("r1")], policy="round-robin")
        deltas = await answer(pool, ask())
        assert "".join(deltas) == TEXT
        assert deltas[-1].finish_reason == "stop"
        at_rest(pool)
        alone = Pool("chat", [Cut("r0")], resume=False)
        with pytest.raises(EngineError, match="r0 ended its answer after a part of it"):
            await answer(alone, ask())

    world(main)


def test_closing_ends_calls_that_wait() -> None:
    async def main() -> None:
        pool = Pool("chat", [FakeReplica("r0")], limits=Limits(sequences_start=1, sequences_max=1))
        first, second = (asyncio.create_task(answer(pool, ask())) for _ in range(2))
        await asyncio.sleep(0.5)
        await pool.aclose()
        with pytest.raises(EngineError, match="engine chat is closed"):
            await second
        with pytest.raises(EngineError, match="engine chat is closed"):
            await answer(pool, ask())
        first.cancel()
        await asyncio.wait([first])
        at_rest(pool)

    world(main)


def test_a_stalled_replica_is_hedged_and_the_loser_is_closed() -> None:
    async def main() -> None:
        slow = FakeReplica("r0", first_s=60.0)
        pool = Pool("chat", [slow, FakeReplica("r1")], policy="round-robin", hedge_s=0.5)
        assert "".join(await answer(pool, ask())) == TEXT
        assert asyncio.get_running_loop().time() == pytest.approx(0.5 + 0.2 + 2.0)
        at_rest(pool)

    world(main)


def test_two_that_begin_in_the_same_moment_give_one_text() -> None:
    async def main() -> None:
        replicas = [FakeReplica("r0", first_s=1.5), FakeReplica("r1", first_s=1.0)]
        pool = Pool("chat", replicas, policy="round-robin", hedge_s=0.5)
        assert "".join(await answer(pool, ask())) == TEXT
        at_rest(pool)

    world(main)


@pytest.mark.parametrize("after", [0.1, 0.6, 0.75, 1.0])
def test_cancelling_a_hedged_call_closes_both_tries(after: float) -> None:
    async def main() -> None:
        replicas = [FakeReplica("r0", first_s=9.0), FakeReplica("r1", first_s=0.3)]
        pool = Pool("chat", replicas, policy="round-robin", hedge_s=0.5)
        task = asyncio.create_task(answer(pool, ask()))
        await asyncio.sleep(after)
        task.cancel()
        await asyncio.wait([task])
        at_rest(pool)

    world(main)


def test_the_first_token_is_asked_for_where_a_reader_would_wait_for_a_boundary() -> None:
    async def main() -> None:
        spec = Simulated(respond=lambda call: "One sentence. And another. ")
        (replica,) = spec.open_replicas("chat")
        pool = Pool("chat", [replica])
        deltas = await answer(pool, ask(boundaries=lambda text: [13, len(text)]))
        assert "".join(deltas) == "One sentence. And another. "
        assert deltas[0] == "One"
        await pool.aclose()

    world(main)


def test_a_simulated_replica_that_is_closed_is_resumed_without_a_seam() -> None:
    text = "A sentence that goes on and on, and on. " * 20

    async def main() -> None:
        replicas = Simulated(replicas=2, respond=lambda call: text).open_replicas("chat")
        pool = Pool("chat", [Flaky(replicas[0], 40), replicas[1]], continue_final_message=True)
        texts = await asyncio.gather(*(answer(pool, ask()) for _ in range(6)))
        assert ["".join(deltas) for deltas in texts] == [text] * 6
        pool.check()
        await pool.aclose()

    world(main)


class Flaky:
    """Breaks every stream of another replica after so many deltas."""

    def __init__(self, inner: Any, after: int) -> None:
        self.name = "flaky"
        self.inner = inner
        self.after = after

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        async with aclosing(self.inner.stream(call)) as stream:
            given = 0
            async for delta in stream:
                if given == self.after:
                    raise EngineError("flaky broke off")
                given += 1
                yield delta

    async def aclose(self) -> None:
        await self.inner.aclose()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_breaks_each_call_ends_once_and_nothing_is_left(seed: int) -> None:
    """Seeds draw delays, failures, cancels and limits. Afterwards all counts are zero."""
    random = Random(seed)

    def fate(call: Call) -> Exception | int | None:
        luck = random.random()
        if luck < 0.1:
            return EngineError("refused", status=random.choice((None, 429, 500)))
        if luck < 0.15:
            return EngineError("bad request", status=400, retryable=False)
        return random.randrange(1, 20) if luck < 0.3 else None

    async def reader(pool: Pool, number: int) -> str:
        await asyncio.sleep(random.uniform(0, 10))
        call = ask(f"template {number % 3} " * 50, request=f"q{number % 7}", stage="s")
        if random.random() < 0.3:
            call.deadline = asyncio.get_running_loop().time() + random.uniform(0.5, 20)
        try:
            return "".join(await answer(pool, call))
        except AltoError as error:
            return type(error).__name__

    async def main() -> None:
        replicas = [
            FakeReplica(f"r{n}", fate, first_s=random.uniform(0.05, 3), word_s=random.random() / 5)
            for n in range(random.randint(1, 4))
        ]
        limits = Limits(
            sequences_start=random.randint(1, 8), waiting_max=random.choice((5, 100)), dark_s=3.0
        )
        pool = Pool(
            "chat",
            replicas,
            policy=random.choice(("round-robin", "prefix-affinity", "prompt-aware")),
            seed=seed,
            limits=limits,
            hedge_s=random.choice((None, 1.0)),
        )
        tasks = [asyncio.create_task(reader(pool, n)) for n in range(60)]
        for task in random.sample(tasks, 8):
            asyncio.get_running_loop().call_later(random.uniform(0, 20), task.cancel)
        done, _ = await asyncio.wait(tasks)
        told = {task.result() for task in done if not task.cancelled()}
        assert told <= {TEXT, "EngineError", "DeadlineExceeded", "Overloaded"}
        assert TEXT in told
        at_rest(pool)
        await pool.aclose()

    world(main)


def test_unlike_replicas_get_work_by_their_speed() -> None:
    """What counts is when the work is done, not how many calls went where."""
    names = ("round-robin", "least-outstanding", "prompt-aware")
    mean_s = {name: mean_on_unlike_replicas(name) for name in names}
    assert mean_s["prompt-aware"] < mean_s["least-outstanding"] < mean_s["round-robin"]
    assert mean_s["prompt-aware"] < 0.8 * mean_s["round-robin"]


@pytest.mark.parametrize("speed", [(2.0, 1.0), (2.0, 1.0, 1.0, 1.0)])
@pytest.mark.parametrize("clients", [8, 40])
def test_where_prompts_are_the_work_each_replica_gets_its_share_by_its_speed(
    speed: tuple[float, ...], clients: int
) -> None:
    """Where answers are the work the fast one gets nearly all: a fuller batch costs little."""

    async def main() -> None:
        spec = Simulated(replicas=len(speed), speed=speed, respond=lambda call: "word")
        pool = Pool("chat", spec.open_replicas("chat"))

        async def client(number: int) -> None:
            for turn in range(8):
                await answer(pool, ask(f"{number} {turn} " + "word " * 2000, stage="read"))

        await asyncio.gather(*(client(number) for number in range(clients)))
        shares = [load.sent / (8 * clients) for load in pool.load().values()]
        assert shares == pytest.approx([each / sum(speed) for each in speed], abs=0.05)
        pool.check()
        await pool.aclose()

    world(main)


def mean_on_unlike_replicas(policy: str) -> float:
    """Mean seconds a call of many clients on two replicas, one twice as fast as the other."""

    async def main() -> float:
        spec = Simulated(replicas=2, speed=(2.0, 1.0), respond=lambda call: "word " * 50)
        pool = Pool("chat", spec.open_replicas("chat"), policy=policy)
        clock = asyncio.get_running_loop().time
        took: list[float] = []

        async def client(number: int) -> None:
            for turn in range(4):
                start = clock()
                await answer(pool, ask(f"{number} {turn}", stage="answer"))
                took.append(clock() - start)

        await asyncio.gather(*(client(n) for n in range(40)))
        await pool.aclose()
        return sum(took) / len(took)

    return run(main())


def test_templates_stay_where_they_are_known() -> None:
    async def main() -> None:
        spec = Simulated(replicas=4, respond=lambda call: "word " * 20, kv_tokens=5000)

        async def hit_rate(policy: str) -> float:
            replicas = spec.open_replicas("chat")
            pool = Pool("chat", replicas, policy=policy, seed=3)
            random = Random(5)

            async def client() -> None:
                for _ in range(20):
                    template = "".join(f"t{random.randrange(8)} word " for _ in range(1))
                    await answer(pool, ask(template * 500 + f"own {random.random()}", stage="s"))

            await asyncio.gather(*(client() for _ in range(8)))
            await pool.aclose()
            hits = sum(replica.measures.cache_hits for replica in replicas)
            return hits / sum(replica.measures.cache_queries for replica in replicas)

        rates = {name: await hit_rate(name) for name in ("round-robin", "prompt-aware")}
        assert rates["prompt-aware"] > 0.75 > rates["round-robin"] + 0.1

    world(main)


def test_what_is_no_call_is_one_clear_error() -> None:
    async def main() -> None:
        pool = Pool("chat", [FakeReplica("r0")])
        wrong: Any = "tell me"
        with pytest.raises(
            EngineError, match="engine chat: asked 'tell me', a str; expected an alto"
        ) as told:
            await answer(pool, wrong)
        assert not told.value.retryable
        at_rest(pool)

    world(main)


@pytest.mark.parametrize("words", [10, 2000])
def test_beginnings_that_are_not_worth_a_prewarm_are_let_go(words: int) -> None:
    async def main() -> None:
        pool = Pool("chat", [FakeReplica("r0")], limits=Limits(prewarms_max=3))
        for stage in range(50):
            pool.warm(ask("word " * words, stage=f"s{stage}"))
            await asyncio.sleep(0)
            assert len(pool._calls.growing) <= 3 + 2
        await asyncio.sleep(60.0)
        pool.warm(ask("word"))
        assert len(pool._calls.growing) == 1
        await pool.aclose()

    world(main)
