"""Who is stopped, when: readers that leave early, callers that give up, clients that go away.

After each of them no task, thread, place or request is left.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import alto
from alto import AsCompleted, Stream, pipeline, stage
from alto.testing.loop import run as run_virtually


def nothing_left(runtime: alto.Runtime) -> None:
    assert runtime.open_requests == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


def call(flow: Any, *args: Any, **options: Any) -> Any:
    async def main() -> Any:
        async with alto.Runtime() as runtime:
            try:
                return await runtime.call(flow, *args, **options)
            finally:
                nothing_left(runtime)

    return run_virtually(main())


class Ends:
    """Stages that say how they ended."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def forever(self) -> Any:
        @stage(name="forever")
        async def forever(x: int) -> AsyncIterator[int]:
            try:
                while True:
                    await asyncio.sleep(1)
                    yield x
                    x += 1
            finally:
                self.log.append("forever ended")

        return forever

    def slow(self) -> Any:
        @stage(name="slow")
        async def slow(x: int) -> int:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                self.log.append(f"slow {x} cancelled")
                raise
            return x

        return slow


# ---------------------------------------------------------------- readers that leave


def test_a_producer_that_never_ends_but_whose_reader_does() -> None:
    ends = Ends()
    forever = ends.forever()

    @stage
    async def three(items: Stream[int]) -> list[int]:
        found: list[int] = []
        async for item in items:
            found.append(item)
            if len(found) == 3:
                break
        return found

    @pipeline
    def p(x: int):
        return three(forever(x))

    assert call(p, 5) == [5, 6, 7]
    assert ends.log == ["forever ended"]


def test_a_reader_that_never_reads() -> None:
    ends = Ends()
    forever = ends.forever()

    @stage
    async def indifferent(x: int, items: Stream[int]) -> int:
        return x

    @pipeline
    def p(x: int):
        return indifferent(x, forever(x))

    assert call(p, 5) == 5
    assert ends.log in ([], ["forever ended"])


def test_what_a_reader_left_behind_is_cancelled_through_all_levels() -> None:
    ends = Ends()
    forever, slow = ends.forever(), ends.slow()

    @stage
    async def some(x: int) -> AsyncIterator[int]:
        for k in range(3):
            yield x * 10 + k

    @stage
    async def first(x: int, items: AsCompleted[int]) -> str:
        await asyncio.sleep(4.5)
        return "enough"

    @pipeline
    def p(x: int):
        return first(x, slow(some(forever(x))))

    assert call(p, 0) == "enough"
    cancelled = [f"slow {x * 10 + k} cancelled" for x in range(4) for k in range(3)]
    assert sorted(ends.log) == sorted(["forever ended", *cancelled])


def test_work_that_somebody_else_wants_goes_on() -> None:
    finished: list[int] = []

    @stage
    async def numbers(x: int) -> AsyncIterator[int]:
        for k in range(3):
            yield k

    @stage
    async def slow(x: int) -> int:
        await asyncio.sleep(x)
        finished.append(x)
        return x

    @stage
    async def first(items: Stream[int]) -> int:
        async for item in items:
            return item
        return -1

    @pipeline
    def p(x: int):
        worked = slow(numbers(x))
        return {"first": first(worked), "all": worked}

    assert call(p, 0) == {"first": 0, "all": [0, 1, 2]}
    assert finished == [0, 1, 2]


def test_both_readers_have_to_leave() -> None:
    ends = Ends()
    forever = ends.forever()

    def taker(count: int) -> Any:
        @stage(name=f"take{count}")
        async def take(items: Stream[int]) -> int:
            seen = 0
            async for _ in items:
                seen += 1
                if seen == count:
                    break
            return seen

        return take

    take2, take6 = taker(2), taker(6)

    @pipeline
    def p(x: int):
        items = forever(x)
        return {"two": take2(items), "six": take6(items)}

    assert call(p, 0) == {"two": 2, "six": 6}
    assert ends.log == ["forever ended"]


# ---------------------------------------------------------------- callers that give up


@pytest.mark.parametrize("how", ["timeout", "cancel the call", "cancel the request", "leave"])
def test_after_a_caller_has_given_up_nothing_is_left(how: str) -> None:
    ends = Ends()
    forever, slow = ends.forever(), ends.slow()

    @pipeline
    def p(x: int):
        items = forever(x)
        return {"items": items, "slow": slow(items)}

    async def main() -> None:
        async with alto.Runtime() as runtime:
            if how == "timeout":
                with pytest.raises(alto.DeadlineExceeded):
                    await runtime.call(p, 0, timeout=3.5)
            elif how == "cancel the call":
                task = asyncio.create_task(runtime.call(p, 0))
                await asyncio.sleep(3.5)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            elif how == "cancel the request":
                request = runtime.start(p, 0)
                await asyncio.sleep(3.5)
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request.result()
            else:
                events = runtime.stream(p, 0)
                async for event in events:
                    if event.value == 3:
                        break
                await events.aclose()
            nothing_left(runtime)

    run_virtually(main())
    assert sorted(ends.log) == ["forever ended", *(f"slow {x} cancelled" for x in range(3))]


def test_closing_the_runtime_ends_its_requests() -> None:
    ends = Ends()
    forever = ends.forever()

    @pipeline
    def p(x: int):
        return forever(x)

    async def main() -> None:
        async with alto.Runtime() as runtime:
            request = runtime.start(p, 0)
            await asyncio.sleep(2.5)
        with pytest.raises(asyncio.CancelledError):
            await request.result()
        nothing_left(runtime)
        with pytest.raises(alto.ConfigError, match="after the runtime was closed"):
            await runtime.call(p, 0)

    run_virtually(main())
    assert ends.log == ["forever ended"]


def test_waiting_for_a_result_with_a_limit_does_not_cancel_the_request() -> None:
    @stage
    async def slow(x: int) -> int:
        await asyncio.sleep(5)
        return x

    @pipeline
    def p(x: int):
        return slow(x)

    async def main() -> int:
        async with alto.Runtime() as runtime:
            request = runtime.start(p, 3)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(request.result(), 1)
            found: int = await request.result()
            return found

    assert run_virtually(main()) == 3


def test_a_failure_stops_everything_else() -> None:
    ends = Ends()
    slow = ends.slow()

    @stage
    async def broken(x: int) -> int:
        await asyncio.sleep(1)
        raise ValueError("no")

    @pipeline
    def p(x: int):
        return {"slow": slow(x), "broken": broken(x)}

    with pytest.raises(alto.StageError):
        call(p, 1)
    assert ends.log == ["slow 1 cancelled"]


def test_a_stage_that_raises_cancelled_error_itself_is_a_failure() -> None:
    @stage
    async def odd(x: int) -> int:
        raise asyncio.CancelledError("by itself")

    @pipeline
    def p(x: int):
        return odd(x)

    with pytest.raises(alto.StageError, match="CancelledError"):
        call(p, 1)


def test_one_request_does_not_disturb_another() -> None:
    ends = Ends()
    slow = ends.slow()

    @pipeline
    def p(x: int):
        return slow(x)

    async def main() -> list[Any]:
        async with alto.Runtime() as runtime:
            requests = [runtime.start(p, x) for x in range(3)]
            await asyncio.sleep(1)
            requests[1].cancel()
            results = await asyncio.gather(
                *(request.result() for request in requests), return_exceptions=True
            )
            nothing_left(runtime)
            return results

    first, second, third = run_virtually(main())
    assert (first, third) == (0, 2)
    assert isinstance(second, asyncio.CancelledError)
    assert ends.log == ["slow 1 cancelled"]


# ---------------------------------------------------------------- real threads


def alto_threads() -> list[str]:
    """The threads that are left when those whose code has ended are gone."""
    threads = [t for t in threading.enumerate() if t.name.startswith("alto-")]
    for thread in threads:
        thread.join(20.0)
    return [t.name for t in threads if t.is_alive()]


def test_a_blocking_stage_does_not_stall_the_loop() -> None:
    release = threading.Event()

    @stage
    def blocks(x: int) -> int:
        release.wait(30)
        return x

    @stage
    async def opens(x: int) -> int:
        release.set()
        return x

    @pipeline
    def p(x: int):
        return {"blocked": blocks(x), "opened": opens(x)}

    assert alto.run(p, 1) == {"blocked": 1, "opened": 1}
    assert alto_threads() == []


def test_blocking_sessions_read_while_others_write() -> None:
    @stage
    def numbers(x: int) -> Iterator[int]:
        yield from range(x)

    @stage
    def doubled(items: Stream[int]) -> Iterator[int]:
        for item in items:
            yield item * 2

    @stage
    def total(items: Stream[int]) -> int:
        return sum(items)

    @pipeline
    def p(x: int):
        return total(doubled(numbers(x)))

    assert alto.run(p, 1000) == 999_000
    assert alto_threads() == []


def test_a_blocked_thread_holds_its_place_until_it_ends_and_its_result_is_fenced() -> None:
    release = threading.Event()
    begun = threading.Event()
    started: list[int] = []

    @stage(max_concurrency=1, timeout=0.05, retries=1, backoff=0)
    def blocks(x: int) -> str:
        started.append(x)
        begun.set()
        if len(started) == 1:
            release.wait(30)
            return "too late"
        return "in time"

    @stage
    async def opens(x: int) -> int:
        await asyncio.to_thread(begun.wait)
        await asyncio.sleep(0.2)  # four times what the attempt may take
        assert started == [1], "the place is held by the first attempt"
        release.set()
        return x

    @pipeline
    def p(x: int):
        return {"blocked": blocks(x), "opened": opens(x)}

    assert alto.run(p, 1, timeout=20) == {"blocked": "in time", "opened": 1}


def test_a_blocking_generator_whose_reader_leaves_ends_at_its_next_item() -> None:
    ended = threading.Event()

    @stage
    def forever(x: int) -> Iterator[int]:
        try:
            while True:
                yield x
        finally:
            ended.set()

    @stage
    async def first(items: Stream[int]) -> int:
        async for item in items:
            return item
        return -1

    @pipeline
    def p(x: int):
        return first(forever(x))

    assert alto.run(p, 7) == 7
    assert ended.wait(10)


def test_a_blocking_session_that_is_cancelled_is_told_at_its_next_read() -> None:
    ended = threading.Event()

    @stage
    async def quiet(x: int) -> AsyncIterator[int]:
        yield x
        await asyncio.sleep(3600)

    @stage
    def reads(items: Stream[int]) -> int:
        try:
            return sum(items)
        finally:
            ended.set()

    @pipeline
    def p(x: int):
        return reads(quiet(x))

    with pytest.raises(alto.DeadlineExceeded):
        alto.run(p, 7, timeout=0.1)
    assert ended.wait(10)


def test_a_request_without_work_is_over_when_its_call_is() -> None:
    @pipeline
    def p(x: int):
        return alto.either(x.where(lambda value: value > 1), x)  # type: ignore[attr-defined]

    async def main() -> list[int]:
        async with alto.Runtime() as runtime:
            found = [await runtime.call(p, x) for x in range(3)]
            nothing_left(runtime)
            return found

    assert run_virtually(main()) == [0, 1, 2]


def test_what_a_failure_makes_ready_does_not_run() -> None:
    ran: list[str] = []

    @stage
    async def broken(x: int) -> int:
        raise ValueError("no")

    @stage(on_error="fail")
    async def needs(x: int) -> int:
        ran.append("needs")
        return x

    @stage
    async def beside(x: int, y: int) -> int:
        ran.append("beside")
        return x

    @pipeline
    def p(x: int):
        failed = broken(x)
        return {
            "one": needs(failed),
            "two": needs(alto.either(failed, x)),
            "three": beside(x, failed),
        }

    with pytest.raises(alto.StageError, match="broken"):
        call(p, 1)
    assert ran == []


def test_what_an_either_does_not_need_is_stopped_at_once() -> None:
    stopped: list[float] = []

    @stage
    async def quick(x: int) -> int:
        await asyncio.sleep(1)
        return x

    @stage
    async def slow(x: int) -> int:
        try:
            await asyncio.sleep(100)
        finally:
            stopped.append(asyncio.get_running_loop().time())
        return x

    @stage
    async def other(x: int) -> int:
        await asyncio.sleep(5)
        return x

    @pipeline
    def p(x: int):
        return {"either": alto.either(quick(x), slow(x)), "other": other(x)}

    assert call(p, 3) == {"either": 3, "other": 3}
    assert stopped == [1]
