"""Retries, back-off, timeouts and what follows the last attempt."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import alto
from alto import AsCompleted, Default, Stream, pipeline, stage
from alto.testing.loop import run as run_virtually


def call(flow: Any, *args: Any, **options: Any) -> Any:
    """A request on virtual time; afterwards nothing of it is left."""

    async def main() -> Any:
        async with alto.Runtime() as runtime:
            try:
                return await runtime.call(flow, *args, **options)
            finally:
                assert runtime.open_requests == 0
                assert asyncio.all_tasks() == {asyncio.current_task()}

    return run_virtually(main())


def failing(times: int, error: type[Exception] = ValueError, **options: Any) -> Any:
    """A stage that raises this many times, and the times at which it was tried."""
    tried: list[float] = []

    @stage(name="flaky", **options)
    async def flaky(x: int) -> int:
        tried.append(asyncio.get_running_loop().time())
        if len(tried) <= times:
            raise error("not yet")
        return x

    return flaky, tried


def one(step: Any) -> Any:
    @pipeline(name="p")
    def p(x: int):
        return step(x)

    return p


# ---------------------------------------------------------------- retries


def test_a_stage_that_fails_is_not_tried_again_unless_it_says_so() -> None:
    flaky, tried = failing(1)
    with pytest.raises(alto.StageError) as caught:
        call(one(flaky), 1)
    error = caught.value
    assert str(error) == (
        "pipeline p, stage flaky at the request failed in its only attempt: ValueError: not yet"
    )
    assert (error.stage, error.path, error.attempts) == ("flaky", (), 1)
    assert isinstance(error.__cause__, ValueError)
    assert tried == [0]


def test_retries_with_exponential_back_off_and_jitter() -> None:
    flaky, tried = failing(3, retries=3, backoff=1.0)
    assert call(one(flaky), 7) == 7
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert len(pauses) == 3
    for pause, longest in zip(pauses, (1, 2, 4), strict=True):
        assert longest / 2 <= pause <= longest


def test_retries_are_used_up() -> None:
    flaky, tried = failing(9, retries=2, backoff=0)
    with pytest.raises(alto.StageError, match="failed in 3 attempts") as caught:
        call(one(flaky), 7)
    assert caught.value.attempts == len(tried) == 3


def test_retry_on_names_what_is_worth_another_try() -> None:
    flaky, _ = failing(1, ValueError, retries=1, backoff=0, retry_on=(ValueError, OSError))
    assert call(one(flaky), 7) == 7
    flaky, tried = failing(1, KeyError, retries=1, backoff=0, retry_on=ValueError)
    with pytest.raises(alto.StageError, match="in its only attempt"):
        call(one(flaky), 7)
    assert len(tried) == 1


def test_back_off_may_be_written_as_a_text() -> None:
    flaky, tried = failing(1, retries=1, backoff="500ms")
    assert call(one(flaky), 7) == 7
    assert 0.25 <= tried[1] <= 0.5


# ---------------------------------------------------------------- on_error


@stage
async def numbers(x: int) -> AsyncIterator[int]:
    for k in range(x):
        yield k


def odd_fails(**options: Any) -> Any:
    @stage(name="odd_fails", **options)
    async def step(x: int) -> int:
        if x % 2:
            raise ValueError(f"{x} is odd")
        return x

    return step


@stage
async def listed(items: list[int]) -> list[int]:
    return items


def test_drop_makes_the_item_absent() -> None:
    step = odd_fails(on_error="drop")

    @pipeline
    def p(x: int):
        kept = step(numbers(x))
        return {"kept": kept, "listed": listed(kept), "root": step(x)}

    assert call(p, 5) == {"kept": [0, 2, 4], "listed": [0, 2, 4], "root": None}


def test_a_default_stands_in() -> None:
    step = odd_fails(on_error=Default(-1))

    @pipeline
    def p(x: int):
        return {"kept": step(numbers(x)), "root": step(x)}

    assert call(p, 5) == {"kept": [0, -1, 2, -1, 4], "root": -1}


def test_fail_names_the_path() -> None:
    @pipeline
    def p(x: int):
        return odd_fails()(numbers(x))

    with pytest.raises(alto.StageError, match=r"odd_fails at \(1,\) failed") as caught:
        call(p, 5)
    assert caught.value.path == (1,)


def breaking(**options: Any) -> Any:
    @stage(name="breaking", **options)
    async def step(x: int) -> AsyncIterator[int]:
        yield 10
        yield 11
        raise ValueError("in the middle")

    return step


def test_drop_keeps_what_a_fan_out_had_given() -> None:
    step = breaking(on_error="drop")

    @pipeline
    def p(x: int):
        items = step(x)
        return {"items": items, "listed": listed(items)}

    assert call(p, 0) == {"items": [10, 11], "listed": [10, 11]}


def test_a_default_follows_what_a_fan_out_had_given() -> None:
    step = breaking(on_error=Default([99]))

    @pipeline
    def p(x: int):
        return listed(step(x))

    assert call(p, 0) == [10, 11, 99]


def test_a_fan_out_that_breaks_fails_the_request() -> None:
    @pipeline
    def p(x: int):
        return breaking()(x)

    with pytest.raises(alto.StageError, match="breaking at the request failed"):
        call(p, 0)


def test_retries_come_before_on_error() -> None:
    flaky, tried = failing(9, retries=2, backoff=0, on_error=Default(0))
    assert call(one(flaky), 7) == 0
    assert len(tried) == 3


# ---------------------------------------------------------------- who reaches a failure


@stage
async def first_two(items: Stream[int]) -> list[int]:
    found: list[int] = []
    async for item in items:
        found.append(item)
        if len(found) == 2:
            break
    return found


def test_a_failure_that_nobody_reads_as_far_as_fails_nothing() -> None:
    @stage
    async def third_fails(x: int) -> int:
        if x == 2:
            await asyncio.sleep(5)
            raise ValueError("too late to matter")
        return x

    @pipeline
    def p(x: int):
        return first_two(third_fails(numbers(x)))

    assert call(p, 9) == [0, 1]


def test_a_failure_that_comes_first_does_not_count_before_it_is_reached() -> None:
    @stage
    async def third_fails(x: int) -> int:
        if x == 2:
            raise ValueError("at once")
        await asyncio.sleep(1)
        return x

    @pipeline
    def p(x: int):
        return first_two(third_fails(numbers(x)))

    assert call(p, 9) == [0, 1]


def test_a_failure_is_met_in_path_order() -> None:
    @stage
    async def second_fails(x: int) -> int:
        if x == 1:
            raise ValueError("at once")
        return x

    @pipeline
    def p(x: int):
        return first_two(second_fails(numbers(x)))

    with pytest.raises(alto.StageError, match=r"second_fails at \(1,\)"):
        call(p, 9)


def test_a_fan_out_that_breaks_after_the_reader_is_content() -> None:
    @pipeline
    def p(x: int):
        return first_two(breaking()(x))

    assert call(p, 0) == [10, 11]


def test_as_completed_meets_a_failure_when_it_happens() -> None:
    @stage
    async def last_fails_first(x: int) -> int:
        await asyncio.sleep(10 - x)
        if x == 8:
            raise ValueError("early")
        return x

    @stage
    async def gather(items: AsCompleted[int]) -> list[int]:
        return [item async for item in items]

    @pipeline
    def p(x: int):
        return gather(last_fails_first(numbers(x)))

    with pytest.raises(alto.StageError, match=r"\(8,\)"):
        call(p, 9)


def test_either_does_not_look_at_what_it_does_not_need() -> None:
    @stage
    async def broken(x: int) -> int:
        await asyncio.sleep(1)
        raise ValueError("nobody asked")

    @pipeline
    def p(x: int):
        return alto.either(x, broken(x))

    assert call(p, 3) == 3


def test_either_takes_the_failure_of_what_comes_first() -> None:
    @stage
    async def broken(x: int) -> int:
        raise ValueError("asked")

    @pipeline
    def p(x: int):
        return alto.either(broken(x), x)

    with pytest.raises(alto.StageError, match="asked"):
        call(p, 3)


def test_a_predicate_that_raises_is_a_failure_at_that_path() -> None:
    @pipeline(name="p")
    def p(x: int):
        return listed(numbers(x).where(lambda item: 1 / (item - 2) > 0))

    with pytest.raises(alto.StageError) as caught:
        call(p, 5)
    assert str(caught.value) == (
        "pipeline p, numbers.where at (2,): the predicate raised ZeroDivisionError: division by "
        "zero"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# ---------------------------------------------------------------- time


def sleeping(seconds: Callable[[int], float], **options: Any) -> Any:
    @stage(name="sleeping", **options)
    async def step(x: int) -> int:
        await asyncio.sleep(seconds(alto.current().attempt))
        return x

    return step


def test_a_timeout_is_for_one_attempt() -> None:
    step = sleeping(lambda attempt: 5.0 if attempt == 1 else 0.5, timeout=1.0, retries=1, backoff=0)
    assert call(one(step), 7) == 7


def test_an_attempt_that_takes_too_long() -> None:
    with pytest.raises(alto.StageError) as caught:
        call(one(sleeping(lambda attempt: 5.0, timeout="1s")), 7)
    assert isinstance(caught.value.__cause__, alto.DeadlineExceeded)
    assert str(caught.value.__cause__) == (
        "stage sleeping at the request: attempt 1 took longer than timeout=1 s"
    )


def test_a_timeout_can_be_dropped_like_any_failure() -> None:
    assert call(one(sleeping(lambda attempt: 5.0, timeout=1.0, on_error="drop")), 7) is None


def test_a_timeout_does_not_count_the_wait_for_a_free_place() -> None:
    @stage(timeout=1.5, max_concurrency=1)
    async def step(x: int) -> int:
        await asyncio.sleep(1.0)
        return x

    @pipeline
    def p(x: int):
        return step(numbers(x))

    assert call(p, 5) == [0, 1, 2, 3, 4]


def test_a_timeout_does_not_count_the_wait_for_input() -> None:
    @stage
    async def ticks(x: int) -> AsyncIterator[int]:
        for k in range(x):
            await asyncio.sleep(10)
            yield k

    @stage(timeout=1.0)
    async def total(items: Stream[int]) -> int:
        found = 0
        async for item in items:
            await asyncio.sleep(0.2)
            found += item
        return found

    @pipeline
    def p(x: int):
        return total(ticks(x))

    assert call(p, 4) == 6


def test_a_timeout_does_not_count_the_wait_for_a_slow_reader() -> None:
    @stage(timeout=1.0)
    async def many(x: int) -> AsyncIterator[int]:
        for k in range(3000):
            yield k

    @stage
    async def slow(items: Stream[int]) -> int:
        count = 0
        async for _ in items:
            count += 1
            await asyncio.sleep(0.01)
        return count

    @pipeline
    def p(x: int):
        return slow(many(x))

    assert call(p, 0) == 3000


def test_the_time_of_a_request() -> None:
    @pipeline(name="p")
    def p(x: int):
        return sleeping(lambda attempt: 9.0)(x)

    with pytest.raises(alto.DeadlineExceeded, match="It was running sleeping at the request"):
        call(p, 7, timeout=2.0)
    with pytest.raises(TimeoutError):
        call(p, 7, timeout=2.0)


def test_no_time_at_all() -> None:
    flaky, tried = failing(0)
    with pytest.raises(alto.DeadlineExceeded, match="timeout=0 s leaves no time"):
        call(one(flaky), 7, timeout=0)
    assert tried == []


def test_a_request_may_run_out_of_time_while_it_waits_to_try_again() -> None:
    flaky, tried = failing(9, retries=9, backoff=60)
    with pytest.raises(alto.DeadlineExceeded):
        call(one(flaky), 7, timeout=20.0)
    assert len(tried) == 1
