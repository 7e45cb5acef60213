"""Places of stages with `max_concurrency`: fair, exact, and no circle of waiters ever hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from leaks import on_real_loop, on_virtual_time, watched

import alto
from alto import Stream, pipeline, stage


class Count:
    """How many run at once, at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


def test_first_come_first_served_over_all_requests() -> None:
    order: list[tuple[str, int]] = []

    @stage(max_concurrency=1)
    async def slow(x: str) -> str:
        order.append((x, int(asyncio.get_running_loop().time())))
        await asyncio.sleep(1)
        return x

    @pipeline
    def p(x: str):
        return slow(x)

    async def main() -> None:
        async with watched() as runtime:
            requests = [runtime.start(p, name) for name in "abcd"]
            await asyncio.sleep(0.5)
            requests[1].cancel()
            requests.append(runtime.start(p, "e"))
            for request in requests:
                try:
                    await request.result()
                except asyncio.CancelledError:
                    assert request is requests[1]

    on_virtual_time(main)
    assert order == [("a", 0), ("c", 1), ("d", 2), ("e", 3)]


def test_a_place_granted_to_a_request_that_ends_at_that_moment_is_not_lost() -> None:
    @stage(max_concurrency=1)
    async def slow(x: int) -> int:
        await asyncio.sleep(1)
        return x

    @pipeline
    def p(x: int):
        return slow(x)

    async def main() -> list[int]:
        async with watched() as runtime:
            first, second = runtime.start(p, 1), runtime.start(p, 2)
            await first.result()  # its place has just been granted to the second, which
            second.cancel()  # has not begun
            with pytest.raises(asyncio.CancelledError):
                await second.result()
            return [await runtime.call(p, x, timeout=5) for x in (3, 4)]

    assert on_virtual_time(main) == [3, 4]


def test_a_deadline_in_the_queue_leaves_the_queue() -> None:
    begun: list[int] = []

    @stage(max_concurrency=1)
    async def slow(x: int) -> int:
        begun.append(x)
        await asyncio.sleep(2)
        return x

    @pipeline
    def p(x: int):
        return slow(x)

    async def main() -> None:
        async with watched() as runtime:
            first = runtime.start(p, 1)
            await asyncio.sleep(0)
            with pytest.raises(alto.DeadlineExceeded):
                await runtime.call(p, 2, timeout=1)
            assert await first.result() == 1
            assert await runtime.call(p, 3) == 3

    on_virtual_time(main)
    assert begun == [1, 3]


def test_the_same_stage_feeds_a_session_of_itself() -> None:
    """The session starts at once and holds the only place that its producer needs."""

    @stage(max_concurrency=1)
    async def work(x: int, items: Stream[int] = Stream.of()) -> int:
        total = x
        async for item in items:
            total += item
        return total

    @stage
    async def numbers(x: int) -> AsyncIterator[int]:
        for k in range(x):
            yield k

    @pipeline
    def p(x: int):
        return work(x, work(numbers(x)))

    async def main() -> None:
        async with watched() as runtime:
            assert await runtime.call(p, 5, timeout=5) == 5 + 10
            results = await asyncio.gather(*(runtime.call(p, x, timeout=5) for x in range(1, 20)))
            assert results == [x + sum(range(x)) for x in range(1, 20)]

    on_virtual_time(main)
    on_real_loop(main)


def test_a_blocking_class_that_feeds_a_session_of_itself() -> None:
    inside = Count()

    @stage
    class Work:
        def __call__(self, x: int, items: Stream[int] = Stream.of()) -> int:
            with inside:
                total = x
            for item in items:
                with inside:
                    total += item
            return total

    @stage
    def numbers(x: int) -> Iterator[int]:
        yield from range(x)

    @pipeline
    def p(x: int):
        return Work(x, Work(numbers(x)))

    async def main() -> None:
        async with watched() as runtime:
            results = await asyncio.gather(*(runtime.call(p, x, timeout=9) for x in range(1, 9)))
            assert results == [x + sum(range(x)) for x in range(1, 9)]

    on_real_loop(main)
    assert inside.most == 1, "nobody runs beside another, lent places or not"


def crossed(blocking: bool) -> Any:
    """A fan-out and its reader, one place each, and a buffer of two items."""
    if blocking:

        @stage(name="produce", max_concurrency=1)
        def produce(x: int) -> Iterator[int]:
            yield from range(x)

        @stage(name="consume", max_concurrency=1)
        def consume(items: Stream[int]) -> int:
            return sum(items)
    else:

        @stage(name="produce", max_concurrency=1)
        async def produce(x: int) -> AsyncIterator[int]:
            for k in range(x):
                await asyncio.sleep(0)
                yield k

        @stage(name="consume", max_concurrency=1)
        async def consume(items: Stream[int]) -> int:
            return sum([item async for item in items])

    @pipeline
    def p(x: int):
        return consume(produce(x))

    return p


@pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
def test_a_session_and_a_paused_producer_of_two_requests(blocking: bool) -> None:
    """One's session waits for its producer, which queues behind the other's, which is paused until
    its session has the place that the first session holds."""
    p = crossed(blocking)
    config = alto.Config(limits=alto.Limits(scope_items=2))

    async def main() -> None:
        async with watched(config) as runtime:
            results = await asyncio.gather(*(runtime.call(p, 300, timeout=15) for _ in range(8)))
            assert results == [sum(range(300))] * 8

    on_real_loop(main)
    if not blocking:
        on_virtual_time(main)


def test_sessions_of_two_stages_taken_in_opposite_order() -> None:
    """No buffer is in the way here: only a place that is lent helps."""

    async def total(x: int, items: Stream[int]) -> AsyncIterator[int]:
        seen = 0
        async for item in items:
            seen += item
            yield seen
        yield x

    one = stage(name="one", max_concurrency=1)(total)
    two = stage(name="two", max_concurrency=1)(total)

    @stage
    async def numbers(x: int) -> AsyncIterator[int]:
        for k in range(x):
            await asyncio.sleep(0.1)
            yield k

    @stage
    async def later(x: int) -> int:
        await asyncio.sleep(1)
        return x

    @pipeline
    def there(x: int):
        return two(later(x), one(x, numbers(x)))

    @pipeline
    def back(x: int):
        return one(later(x), two(x, numbers(x)))

    async def main() -> None:
        async with watched() as runtime:
            alone = await runtime.call(there, 50)
            both = [runtime.call(way, 50, timeout=100) for way in (there, back, there, back)]
            assert await asyncio.gather(*both) == [alone] * 4

    on_virtual_time(main)


def test_the_wait_for_a_place_that_was_lent_is_no_time_of_the_attempt() -> None:
    @stage(max_concurrency=1, timeout=5)
    async def twice(x: int) -> AsyncIterator[int]:
        await asyncio.sleep(1)
        yield x
        await asyncio.sleep(3)
        yield x + 1

    @stage
    async def crosswise(a: Stream[int], b: Stream[int]) -> list[int]:
        """Waits for `b` while `a`, which holds the place, is paused; then the other way round."""
        return [await anext(b), await anext(a), await anext(a), await anext(b)]

    @pipeline
    def p(x: int):
        return crosswise(twice(x), twice(x))

    async def main() -> tuple[Any, float]:
        config = alto.Config(limits=alto.Limits(scope_items=1))
        async with watched(config) as runtime:
            return await runtime.call(p, 7), asyncio.get_running_loop().time()

    assert on_virtual_time(main) == ([7, 7, 8, 8], 8)


def test_nothing_is_lent_where_nobody_waits_in_a_circle() -> None:
    inside = Count()

    @stage
    async def numbers(x: int) -> AsyncIterator[int]:
        for k in range(x):
            await asyncio.sleep(1)
            yield k

    @stage(max_concurrency=2)
    async def total(items: Stream[int]) -> int:
        with inside:
            return sum([item async for item in items])

    @pipeline
    def p(x: int):
        return total(numbers(x))

    async def main() -> None:
        async with watched() as runtime:
            results = await asyncio.gather(*(runtime.call(p, 4) for _ in range(10)))
            assert results == [6] * 10

    on_virtual_time(main)
    assert inside.most == 2


def test_a_request_that_waits_in_a_circle_can_be_cancelled_and_leaves_its_place() -> None:
    @stage(max_concurrency=1)
    async def work(x: int, items: Stream[int] = Stream.of()) -> int:
        async for item in items:
            x += item
            await asyncio.sleep(1)
        await asyncio.sleep(1)
        return x

    @stage
    async def numbers(x: int) -> AsyncIterator[int]:
        for k in range(x):
            yield k

    @pipeline
    def p(x: int):
        return work(x, work(numbers(x)))

    async def main() -> None:
        async with watched() as runtime:
            for patience in (0.5, 1.5, 2.5, 3.5, 4.5):
                others = [runtime.start(p, 3) for _ in range(3)]
                await asyncio.sleep(patience)
                for request in others[:2]:
                    request.cancel()
                for request in others:
                    try:
                        assert await request.result() == 6
                    except asyncio.CancelledError:
                        assert request is not others[2]

    on_virtual_time(main)


def test_thousands_of_sessions_that_wait_leave_room_for_what_they_wait_for() -> None:
    """More sessions than a request may have invocations in flight, all of them waiting."""

    @stage
    async def numbers(x: int) -> AsyncIterator[int]:
        for k in range(x):
            yield k

    @stage
    async def pairs(x: int) -> AsyncIterator[int]:
        await asyncio.sleep(1)
        yield x
        yield x

    @stage
    async def same(x: int) -> int:
        await asyncio.sleep(1)
        return x

    @stage
    async def total(x: int, items: Stream[int]) -> int:
        return sum([item async for item in items])

    @pipeline
    def p(x: int):
        ns = numbers(x)
        return total(ns, same(pairs(ns)))

    async def main() -> None:
        config = alto.Config(limits=alto.Limits(scope_items=10_000))
        async with watched(config) as runtime:
            assert await runtime.call(p, 3000) == [2 * k for k in range(3000)]

    on_virtual_time(main)
