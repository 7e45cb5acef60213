"""Buffers are bounded in items and bytes: a slow reader slows its producer, and nothing hangs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

import alto
from alto import AsCompleted, Stream, pipeline, stage
from alto.testing.loop import run as run_virtually


def call(flow: Any, *args: Any, **limits: int) -> Any:
    async def main() -> Any:
        config = alto.Config(limits=alto.Limits(**limits))
        async with alto.Runtime(config) as runtime:
            return await runtime.call(flow, *args)

    return run_virtually(main())


class Gap:
    """How far a producer is ahead of the slowest of its readers, at most."""

    def __init__(self, size: int = 1, delay: float = 0.001) -> None:
        self.given = self.read = self.most = 0

        @stage(name="produce")
        async def produce(x: int) -> AsyncIterator[str]:
            for k in range(x):
                self.given = k + 1
                self.most = max(self.most, self.given - self.read)
                yield str(k % 10) * size

        @stage(name="consume")
        async def consume(items: Stream[str]) -> int:
            async for _ in items:
                await asyncio.sleep(delay)
                self.read += 1
            return self.read

        self.produce = produce
        self.consume = consume


def test_a_producer_runs_ahead_by_so_many_items() -> None:
    gap = Gap()

    @pipeline
    def p(x: int):
        return gap.consume(gap.produce(x))

    assert call(p, 1000, scope_items=16) == 1000
    assert gap.most <= 16 + 2


def test_a_producer_runs_ahead_by_so_many_bytes() -> None:
    gap = Gap(size=1000)

    @pipeline
    def p(x: int):
        return gap.consume(gap.produce(x))

    assert call(p, 200, scope_bytes=10_000) == 200
    assert gap.most <= 10 + 2


def test_a_chain_passes_the_pressure_on() -> None:
    gap = Gap()

    @stage
    async def same(x: str) -> str:
        return x

    @pipeline
    def p(x: int):
        return gap.consume(same(same(gap.produce(x))))

    assert call(p, 1000, scope_items=16) == 1000
    assert gap.most <= 16 + 2


def test_levels_in_between_pass_the_pressure_on() -> None:
    gap = Gap()

    @stage
    async def three(x: str) -> AsyncIterator[str]:
        for _ in range(3):
            yield x

    @stage
    async def consume(items: Stream[str]) -> int:
        count = 0
        async for _ in items:
            await asyncio.sleep(0.001)
            count += 1
            gap.read = count // 3
        return count

    @pipeline
    def p(x: int):
        return consume(three(gap.produce(x)))

    assert call(p, 500, scope_items=8) == 1500
    assert gap.most <= 8 + 3


def test_a_slow_client_slows_the_producer() -> None:
    gap = Gap()

    @pipeline
    def p(x: int):
        return gap.produce(x)

    async def main() -> int:
        count = 0
        config = alto.Config(limits=alto.Limits(scope_items=16))
        async with alto.Runtime(config) as runtime:
            async for _ in runtime.stream(p, 20_000):
                count += 1
                gap.read = count
                if count % 100 == 0:
                    await asyncio.sleep(1)
        return count

    assert run_virtually(main()) == 20_000
    assert gap.most < 4000


@pytest.mark.parametrize("scope_items", [1, 2, 1024])
def test_reconvergence_never_hangs(scope_items: int) -> None:
    gap = Gap()

    @stage
    async def size(x: str) -> int:
        return len(x)

    @stage
    async def one_after_the_other(a: Stream[int], b: Stream[str], c: AsCompleted[int]) -> int:
        found = [item async for item in b][-1:]
        found_a = sum([item async for item in a])
        return found_a + len(found) + sum([item async for item in c])

    @stage
    async def after(first: int, items: Stream[str], sizes: list[int]) -> int:
        return first + len([item async for item in items]) + len(sizes)

    @stage
    async def unread(x: int, items: Stream[str]) -> int:
        return 0

    @pipeline
    def p(x: int):
        items = gap.produce(x)
        sizes = size(items)
        first = one_after_the_other(sizes, items, sizes)
        return {"after": after(first, items, sizes), "unread": unread(x, items), "sizes": sizes}

    expected = {"after": 200 + 1 + 200 + 200 + 200, "unread": 0, "sizes": [1] * 200}
    assert call(p, 200, scope_items=scope_items) == expected


def test_beyond_the_request_limit_an_error_names_both_sides() -> None:
    @stage
    async def produce(x: int) -> AsyncIterator[bytes]:
        for _ in range(x):
            yield bytes(1000)

    @stage
    async def other(x: int) -> AsyncIterator[int]:
        for k in range(x):
            await asyncio.sleep(1)
            yield k

    @stage
    async def late(first: Stream[int], items: Stream[bytes], again: list[bytes]) -> int:
        return len([item async for item in first]) + len([item async for item in items])

    @pipeline(name="p")
    def p(x: int):
        items = produce(x)
        return late(other(10), items, items)

    with pytest.raises(alto.StageError) as caught:
        call(p, 500, request_bytes=100_000)
    message = str(caught.value)
    assert "request_bytes=100,000" in message
    assert "produce" in message
    assert "late" in message


@stage
async def heavy(x: int) -> AsyncIterator[bytes]:
    for _ in range(x):
        yield bytes(1000)


@stage
async def numbers(x: int) -> AsyncIterator[int]:
    for k in range(x):
        yield k


@stage
async def page(x: int) -> bytes:
    return bytes(1000)


@stage
async def count(items: Stream[bytes]) -> int:
    return len([None async for _ in items])


def test_one_flow_read_twice_is_held_and_counts() -> None:
    @stage
    async def one_after_the_other(items: Stream[bytes], again: Stream[bytes]) -> int:
        return len([None async for _ in items]) + len([None async for _ in again])

    @pipeline
    def p(x: int):
        items = heavy(x)
        return one_after_the_other(items, items)

    assert call(p, 50, request_bytes=100_000, scope_items=2) == 100
    with pytest.raises(alto.StageError, match="heavy produces faster than one_after_the_other"):
        call(p, 500, request_bytes=100_000, scope_items=2)


def test_what_a_reader_will_still_take_is_waited_for() -> None:
    """More than the limit would be held if the producer ran on for the reader that is fast."""

    @stage
    async def fast(items: Stream[bytes]) -> int:
        return len([None async for _ in items])

    @stage
    async def slow(items: Stream[bytes]) -> int:
        n = 0
        async for _ in items:
            await asyncio.sleep(1)
            n += 1
        return n

    @pipeline
    def p(x: int):
        items = heavy(x)
        return {"fast": fast(items), "slow": slow(items)}

    assert call(p, 200, request_bytes=20_000) == {"fast": 200, "slow": 200}


def test_what_a_list_gathers_is_held_and_counts() -> None:
    @stage
    async def together(items: list[bytes]) -> int:
        return len(items)

    @pipeline
    def p(x: int):
        return together(page(numbers(x)))

    assert call(p, 90, request_bytes=100_000) == 90
    with pytest.raises(alto.StageError, match="numbers produces faster than together reads"):
        call(p, 500, request_bytes=100_000)


def test_results_are_held_and_count() -> None:
    @pipeline
    def p(x: int):
        return heavy(x)

    assert len(call(p, 90, request_bytes=100_000)) == 90
    with pytest.raises(alto.StageError, match="heavy produces faster than the client reads"):
        call(p, 500, request_bytes=100_000)


def test_a_list_is_let_go_with_the_item_that_it_was_for() -> None:
    @stage
    async def pages(x: int) -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(1000)

    @stage
    async def together(x: int, items: list[bytes]) -> bytes:
        return bytes(len(items))

    @pipeline
    def p(x: int):
        tops = numbers(x)
        return count(together(tops, pages(tops)))

    assert call(p, 100, request_bytes=200_000, scope_items=2) == 100


def test_what_is_kept_back_to_be_committed_counts_until_it_is() -> None:
    @stage(delivery="committed")
    async def careful(x: int) -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(1000)

    @pipeline
    def p(x: int):
        return count(careful(x))

    assert call(p, 1, request_bytes=25_000) == 20
    with pytest.raises(alto.StageError, match="request_bytes=10,000"):
        call(p, 1, request_bytes=10_000)


def test_what_comes_of_merged_items_is_let_go_with_them() -> None:
    @pipeline
    def p(x: int):
        return count(page(alto.merge(numbers(x), numbers(3))))

    assert call(p, 1000, request_bytes=100_000, scope_items=16) == 1003


def test_the_bytes_of_a_scope_are_those_of_its_items() -> None:
    """What comes of an item is let go with it, and was never counted as the producer's lead."""
    gap = Gap(size=1000)

    @stage
    async def doubled(text: str) -> str:
        return text * 2

    @pipeline
    def p(x: int):
        return gap.consume(doubled(gap.produce(x)))

    assert call(p, 200, scope_bytes=10_000) == 200
    assert gap.most <= 10 + 2


def test_a_pipeline_of_the_size_of_its_limits_goes_through() -> None:
    @stage
    async def produce(x: int) -> AsyncIterator[bytes]:
        for _ in range(x):
            yield bytes(1000)

    @stage
    async def count(items: Stream[bytes]) -> int:
        return len([None async for _ in items])

    @pipeline
    def p(x: int):
        return count(produce(x))

    assert call(p, 5000, request_bytes=100_000, scope_bytes=20_000) == 5000


MILLION = """
    import asyncio, resource, sys
    import alto
    from alto import Stream, pipeline, stage
    from collections.abc import AsyncIterator

    @stage
    async def produce(x: int) -> AsyncIterator[int]:
        for k in range(x):
            yield k

    @stage
    async def consume(items: Stream[int]) -> int:
        total = 0
        async for item in items:
            total += item
            if item % 1000 == 0:
                await asyncio.sleep(0)
        return total

    @pipeline
    def p(x: int):
        return consume(produce(x))

    x = int(sys.argv[1])
    assert alto.run(p, x) == x * (x - 1) // 2
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_mib(items: int) -> int:
    script = textwrap.dedent(MILLION)
    done = subprocess.run(
        [sys.executable, "-c", script, str(items)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_a_million_items_peak_near_a_thousand() -> None:
    assert peak_mib(1_000_000) < peak_mib(1_000) + 50


def test_results_of_many_requests_are_let_go() -> None:
    @stage
    async def big(x: int) -> bytes:
        return bytes(1_000_000)

    @stage
    async def small(x: bytes) -> int:
        return len(x)

    @pipeline
    def p(x: int):
        return small(big(x))

    async def main() -> None:
        async with alto.Runtime() as runtime:
            for x in range(200):
                assert await runtime.call(p, x) == 1_000_000
            assert runtime.open_requests == 0

    tracemalloc.start()
    run_virtually(main())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


def test_what_is_held_for_a_client_until_it_is_committed_counts() -> None:
    @stage(name="produce")
    async def produce(x: int) -> AsyncIterator[bytes]:
        for _ in range(x):
            await asyncio.sleep(0.1)
            yield bytes(1000)

    @pipeline(name="p")
    def p(x: int):
        return produce(x)

    async def given(count: int, delivery: Any) -> int:
        config = alto.Config(limits=alto.Limits(request_bytes=100_000))
        async with alto.Runtime(config) as runtime:
            return len([event async for event in runtime.stream(p, count, delivery=delivery)])

    assert run_virtually(given(500, "provisional")) == 500
    assert run_virtually(given(50, "committed")) == 50
    with pytest.raises(alto.StageError) as caught:
        run_virtually(given(500, "committed"))
    assert "request_bytes=100,000. With delivery='committed' the items of produce" in str(
        caught.value
    )
