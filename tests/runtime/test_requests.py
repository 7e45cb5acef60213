"""Requests: waiting, reading, cancelling, many at once, in several loops and threads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from leaks import on_real_loop, on_virtual_time, watched

import alto
from alto import Stream, pipeline, stage
from alto.runtime.driver import CLIENT_EVENTS_MAX


@stage
async def numbers(x: int) -> AsyncIterator[int]:
    for k in range(x):
        await asyncio.sleep(1)
        yield k


@stage
async def double(x: int) -> int:
    return 2 * x


@stage
async def total(items: Stream[int]) -> int:
    return sum([item async for item in items])


@pipeline
def sums(x: int):
    doubled = double(numbers(x))
    return {"items": doubled, "total": total(doubled)}


def test_a_result_may_be_awaited_by_many_and_again() -> None:
    async def main() -> None:
        async with watched() as runtime:
            request = runtime.start(sums, 3)
            waits = [asyncio.ensure_future(request.result()) for _ in range(3)]
            await asyncio.sleep(1)
            waits[0].cancel()  # giving up waiting is not giving up the request
            found = await asyncio.gather(*waits[1:], request.result())
            assert found == [{"items": [0, 2, 4], "total": 6}] * 3
            assert await request.result() == found[0]
            assert request.finished

    on_virtual_time(main)


def test_an_error_is_raised_for_everybody() -> None:
    @stage
    async def broken(x: int) -> int:
        raise ValueError("no")

    @pipeline
    def p(x: int):
        return broken(x)

    async def main() -> None:
        async with watched() as runtime:
            request = runtime.start(p, 1)
            for _ in range(3):
                with pytest.raises(alto.StageError, match="ValueError: no"):
                    await request.result()
            with pytest.raises(alto.StageError, match="ValueError: no"):
                _ = [event async for event in request.events()]

    on_virtual_time(main)


def test_events_are_given_once_whoever_reads_them() -> None:
    async def main() -> None:
        async with watched() as runtime:
            request = runtime.start(sums, 4)
            first = []
            async for event in request.events():
                first.append(event.value)
                if len(first) == 2:
                    break
            rest = [event.value async for event in request.events()]
            assert sorted(first + rest) == sorted([0, 2, 4, 6, 12])
            assert [event async for event in request.events()] == []
            assert (await request.result())["total"] == 12

    on_virtual_time(main)


def test_a_second_reader_at_the_same_time_is_told() -> None:
    async def main() -> None:
        async with watched() as runtime:
            request = runtime.start(sums, 2)

            async def read() -> list[Any]:
                return [event.value async for event in request.events()]

            first = asyncio.create_task(read())
            await asyncio.sleep(0.5)
            with pytest.raises(RuntimeError, match="have a reader already"):
                await read()
            assert sorted(await first) == [0, 2, 2]

    on_virtual_time(main)


def test_events_read_only_after_the_end() -> None:
    async def main() -> None:
        async with watched() as runtime:
            request = runtime.start(sums, 3)
            await request.result()
            events = [(e.output, e.path, e.value) async for e in request.events()]
            assert sorted(events) == [
                ("items", (0,), 0),
                ("items", (1,), 2),
                ("items", (2,), 4),
                ("total", (), 6),
            ]

    on_virtual_time(main)


def test_cancelling_twice_and_after_the_end() -> None:
    async def main() -> None:
        async with watched() as runtime:
            request = runtime.start(sums, 3)
            request.cancel()
            request.cancel()
            for _ in range(2):
                with pytest.raises(asyncio.CancelledError):
                    await request.result()
            done = runtime.start(sums, 1)
            assert (await done.result())["total"] == 0
            done.cancel()
            assert (await done.result())["total"] == 0
            assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]

    on_virtual_time(main)


def test_leaving_a_stream_stops_its_request_at_once() -> None:
    async def main() -> None:
        async with watched() as runtime:
            async for event in runtime.stream(sums, 1000):
                assert event.value == 0
                break
            await asyncio.sleep(0.001)
            assert runtime.open_requests == 0
            assert asyncio.get_running_loop().time() < 1.1

    on_virtual_time(main)


def test_a_client_that_does_not_read_slows_the_producers() -> None:
    given: list[int] = []

    @stage
    async def quick(x: int) -> AsyncIterator[int]:
        for k in range(x):
            given.append(k)
            yield k

    @pipeline
    def p(x: int):
        return quick(x)

    async def main() -> None:
        config = alto.Config(limits=alto.Limits(scope_items=16))
        async with watched(config) as runtime:
            count = 0
            async for event in runtime.stream(p, 20_000):
                assert event.value == count
                count += 1
                if count % 1000 == 0:
                    await asyncio.sleep(1)
                    assert len(given) <= count + 2 * CLIENT_EVENTS_MAX + 16
            assert count == 20_000

    on_virtual_time(main)


def test_stages_that_are_ready_together_run_together() -> None:
    @stage
    async def first(x: int) -> int:
        await asyncio.sleep(1)
        return x

    @stage
    async def slow(x: int) -> int:
        await asyncio.sleep(1)
        return 2 * x

    @stage
    async def slower(x: int) -> int:
        await asyncio.sleep(2)
        return 3 * x

    @stage
    async def add(a: int, b: int, c: int) -> int:
        return a + b + c

    @pipeline
    def branches(x: int):
        known = first(x)
        return add(slow(known), slower(known), slow(first(known)))

    async def main() -> None:
        async with watched() as runtime:
            began = asyncio.get_running_loop().time()
            assert await runtime.call(branches, 1) == 7
            assert asyncio.get_running_loop().time() - began == 3

    on_virtual_time(main)


def test_a_thousand_requests_at_once() -> None:
    async def main() -> None:
        async with watched() as runtime:
            results = await asyncio.gather(*(runtime.call(sums, x % 7) for x in range(1000)))
            assert [r["total"] for r in results] == [(x % 7) * (x % 7 - 1) for x in range(1000)]

    on_virtual_time(main)


def test_a_stage_may_start_requests_itself_and_cancelling_reaches_them() -> None:
    ended: list[int] = []
    runtimes: list[alto.Runtime] = []

    @stage
    async def forever(x: int) -> int:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(x)
        return x

    @pipeline
    def inner(x: int):
        return forever(x)

    @stage
    async def outer(x: int) -> int:
        return int(await runtimes[0].call(inner, x))

    @pipeline
    def p(x: int):
        return outer(x)

    async def main() -> None:
        async with watched() as runtime:
            runtimes.append(runtime)
            with pytest.raises(alto.DeadlineExceeded):
                await runtime.call(p, 1, timeout=2)
            assert ended == [1]

    on_virtual_time(main)


def test_two_runtimes_in_one_loop() -> None:
    async def main() -> None:
        async with watched() as one, alto.Runtime() as two:
            found = await asyncio.gather(one.call(sums, 3), two.call(sums, 4))
            assert [result["total"] for result in found] == [6, 12]

    on_virtual_time(main)


def test_runtimes_in_several_threads_share_a_pipeline() -> None:
    @stage
    def quick(x: int) -> Iterator[int]:
        yield from range(x)

    @stage(max_concurrency=2)
    async def plus(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    @pipeline
    def p(x: int):
        return total(plus(quick(x)))

    found: list[Any] = []

    def work() -> None:
        async def main() -> None:
            async with watched() as runtime:
                found.extend(await asyncio.gather(*(runtime.call(p, 20) for _ in range(10))))

        asyncio.run(main())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [210] * 40


def test_a_runtime_belongs_to_one_loop() -> None:
    runtime = alto.Runtime()

    async def main() -> Any:
        return await runtime.call(double_pipeline, 1)

    @pipeline
    def double_pipeline(x: int):
        return double(x)

    assert asyncio.run(main()) == 2
    with pytest.raises(alto.ConfigError, match="another event loop"):
        asyncio.run(main())


def test_run_inside_a_running_loop() -> None:
    @pipeline
    def p(x: int):
        return double(x)

    async def main() -> Any:
        return alto.run(p, 4)

    assert on_real_loop(main) == 8


def test_a_ctrl_c_in_a_running_loop_stops_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook: the wait for the other thread is interrupted."""
    from concurrent.futures import Future

    ended = threading.Event()
    begun = threading.Event()

    @stage
    async def forever(x: int) -> int:
        begun.set()
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()
        return x

    @pipeline
    def p(x: int):
        return forever(x)

    def interrupted(self: Future[Any], timeout: float | None = None) -> Any:
        assert begun.wait(10)
        raise KeyboardInterrupt

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Future, "result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                alto.run(p, 1)
        assert ended.wait(10)

    on_real_loop(main)


@pytest.mark.parametrize("timeout", [0, -1.0, math.nan])
def test_no_time_at_all(timeout: float) -> None:
    async def main() -> None:
        async with watched() as runtime:
            with pytest.raises(alto.DeadlineExceeded, match="leaves no time"):
                await runtime.call(sums, 1, timeout=timeout)

    on_virtual_time(main)


def test_a_time_that_is_no_number() -> None:
    async def main() -> None:
        async with watched() as runtime:
            with pytest.raises(alto.ConfigError, match="timeout is '4s', expected a number of sec"):
                await runtime.call(sums, 1, timeout="4s")  # type: ignore[arg-type]

    on_virtual_time(main)


def test_a_request_and_a_runtime_say_what_they_are() -> None:
    async def main() -> None:
        async with watched(name="r") as runtime:
            request = runtime.start(sums, 2)
            assert repr(request) == "<request r-1 of sums, under way>"
            assert repr(runtime) == "<runtime with engines none; 1 requests under way>"
            await request.result()
            assert repr(request) == "<request r-1 of sums, over>"
        assert repr(runtime) == "<runtime with engines none; closed>"
        assert repr(alto.Stream.of(1, "a")) == "Stream.of(1, 'a')"

    on_virtual_time(main)


def test_time_without_end() -> None:
    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(sums, 2, timeout=math.inf)

    assert on_virtual_time(main)["total"] == 2


def test_closing_twice_at_once_and_without_use() -> None:
    async def main() -> None:
        await alto.Runtime().aclose()
        runtime = alto.Runtime()
        requests = [runtime.start(sums, 5) for _ in range(50)]
        await asyncio.sleep(2.5)
        await asyncio.gather(runtime.aclose(), runtime.aclose())
        for request in requests:
            with pytest.raises(asyncio.CancelledError):
                await request.result()
        with pytest.raises(alto.ConfigError, match="after the runtime was closed"):
            runtime.start(sums, 1)

    on_virtual_time(main)


# ------------------------------------------------------------------------ values


class Array:
    """What numpy does: `==` gives no truth."""

    def __init__(self, *values: int) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("make", [lambda: Array(1, 2), lambda: math.nan, lambda: {1: [{2}]}])
def test_items_that_do_not_compare_keep_their_work_in_a_second_attempt(make: Any) -> None:
    worked: list[int] = []

    @stage(retries=1, backoff=0)
    async def twice(x: int) -> AsyncIterator[Any]:
        yield make()
        yield make()
        await asyncio.sleep(1)
        if alto.current().attempt == 1:
            raise OSError("once")

    @stage
    async def works(item: Any) -> int:
        worked.append(1)
        return 1

    @pipeline
    def p(x: int):
        return works(twice(x))

    async def main() -> None:
        async with watched() as runtime:
            assert await runtime.call(p, 1) == [1, 1]

    on_virtual_time(main)
    assert len(worked) == 2, "the same items were worked on again"


def test_exceptions_and_what_cannot_be_hashed_are_values() -> None:
    @stage
    async def gives(x: int) -> AsyncIterator[Any]:
        yield ValueError("a value, not a failure")
        yield {"a": [1]}
        yield asyncio.CancelledError()
        yield StopIteration(3)

    @stage
    async def same(item: Any) -> Any:
        return item

    @stage
    def named(items: Stream[Any]) -> list[str]:
        return [type(item).__name__ for item in items]

    @pipeline
    def p(x: int):
        return named(same(gives(x)))

    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(p, 1)

    expected = ["ValueError", "dict", "CancelledError", "StopIteration"]
    assert on_real_loop(main) == expected
    assert on_virtual_time(main) == expected


def test_an_item_whose_size_cannot_be_asked_for_fails_its_request() -> None:
    class Hostile:
        @property
        def nbytes(self) -> int:
            raise OSError("closed")

    @stage
    async def gives(x: int) -> Any:
        return Hostile()

    @pipeline
    def p(x: int):
        return gives(x)

    async def main() -> None:
        async with watched() as runtime:
            with pytest.raises((OSError, alto.StageError), match="closed"):
                await runtime.call(p, 1, timeout=5)

    on_virtual_time(main)


# ------------------------------------------------------------------------ nothing grows


def test_hundreds_of_requests_leave_nothing_behind() -> None:
    @stage
    async def fails(x: int) -> int:
        if x % 3 == 0:
            raise ValueError(x)
        return x

    @pipeline
    def p(x: int):
        return {"total": total(double(numbers(x))), "fails": fails(x)}

    async def main() -> None:
        async with watched() as runtime:

            async def some(count: int) -> int:
                for x in range(count):
                    with contextlib.suppress(alto.AltoError):
                        await runtime.call(p, x % 4, timeout=0.5 if x % 5 == 0 else None)
                    request = runtime.start(p, 1 + x % 2)
                    await asyncio.sleep(0.5)
                    request.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await request.result()
                    del request
                gc.collect()
                return len(gc.get_objects())

            before = await some(50)
            after = await some(400)
            assert after - before < 200, "objects of requests that are over are kept"

    on_virtual_time(main)


def test_no_two_requests_of_a_process_have_the_same_id() -> None:
    async def main() -> None:
        async with watched() as one, watched() as other:
            requests = [runtime.start(sums, 1) for runtime in (one, other, one)]
            await asyncio.gather(*[request.result() for request in requests])
            assert len({request.id for request in requests}) == 3

    on_virtual_time(main)
