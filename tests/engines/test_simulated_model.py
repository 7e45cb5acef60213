"""The batching model against schedules computed by hand, and against a plain step-by-step server.

Most tests use steps of exactly one second, so that a time is a number of steps.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from naive_server import Job, NaiveServer

from alto.engines.batch import Generation
from alto.engines.model import BatchingServer, Limits
from alto.engines.profiles import StepCosts, profile
from alto.errors import EngineError

ONE_SECOND = StepCosts(1.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0)
PER_TOKEN = StepCosts(0.0, 1.0, 1.0, 0, 0.0, 0.0, 0.0)
"""A step takes a second for each token in it."""


def server(costs: StepCosts = ONE_SECOND, **limits: int) -> BatchingServer:
    settings = {"kv_blocks": 1000, "block_tokens": 4, **limits}
    return BatchingServer(costs, Limits(**settings))


def job(prompt: int, output: int, name: str = "", marks: Sequence[int] | None = None) -> Generation:
    """A sequence. Those whose names begin alike share one prompt block for each equal letter."""
    filler = f"{name}#{random.getrandbits(64)}"

    def keys(blocks: int) -> list[bytes]:
        return [
            (name[: at + 1] if at < len(name) else f"{filler}{at}").encode() for at in range(blocks)
        ]

    return Generation(prompt, output, keys, marks)


def drain(
    model: BatchingServer, until: float = float("inf")
) -> list[tuple[float, Generation, int]]:
    """Play to the end: (time, sequence, tokens written), one entry for each waking."""
    seen = []
    while (at := model.wake_at()) is not None and at <= until:
        seen += [(at, each, each.written) for each in model.advance(at)]
        model.check()
    return seen


def times(seen: list[tuple[float, Generation, int]], one: Generation) -> list[float]:
    return [at for at, each, _ in seen if each is one]


# ---------------------------------------------------------------------- order and chunks


def test_sequences_are_admitted_in_the_order_of_their_coming() -> None:
    # Two slots. Step 1 reads a and b; each writes a token a step from its end on: b is done after
    # step 2, so c is read in step 3 and writes its one token with it; a is done after step 3 too.
    model = server(sequences_max=2)
    a, b, c = job(16, 3), job(16, 2), job(16, 1)
    for each in (a, b, c):
        model.submit(each, 0.0)
    seen = drain(model)
    assert times(seen, a) == [1.0, 2.0, 3.0]
    assert times(seen, b) == [1.0, 2.0]
    assert times(seen, c) == [3.0]
    assert (model.running, model.waiting) == (0, 0)


def test_a_long_prompt_is_read_in_chunks_beside_those_who_write() -> None:
    # Eight tokens a step. a is read in step 1. Then a takes one token of each step and b, of 20
    # tokens, the other seven: 7 + 7 + 6 in steps 2 to 4; b's first token comes with step 4.
    model = server(tokens_per_step_max=8, sequences_max=8)
    a, b = job(4, 6), job(20, 2)
    model.submit(a, 0.0)
    assert model.advance(0.0) == []
    model.submit(b, 0.5)
    seen = drain(model)
    assert times(seen, a) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert times(seen, b) == [4.0, 5.0]


def test_what_one_prompt_leaves_of_a_step_goes_to_the_next() -> None:
    # Ten tokens a step: step 1 reads 6 of a and 4 of b, step 2 writes a's second token and reads
    # b's other 2 and c's 3.
    model = server(tokens_per_step_max=10, sequences_max=8)
    a, b, c = job(6, 2), job(6, 1), job(3, 1)
    for each in (a, b, c):
        model.submit(each, 0.0)
    seen = drain(model)
    assert times(seen, a) == [1.0, 2.0]
    assert times(seen, b) == [2.0]
    assert times(seen, c) == [2.0]


def test_a_sequence_that_comes_during_a_step_waits_for_its_end() -> None:
    model = server()
    a, b, c = job(4, 10), job(4, 1), job(4, 1)
    model.submit(a, 0.0)
    drain(model, until=2.0)
    model.submit(b, 2.25)  # step 3 runs from 2 to 3, b is read in step 4
    seen = drain(model, until=4.0)
    model.submit(c, 5.0)  # exactly at a boundary: read by the step that begins there
    seen += drain(model)
    assert times(seen, b) == [4.0]
    assert times(seen, c) == [6.0]


def test_all_that_come_at_one_moment_to_an_idle_server_are_read_together() -> None:
    model = server()
    first, second = job(4, 1), job(4, 1)
    model.submit(first, 7.0)
    assert model.wake_at() == 7.0
    model.submit(second, 7.0)
    seen = drain(model)
    assert times(seen, first) == times(seen, second) == [8.0]


def test_steps_grow_with_the_context_that_they_read() -> None:
    # 1 s, and 10 ms for each token of context. The prompt of 10 is read in 1.00 s; the steps that
    # write tokens 2, 3, 4 read 11, 12, 13 tokens: 1.11 + 1.12 + 1.13.
    model = server(StepCosts(1.0, 0.0, 0.0, 0, 0.0, 0.01, 0.0))
    model.submit(one := job(10, 4), 0.0)
    assert times(drain(model), one) == pytest.approx([1.0, 2.11, 3.23, 4.36])


def test_attention_pairs_count_what_was_read_before() -> None:
    # Chunks of 8 and 4 behind 8: 8 * 4 = 32 pairs, then 4 * (8 + 2) = 40, at a second a pair.
    model = server(StepCosts(0, 0, 0, 0, 0, 0, 1.0), tokens_per_step_max=8, sequences_max=8)
    model.submit(one := job(12, 1), 0.0)
    assert times(drain(model), one) == [72.0]


# ---------------------------------------------------------------------- marks


def test_a_reader_with_marks_sleeps_in_between_and_misses_no_end() -> None:
    marked, plain = server(), server()
    a, b = job(4, 500, marks=[1, 7, 300]), job(4, 500)
    marked.submit(a, 0.0)
    plain.submit(b, 0.0)
    seen = drain(marked)
    assert [(at, tokens) for at, _, tokens in seen] == [
        (1.0, 1),
        (7.0, 7),
        (300.0, 300),
        (500.0, 500),
    ]
    assert len(drain(plain)) == 500
    assert marked.measures == plain.measures or marked.measures.steps == plain.measures.steps


# ---------------------------------------------------------------------- prefix cache


def test_a_known_prefix_is_not_read_again() -> None:
    # A second a token. The first prompt of 12 takes 12 s. The second shares two blocks of four, so
    # 4 tokens are left: 4 s. The third is the first again: its last block is read all the same,
    # since the first token of the answer comes out of it.
    model = server(PER_TOKEN)
    prompts = {"abc": 0.0, "abd": 100.0, "ab": 200.0, "abcx": 300.0}
    took = {}
    for name, at in prompts.items():
        model.submit(one := job(12, 1, name), at)
        took[name] = times(drain(model), one)[0] - at
        assert one.cached_tokens == 12 - took[name]
    assert took == {"abc": 12.0, "abd": 4.0, "ab": 4.0, "abcx": 4.0}
    assert model.measures.cache_queries == 48
    assert model.measures.cache_hits == 24


def test_prompts_of_one_step_share_what_the_first_of_them_reads() -> None:
    # 8 + 4 tokens in the step, not 8 + 8.
    model = server(PER_TOKEN)
    a, b = job(8, 1, "xy"), job(8, 1, "xz")
    model.submit(a, 0.0)
    model.submit(b, 0.0)
    assert times(drain(model), b) == [12.0]
    assert (a.cached_tokens, b.cached_tokens) == (0, 4)


def test_an_answer_is_found_by_the_prompt_that_quotes_it() -> None:
    # Prompt 4 and answer 9: 12 tokens are in the cache when it ends (the last is never read back).
    model = server()
    model.submit(job(4, 9, "pqr"), 0.0)
    drain(model)
    model.submit(again := job(20, 1, "pqrst"), 50.0)
    drain(model)
    assert again.cached_tokens == 12


def test_without_prefix_caching_everything_is_read() -> None:
    model = BatchingServer(PER_TOKEN, Limits(kv_blocks=100, block_tokens=4, sharing=False))
    for at in (0.0, 100.0):
        model.submit(one := job(12, 1, "abc"), at)
        assert times(drain(model), one) == [at + 12.0]


def test_the_block_idle_for_longest_goes_first_and_a_tail_before_its_head() -> None:
    # Four blocks. "ab" and then "cd" fill them and end; idle now, oldest first: b, a, d, c.
    # A one-block prompt evicts b; so of "ab..." only a is found, of "cd..." both.
    model = server(kv_blocks=4)
    for name in ("ab", "cd"):
        model.submit(job(8, 1, name), 0.0)
        drain(model)
    assert model.cache.idle == 4
    model.submit(job(4, 1, "e"), 10.0)
    drain(model)
    assert model.cache.match([b"a", b"ab"]) == 1
    assert model.cache.match([b"c", b"cd"]) == 2
    # Using "c" and "cd" makes them the youngest: the next to go are a, then e.
    model.submit(job(9, 1, "cd"), 20.0)
    drain(model)
    assert model.cache.match([b"a"]) == 0
    assert model.cache.match([b"e"]) == 1


# ---------------------------------------------------------------------- preemption


def test_without_blocks_the_last_admitted_is_preempted_and_computed_again() -> None:
    # Four blocks of four; two sequences of prompt 4 and answer 9, three blocks each at the end.
    # Step 1 reads both (2 blocks). Step 2 begins token 5 of each: 4 blocks. Step 6 would begin
    # token 9 of each and nothing is free: b, admitted last, goes; it had written 5.
    # a goes on alone and is done with step 9. b needs 2 blocks beside the first of its own that
    # is still cached, and finds room in step 10 only: that reads 4 + 5 tokens less the 4 cached
    # and writes its sixth token; three more follow.
    model = server(kv_blocks=4)
    a, b = job(4, 9, "a"), job(4, 9, "b")
    model.submit(a, 0.0)
    model.submit(b, 0.0)
    seen = drain(model)
    assert times(seen, a) == [float(at) for at in range(1, 10)]
    assert times(seen, b) == [1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 11.0, 12.0, 13.0]
    assert model.measures.preemptions == 1
    assert b.cached_tokens == 0  # of the prompt's first reading
    assert model.cache.held == 0


def test_a_sequence_that_can_never_fit_is_refused() -> None:
    model = server(kv_blocks=4)
    with pytest.raises(EngineError, match="needs 5 KV blocks, the server has 4") as caught:
        model.submit(job(10, 7), 0.0)
    assert caught.value.status == 400
    assert not caught.value.retryable


# ---------------------------------------------------------------------- cancellation


def test_a_cancelled_sequence_frees_its_slot_and_blocks_at_once() -> None:
    # b sits in the queue for the one slot. a is cancelled in mid-step at 3.5: its blocks are free
    # then, the step under way ends at 4, and b is read in the step after it.
    model = server(sequences_max=1)
    a, b = job(8, 100, marks=[]), job(4, 1)
    model.submit(a, 0.0)
    model.submit(b, 0.5)
    drain(model, until=3.5)
    assert model.kv_usage(3.5) == 3 / 1000  # 8 read, the 9th to 11th token written: ceil(11 / 4)
    model.cancel(a, 3.5)
    model.check()
    assert (model.running, model.waiting, model.cache.held) == (0, 1, 0)
    seen = drain(model)
    assert times(seen, a) == []
    assert times(seen, b) == [5.0]


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0, 1.5, 3.0, 3.25])
def test_cancelling_anywhere_leaves_nothing(at: float) -> None:
    model = server(sequences_max=2, tokens_per_step_max=4)
    jobs = [job(6, 5), job(3, 3), job(9, 2)]
    for each in jobs:
        model.submit(each, 0.0)
    drain(model, until=at)
    for each in jobs:
        model.cancel(each, at)
        model.check()
    drain(model)
    assert (model.running, model.waiting, model.cache.held) == (0, 0, 0)
    assert model.wake_at() is None


def test_a_cancelled_prompt_lets_the_others_go_on() -> None:
    # b is half read (7 of 20) when it is cancelled during step 2; a notices nothing.
    model = server(tokens_per_step_max=8, sequences_max=8)
    a, b = job(4, 4), job(20, 2)
    model.submit(a, 0.0)
    model.submit(b, 0.5)
    drain(model, until=1.5)
    model.cancel(b, 1.5)
    model.check()
    assert times(drain(model), a) == [2.0, 3.0, 4.0]


# ---------------------------------------------------------------------- against the plain server


def scenario(seed: int) -> tuple[StepCosts, Limits, list[Job]]:
    rng = random.Random(seed)
    limits = Limits(
        kv_blocks=rng.choice([12, 20, 60, 400]),
        block_tokens=rng.choice([1, 4, 16]),
        sequences_max=rng.choice([1, 3, 8]),
        tokens_per_step_max=rng.choice([8, 32, 512]),
        sharing=rng.random() < 0.8,
    )
    costs = profile(rng.choice(["llama-3-8b_h100_tp1", "llama-2-7b_a100_tp1"])).step_costs(
        host_overhead=rng.random() < 0.5
    )
    room = limits.kv_blocks * limits.block_tokens
    jobs = []
    at = 0.0
    for number in range(rng.randint(1, 30)):
        at += rng.choice([0.0, rng.expovariate(20.0), rng.expovariate(2.0)])
        prompt = rng.randint(1, max(1, room // rng.choice([2, 5, 20])))
        output = rng.randint(1, max(1, min(300, (room - prompt) // rng.choice([1, 4]))))
        family, common = rng.randint(0, 3), rng.randint(0, 6)
        blocks = (prompt + output) // limits.block_tokens + 1
        keys = [
            f"{family}.{index}".encode() if index < common else f"{number}/{index}".encode()
            for index in range(blocks)
        ]
        cancel_at = at + rng.expovariate(3.0) if rng.random() < 0.2 else None
        jobs.append(Job(number, at, prompt, output, keys, cancel_at))
    return costs, limits, jobs


def play_model(
    costs: StepCosts, limits: Limits, jobs: list[Job], marks: Sequence[int] | None
) -> tuple[BatchingServer, list[Generation], dict[int, list[float]]]:
    model = BatchingServer(costs, limits)
    made = [
        Generation(job.prompt, job.output, lambda n, job=job: job.keys[:n], marks) for job in jobs
    ]
    index = {id(each): number for number, each in enumerate(made)}
    token_times: dict[int, list[float]] = {number: [] for number in range(len(made))}
    events = [(job.at, 0, job.number) for job in jobs]
    events += [(job.cancel_at, 1, job.number) for job in jobs if job.cancel_at is not None]
    events.sort()

    def play_to(limit: float) -> None:
        while (at := model.wake_at()) is not None and at < limit:
            for each in model.advance(at):
                token_times[index[id(each)]].append(at)

    for at, kind, number in events:
        play_to(at)
        if kind == 0:
            model.submit(made[number], at)
        else:
            model.cancel(made[number], at)
        model.check()
    play_to(float("inf"))
    model.check()
    return model, made, token_times


@pytest.mark.parametrize("seed", [*range(150), 1744])  # 1744: an eviction lets the head in
def test_the_model_agrees_with_a_plain_server_that_takes_every_step(seed: int) -> None:
    costs, limits, jobs = scenario(seed)
    model, made, token_times = play_model(costs, limits, jobs, None)
    plain = NaiveServer(costs, limits)
    plain.play(jobs)
    for number, (one, other) in enumerate(zip(made, jobs, strict=True)):
        assert token_times[number] == pytest.approx(other.token_times, rel=1e-9), number
        assert one.cached_tokens == (other.cached or 0), number
    assert model.measures.preemptions == plain.preemptions
    assert model.cache.held == plain.held == 0


@pytest.mark.parametrize("seed", range(150, 200))
def test_marks_change_nothing_but_who_is_woken(seed: int) -> None:
    costs, limits, jobs = scenario(seed)
    fine, fine_made, _ = play_model(costs, limits, jobs, None)
    coarse, coarse_made, _ = play_model(costs, limits, jobs, [])
    assert [each.finished_at for each in coarse_made] == [each.finished_at for each in fine_made]
    assert [each.first_token_at for each in coarse_made] == [
        each.first_token_at for each in fine_made
    ]
    assert coarse.measures.preemptions == fine.measures.preemptions
    assert coarse.measures.cache_hits == fine.measures.cache_hits
    assert coarse.measures.steps == fine.measures.steps
    assert coarse.measures.busy_seconds == pytest.approx(fine.measures.busy_seconds)
