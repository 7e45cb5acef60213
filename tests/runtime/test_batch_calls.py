"""Micro-batches and what can happen to their members, timed exactly."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from leaks import on_real_loop, on_virtual_time, watched

import alto
from alto import pipeline, stage


class Calls:
    """A batch stage that notes when it is called with what, and how each call ends."""

    def __init__(self, seconds: float = 1.0, **options: Any) -> None:
        self.begun: list[tuple[float, list[int]]] = []
        self.ended: list[tuple[float, str]] = []

        @stage(name="work", **{"batch": 4, "max_wait": 0.5, **options})
        async def work(items: list[int]) -> list[int]:
            loop = asyncio.get_running_loop()
            self.begun.append((loop.time(), list(items)))
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                self.ended.append((loop.time(), "cancelled"))
                raise
            self.ended.append((loop.time(), "done"))
            return [10 * item for item in items]

        @pipeline
        def p(x: int):
            return work(x)

        self.pipeline = p


def test_members_leave_and_the_call_goes_on_until_the_last_has_left() -> None:
    calls = Calls(seconds=10)

    async def main() -> None:
        async with watched() as runtime:
            requests = [runtime.start(calls.pipeline, x) for x in range(3)]
            for number, request in enumerate(requests):
                await asyncio.sleep(1)
                assert len(calls.ended) == 0
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request.result()
                assert asyncio.get_running_loop().time() == number + 1
            await asyncio.sleep(0)

    on_virtual_time(main)
    assert calls.begun == [(0.5, [0, 1, 2])]
    assert calls.ended == [(3.0, "cancelled")]


def test_who_left_before_the_call_does_not_keep_it_alive() -> None:
    calls = Calls(seconds=10, max_concurrency=1)

    async def main() -> None:
        async with watched() as runtime:
            first = [runtime.start(calls.pipeline, x) for x in range(4)]
            second = [runtime.start(calls.pipeline, x) for x in range(4, 8)]
            await asyncio.sleep(1)  # the second batch waits for the place
            second[0].cancel()
            assert [await request.result() for request in first] == [0, 10, 20, 30]
            await asyncio.sleep(2)
            for request in second[1:]:
                request.cancel()
            for request in second:
                with pytest.raises(asyncio.CancelledError):
                    await request.result()
            await asyncio.sleep(0)

    on_virtual_time(main)
    assert calls.begun == [(0.0, [0, 1, 2, 3]), (10.0, [5, 6, 7])]
    assert calls.ended == [(10.0, "done"), (12.0, "cancelled")]


def test_batches_take_turns_on_the_places_in_order() -> None:
    calls = Calls(seconds=1, max_concurrency=1, batch=2)

    async def main() -> None:
        async with watched() as runtime:
            found = await asyncio.gather(*(runtime.call(calls.pipeline, x) for x in range(8)))
            assert found == [10 * x for x in range(8)]

    on_virtual_time(main)
    assert calls.begun == [(0.0, [0, 1]), (1.0, [2, 3]), (2.0, [4, 5]), (3.0, [6, 7])]


def test_one_member_runs_out_of_time_and_the_others_do_not() -> None:
    calls = Calls(seconds=3)

    async def main() -> None:
        async with watched() as runtime:
            hasty = runtime.start(calls.pipeline, 1, timeout=2)
            calm = runtime.start(calls.pipeline, 2)
            with pytest.raises(alto.DeadlineExceeded):
                await hasty.result()
            assert await calm.result() == 20
            assert asyncio.get_running_loop().time() == 3.5

    on_virtual_time(main)


def test_a_timeout_of_the_stage_counts_from_the_start_of_the_call() -> None:
    calls = Calls(seconds=2, timeout=1, max_wait=5)

    async def main() -> None:
        async with watched() as runtime:
            with pytest.raises(alto.StageError, match="took longer than timeout=1 s"):
                await runtime.call(calls.pipeline, 1)
            assert asyncio.get_running_loop().time() == 6.0
            await asyncio.sleep(0)

    on_virtual_time(main)
    assert calls.ended == [(6.0, "cancelled")]


def test_a_batch_that_raises_is_tried_item_by_item_and_a_member_may_leave_meanwhile() -> None:
    seen: list[list[int]] = []

    @stage(batch=3, max_wait=1)
    async def picky(items: list[int]) -> list[int]:
        seen.append(list(items))
        await asyncio.sleep(1)
        if len(items) > 1 or items == [2]:
            raise ValueError(items)
        return items

    @pipeline
    def p(x: int):
        return picky(x)

    async def main() -> None:
        async with watched() as runtime:
            one, two, three = (runtime.start(p, x) for x in (1, 2, 3))
            await asyncio.sleep(1.5)  # item by item now: 1 is under way
            three.cancel()
            assert await one.result() == 1
            with pytest.raises(alto.StageError, match=r"ValueError: \[2\]"):
                await two.result()

    on_virtual_time(main)
    assert seen == [[1, 2, 3], [1], [2]]


def test_a_member_that_leaves_while_it_is_tried_alone_stops_that_try_only() -> None:
    ended: list[str] = []

    @stage(batch=2, max_wait=1)
    async def picky(items: list[int]) -> list[int]:
        if len(items) > 1:
            raise ValueError(items)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            ended.append(f"cancelled {items}")
            raise
        ended.append(f"done {items}")
        return items

    @pipeline
    def p(x: int):
        return picky(x)

    async def main() -> None:
        async with watched() as runtime:
            one, two = (runtime.start(p, x) for x in (1, 2))
            await asyncio.sleep(5)
            one.cancel()
            assert await two.result() == 2
            assert asyncio.get_running_loop().time() == 15.0

    on_virtual_time(main)
    assert ended == ["cancelled [1]", "done [2]"]


def test_retries_of_members_form_new_batches() -> None:
    seen: list[list[int]] = []

    @stage(batch=8, max_wait=1, retries=2, backoff=0)
    async def flaky(items: list[int]) -> list[int]:
        seen.append(sorted(items))
        if len(seen) < 4:
            raise OSError("busy")
        return items

    @stage
    async def numbers(x: int) -> AsyncIterator[int]:
        for k in range(x):
            yield k

    @pipeline
    def p(x: int):
        return flaky(numbers(x))

    async def main() -> None:
        async with watched() as runtime:
            assert await runtime.call(p, 2) == [0, 1]

    on_virtual_time(main)
    assert seen[0] == [0, 1] and seen[-1] == [0, 1]


def test_classes_have_batches_too_one_call_an_instance_at_a_time() -> None:
    inside = threading.Lock()

    @stage(batch=4, max_wait=0.001)
    class Embed:
        def __init__(self, scale: int = 1) -> None:
            self.scale = scale

        def __call__(self, items: list[int], /, plus: int) -> list[int]:
            assert inside.acquire(blocking=False), "two calls in one instance"
            try:
                return [item * self.scale + plus for item in items]
            finally:
                inside.release()

    @stage
    async def numbers(x: int) -> AsyncIterator[int]:
        for k in range(x):
            yield k

    @pipeline
    def p(x: int):
        return Embed(numbers(x), plus=1)

    config = alto.Config(stages={"Embed": alto.StageConfig(init={"scale": 100})})

    async def main() -> None:
        async with watched(config) as runtime:
            found = await asyncio.gather(*(runtime.call(p, 50) for _ in range(4)))
            assert found == [[100 * k + 1 for k in range(50)]] * 4

    on_real_loop(main)


def test_closing_drops_the_batch_that_forms_and_cancels_the_one_that_runs() -> None:
    calls = Calls(seconds=100, max_wait=50)

    async def main() -> None:
        async with alto.Runtime() as runtime:
            requests = [runtime.start(calls.pipeline, x) for x in range(5)]
            await asyncio.sleep(1)
        for request in requests:
            with pytest.raises(asyncio.CancelledError):
                await request.result()
        assert asyncio.get_running_loop().time() == 1.0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    on_virtual_time(main)
    assert calls.begun == [(0.0, [0, 1, 2, 3])]
    assert calls.ended == [(1.0, "cancelled")]


def test_current_speaks_of_the_first_item() -> None:
    @stage(batch=2, max_wait=1)
    async def who(items: list[int]) -> list[tuple[int, ...]]:
        here = alto.current()
        assert here.stage == "who" and here.attempt == 1
        return [here.path for _ in items]

    @stage
    async def numbers(x: int) -> AsyncIterator[int]:
        for k in range(x):
            yield k

    @pipeline
    def p(x: int):
        return who(numbers(x))

    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(p, 3)

    assert on_virtual_time(main) == [(0,), (0,), (2,)]
