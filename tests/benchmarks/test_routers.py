"""The router benchmark: one load for all, and targets that can be missed."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.router_load import Plan, cpu_seconds, prompts
from benchmarks.routers import ALONE, BUSY, CALM, RIVAL, SUBJECT, Runs, summary, targets


def test_every_contender_is_sent_the_same_prompts() -> None:
    plan = Plan("alto", ("http://127.0.0.1:1/v1",), requests=20, static_words=30, own_words=5)
    other = Plan("openai", ("http://127.0.0.1:2/v1",), requests=20, static_words=30, own_words=5)
    assert prompts(plan) == prompts(other)
    sent = prompts(plan)
    assert len({text for _, text in sent}) == 20
    assert len({(number, text.split()[29]) for number, text in sent}) == len({n for n, _ in sent})
    assert {len(text.split()) for _, text in sent} == {35}


def run(**numbers: float) -> dict[str, Any]:
    return {"hit_ratio": 0.5, "cpu_ms": 2.0, "first_p50_s": 0.5, **numbers}


def beside(ours: dict[str, Any], theirs: dict[str, Any]) -> Runs:
    return {load.name: {SUBJECT: [ours], RIVAL: [theirs]} for load in (BUSY, CALM, ALONE)}


@pytest.mark.parametrize(
    ("ours", "met"),
    [
        (run(), [True] * 5),
        (run(hit_ratio=0.49), [False, False, True, True, True]),
        (run(cpu_ms=2.1), [True, True, False, True, True]),
        (run(first_p50_s=0.6), [True, True, True, False, False]),
    ],
)
def test_a_target_is_missed_by_whoever_is_behind_the_router(
    ours: dict[str, Any], met: list[bool]
) -> None:
    assert [target.met for target in targets(beside(ours, run()))] == met


def test_what_was_not_measured_is_a_miss() -> None:
    assert not any(target.met for target in targets({}))


def found(cached: int) -> dict[str, Any]:
    answer = {"first_s": 0.1, "total_s": 0.2, "prompt_tokens": 1000, "cached_tokens": cached}
    return {"answers": [answer] * 4, "seconds": 2.0, "client_cpu_s": 0.004, "router_cpu_s": 0.004}


def test_the_numbers_of_a_run_are_per_request() -> None:
    numbers = summary(found(500), [(1000.0, 1000.0), (1000.0, 1000.0)])
    assert (numbers["hit_ratio"], numbers["rate"], numbers["cpu_ms"]) == (0.5, 2.0, 2.0)


def test_servers_that_count_otherwise_than_their_answers_say_are_no_measurement() -> None:
    with pytest.raises(AssertionError, match=r"0\.500 by cached_tokens and of 0\.250"):
        summary(found(500), [(1000.0, 3000.0)])


def test_the_cpu_clock_of_another_process_is_read() -> None:
    import os
    import time

    before = time.process_time()
    assert before <= cpu_seconds(os.getpid()) <= time.process_time()
    assert cpu_seconds(None) == 0.0
