"""Micro-batches across requests, and how many invocations of a stage run at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import alto
from alto import pipeline, stage
from alto.testing.loop import run as run_virtually


@stage
async def numbers(x: int) -> AsyncIterator[int]:
    for k in range(x):
        yield k


class Batches:
    """A batch stage that keeps what it was given, and when."""

    def __init__(self, **options: Any) -> None:
        self.given: list[list[int]] = []
        self.times: list[float] = []

        @stage(name="square", **options)
        async def square(xs: list[int]) -> list[int]:
            self.given.append(list(xs))
            self.times.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.01)
            return [x * x for x in xs]

        self.stage = square


def requests(flow: Any, *inputs: Any, gap: float = 0.0) -> list[Any]:
    """Requests of one runtime, begun one after the other."""

    async def main() -> list[Any]:
        async with alto.Runtime() as runtime:
            tasks = []
            for value in inputs:
                tasks.append(asyncio.create_task(runtime.call(flow, value)))
                await asyncio.sleep(gap)
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert runtime.open_requests == 0
            return found

    return run_virtually(main())


def test_a_full_batch_goes_at_once_and_the_rest_after_max_wait() -> None:
    square = Batches(batch=4, max_wait="5ms")

    @pipeline
    def p(x: int):
        return square.stage(numbers(x))

    assert requests(p, 10) == [[k * k for k in range(10)]]
    assert square.given == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert square.times[0] < 0.005 <= square.times[2]


def test_batches_form_across_requests() -> None:
    square = Batches(batch=8, max_wait=1.0)

    @pipeline
    def p(x: int):
        return square.stage(x)

    assert requests(p, *range(8)) == [k * k for k in range(8)]
    assert square.given == [list(range(8))]


def test_an_item_does_not_wait_longer_than_max_wait() -> None:
    square = Batches(batch=8, max_wait=1.0)

    @pipeline
    def p(x: int):
        return square.stage(x)

    assert requests(p, 1, 2, 3, gap=0.6) == [1, 4, 9]
    assert square.given == [[1, 2], [3]]


def test_several_parameters_and_constants() -> None:
    given: list[Any] = []

    @stage(batch=4, max_wait=1.0)
    async def weigh(xs: list[int], ys: list[int], scale: int | list[int] = 1) -> list[int]:
        given.append((xs, ys, scale))
        scales = scale if isinstance(scale, list) else [scale] * len(xs)
        return [x * by + y for x, y, by in zip(xs, ys, scales, strict=True)]

    @pipeline
    def p(x: int):
        items = numbers(x)
        return {
            "plain": weigh(items, x),
            "scaled": weigh(items, x, scale=10),
            "items scaled": weigh(items, x, items),
        }

    assert requests(p, 2) == [{"plain": [2, 3], "scaled": [2, 12], "items scaled": [2, 3]}]
    assert ([0, 1], [2, 2], 1) in given
    assert ([0, 1], [2, 2], 10) in given
    assert ([0, 1], [2, 2], [0, 1]) in given


def test_a_list_is_an_item_of_a_batch() -> None:
    @stage(batch=4, max_wait=0)
    async def sizes(rows: list[list[int]]) -> list[int]:
        return [len(row) for row in rows]

    @stage
    async def row(x: int) -> list[int]:
        return [0] * x

    @pipeline
    def p(x: int):
        return {"items": sizes(row(numbers(x))), "gathered": sizes(numbers(x))}

    assert requests(p, 3) == [{"items": [0, 1, 2], "gathered": 3}]


def test_a_batch_that_raises_is_tried_item_by_item() -> None:
    given: list[list[int]] = []

    @stage(batch=4, max_wait=1.0, on_error="drop")
    async def picky(xs: list[int]) -> list[int]:
        given.append(list(xs))
        if 2 in xs:
            raise ValueError("not 2")
        return xs

    @pipeline
    def p(x: int):
        return picky(numbers(x))

    assert requests(p, 4) == [[0, 1, 3]]
    assert given == [[0, 1, 2, 3], [0], [1], [2], [3]]


def test_one_bad_item_fails_its_own_request_only() -> None:
    @stage(batch=4, max_wait=1.0)
    async def picky(xs: list[int]) -> list[int]:
        if 2 in xs:
            raise ValueError("not 2")
        return xs

    @pipeline
    def p(x: int):
        return picky(x)

    first, second, third, fourth = requests(p, 0, 1, 2, 3)
    assert (first, second, fourth) == (0, 1, 3)
    assert isinstance(third, alto.StageError)


def test_a_batch_of_the_wrong_length() -> None:
    @stage(batch=4, max_wait=0)
    async def short(xs: list[int]) -> list[int]:
        return xs[1:]

    @pipeline
    def p(x: int):
        return short(numbers(x))

    (error,) = requests(p, 3)
    assert isinstance(error, alto.StageError)
    assert "short" in str(error)


def test_a_request_that_is_gone_leaves_its_batch() -> None:
    square = Batches(batch=4, max_wait=10.0)

    @pipeline
    def p(x: int):
        return square.stage(x)

    async def main() -> Any:
        async with alto.Runtime() as runtime:
            gone = runtime.start(p, 5)
            stays = asyncio.create_task(runtime.call(p, 6))
            await asyncio.sleep(1)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone.result()
            return await stays

    assert run_virtually(main()) == 36
    assert square.given == [[6]]


def test_blocking_batches_run_in_a_thread() -> None:
    @stage(batch=16, max_wait="1ms")
    def double(xs: list[int]) -> list[int]:
        return [2 * x for x in xs]

    @pipeline
    def p(x: int):
        return double(numbers(x))

    assert alto.run(p, 40) == [2 * k for k in range(40)]


@pytest.mark.parametrize(("given", "gave"), [([1, 2], "2 outputs"), (None, "None")])
def test_a_batch_that_gives_another_number_of_outputs_is_not_tried_item_by_item(
    given: Any, gave: str
) -> None:
    calls: list[list[int]] = []

    @stage(batch=3, max_wait="1ms", retries=1)
    async def wrong(xs: list[int]) -> list[int]:
        calls.append(list(xs))
        return given if len(xs) > 1 else xs

    @pipeline(name="p")
    def p(x: int):
        return wrong(numbers(x))

    [error] = requests(p, 3)
    assert isinstance(error, alto.StageError)
    assert str(error) == (
        f"pipeline p, stage wrong at (0,) failed in its only attempt: a batch of 3 items gave {gave}"
        ". A batch stage returns a list with one output for each input, in order."
    )
    assert error.__cause__ is None
    assert calls == [[0, 1, 2]]


# ---------------------------------------------------------------- max_concurrency


class Gauge:
    """How many invocations of a stage run at once, at most."""

    def __init__(self, **options: Any) -> None:
        self.now = self.most = 0

        @stage(name="gauged", **options)
        async def gauged(x: int) -> int:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(1)
            self.now -= 1
            return x

        self.stage = gauged


def test_max_concurrency_is_over_all_requests() -> None:
    gauge = Gauge(max_concurrency=3)

    @pipeline
    def p(x: int):
        return gauge.stage(numbers(x))

    assert requests(p, 5, 5) == [[0, 1, 2, 3, 4]] * 2
    assert gauge.most == 3


def test_without_a_limit_everything_runs_at_once() -> None:
    gauge = Gauge()

    @pipeline
    def p(x: int):
        return gauge.stage(numbers(x))

    assert requests(p, 50) == [list(range(50))]
    assert gauge.most == 50


def test_a_failure_gives_its_place_back() -> None:
    @stage(max_concurrency=1, on_error="drop")
    async def step(x: int) -> int:
        await asyncio.sleep(1)
        if x % 2:
            raise ValueError("odd")
        return x

    @pipeline
    def p(x: int):
        return step(numbers(x))

    assert requests(p, 5) == [[0, 2, 4]]


def test_a_cancelled_request_gives_its_places_back() -> None:
    gauge = Gauge(max_concurrency=2)

    @pipeline
    def p(x: int):
        return gauge.stage(numbers(x))

    async def main() -> Any:
        async with alto.Runtime() as runtime:
            first = runtime.start(p, 10)
            await asyncio.sleep(0.5)
            first.cancel()
            return await runtime.call(p, 2, timeout=5)

    assert run_virtually(main()) == [0, 1]


def test_a_committed_item_waits_for_a_producer_that_waits_for_a_place() -> None:
    """Only the buffer of `numbers` can grow: its items are held until it has closed, and the one
    that it is paused for waits for the place of a session that reads them."""

    @stage(delivery="committed")
    async def held(x: int) -> int:
        return x

    @stage(max_concurrency=1)
    async def gather(x: int, items: alto.Stream[int]) -> int:
        return sum([item async for item in items])

    @pipeline
    def p(x: int):
        items = numbers(x)
        return gather(items, held(items))

    async def main() -> Any:
        config = alto.Config(limits=alto.Limits(scope_items=1))
        async with alto.Runtime(config) as runtime:
            return await runtime.call(p, 5, timeout=100)

    assert run_virtually(main()) == [0, 1, 2, 3, 4]


def test_a_blocking_class_runs_one_at_a_time_and_instances_side_by_side() -> None:
    running: list[int] = []
    most: list[int] = []

    @stage(instances=2)
    class Model:
        def __init__(self) -> None:
            self.busy = False

        def __call__(self, x: int) -> int:
            assert not self.busy, "a blocking class has max_concurrency=1"
            self.busy = True
            running.append(x)
            most.append(len(running))
            running.remove(x)
            self.busy = False
            return x

    @pipeline
    def p(x: int):
        return Model(numbers(x))

    assert alto.run(p, 50) == list(range(50))
    assert max(most) <= 2
