"""Blocking stages on real threads: what crosses, what is fenced, what is told, what is left."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from leaks import PATIENCE_S, alto_threads, nothing_held, on_real_loop, on_virtual_time, watched

import alto
from alto import Stream, pipeline, stage
from alto.runtime import threads as threads_module


def one_stage(subject: Any) -> Any:
    @pipeline
    def p(x: int):
        return subject(x)

    return p


def test_exceptions_cross_with_their_traceback() -> None:
    @stage
    def broken(x: int) -> int:
        raise KeyError("here")

    async def main() -> alto.StageError:
        async with watched() as runtime:
            with pytest.raises(alto.StageError) as caught:
                await runtime.call(one_stage(broken), 1)
        return caught.value

    cause = on_real_loop(main).__cause__
    assert isinstance(cause, KeyError)
    frames = []
    trace = cause.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert frames[-1] == "broken"


@pytest.mark.parametrize("form", ["plain", "session", "generator"])
def test_a_stop_iteration_that_escapes_is_a_failure_not_a_hang(form: str) -> None:
    @stage
    def plain(x: int) -> int:
        return next(iter([]))

    @stage
    async def numbers(x: int) -> AsyncIterator[int]:
        yield x

    @stage
    def session(items: Stream[int]) -> int:
        return next(iter([]))

    @stage
    def generator(x: int) -> Iterator[int]:
        yield x
        raise RuntimeError("StopIteration becomes this by itself in a generator")

    @pipeline
    def p(x: int):
        if form == "session":
            return session(numbers(x))
        return plain(x) if form == "plain" else generator(x)

    async def main() -> None:
        async with watched() as runtime:
            with pytest.raises(alto.StageError, match="StopIteration"):
                await runtime.call(p, 1)

    on_real_loop(main)


def test_a_blocked_thread_does_not_delay_its_request_and_gives_its_place_back_once() -> None:
    release, begun = threading.Event(), threading.Event()

    @stage(max_concurrency=1)
    def blocks(x: int) -> int:
        begun.set()
        assert release.wait(PATIENCE_S)
        return x

    p = one_stage(blocks)

    async def main() -> None:
        async with watched() as runtime:
            first = runtime.start(p, 1)
            await asyncio.to_thread(begun.wait)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first.result()  # with the thread still blocked
            assert not release.is_set()
            places = runtime.units["blocks"].places
            assert places.busy == [1], "a place is held until its thread ends"
            second = runtime.start(p, 2)
            await asyncio.sleep(0.01)
            assert not second.finished and places.busy == [1]
            release.set()
            assert await second.result() == 2
            nothing_held(runtime)

    on_real_loop(main)


def test_a_thread_that_never_ends_keeps_neither_the_runtime_nor_the_pool() -> None:
    release, begun = threading.Event(), threading.Event()

    @stage
    def blocks(x: int) -> int:
        begun.set()
        release.wait(PATIENCE_S)
        return x

    async def main() -> None:
        async with alto.Runtime() as runtime:
            request = runtime.start(one_stage(blocks), 1)
            await asyncio.to_thread(begun.wait)
            request.cancel()
        assert [t.daemon for t in alto_threads()] == [True]
        release.set()  # the runtime has been closed while the thread is blocked

    on_real_loop(main)


def test_a_session_stopped_while_it_waits_unwinds_with_its_own_exception() -> None:
    seen: list[str] = []

    @stage
    async def quiet(x: int) -> AsyncIterator[int]:
        yield x
        await asyncio.sleep(3600)

    @stage
    def reads(items: Stream[int]) -> int:
        try:
            for item in items:
                seen.append(str(item))
        except Exception:
            seen.append("an Exception handler of the user's must not see it")
        finally:
            seen.append("unwound")
        return 0

    @pipeline
    def p(x: int):
        return reads(quiet(x))

    async def main() -> None:
        async with watched() as runtime:
            with pytest.raises(alto.DeadlineExceeded):
                await runtime.call(p, 7, timeout=0.2)

    on_real_loop(main)
    assert seen == ["7", "unwound"]


def test_a_stream_that_is_read_in_pieces_loses_nothing() -> None:
    @stage
    async def numbers(x: int) -> AsyncIterator[int]:
        for k in range(x):
            yield k

    @stage
    def reads(items: Stream[int]) -> list[int]:
        first = next(iter(items))
        some = []
        for item in items:
            some.append(item)
            if len(some) == 3:
                break
        rest = list(items)
        return [first, sum(some), len(rest), *rest[:2], len(list(items))]

    @pipeline
    def p(x: int):
        return reads(numbers(x))

    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(p, 1000)

    assert on_real_loop(main) == [0, 6, 996, 4, 5, 0]


def test_many_threads_may_share_a_stream() -> None:
    from concurrent.futures import ThreadPoolExecutor

    @stage
    async def numbers(x: int) -> AsyncIterator[int]:
        for k in range(x):
            yield k
            if k % 7 == 0:
                await asyncio.sleep(0)

    @stage
    def reads(items: Stream[int]) -> list[int]:
        with ThreadPoolExecutor(4) as pool:
            return sorted(k for part in pool.map(list, [items] * 4) for k in part)

    @pipeline
    def p(x: int):
        return reads(numbers(x))

    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(p, 500)

    assert on_real_loop(main) == list(range(500))


def test_a_generator_far_ahead_is_bounded_and_ends_when_nobody_listens() -> None:
    given: list[int] = []
    ended = threading.Event()

    @stage
    def forever(x: int) -> Iterator[int]:
        try:
            while True:
                given.append(x)
                yield x
        finally:
            ended.set()

    @stage
    async def slow(items: Stream[int]) -> int:
        total = 0
        async for item in items:
            total += item
            await asyncio.sleep(0.002)
            if total == 50:
                break
        return total

    @pipeline
    def p(x: int):
        return slow(forever(x))

    limits = alto.Limits(scope_items=8)

    async def main() -> None:
        async with watched(alto.Config(limits=limits)) as runtime:
            assert await runtime.call(p, 1) == 50

    on_real_loop(main)
    assert ended.wait(PATIENCE_S)
    assert len(given) <= 50 + 8 + threads_module.AHEAD_MAX + 4


def test_a_lazy_iterator_that_a_blocking_stage_returns_does_not_run_on_the_loop() -> None:
    where: set[int] = set()

    def make(x: int) -> Iterator[int]:
        for k in range(x):
            where.add(threading.get_ident())
            yield k

    @stage
    def lazy(x: int) -> Iterator[int]:
        return make(x)

    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(one_stage(lazy), 3), threading.get_ident()

    result, loop_thread = on_real_loop(main)
    assert result == [0, 1, 2]
    assert loop_thread not in where


def test_the_time_in_which_an_attempt_waits_for_a_thread_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads_module, "THREADS_MAX", 2)
    release = threading.Event()

    @stage
    def blocks(x: int) -> int:
        release.wait(PATIENCE_S)
        return x

    @stage(timeout=0.05)
    def quick(x: int) -> int:
        return x

    async def main() -> None:
        async with watched() as runtime:
            full = [runtime.start(one_stage(blocks), k) for k in range(2)]
            await asyncio.sleep(0.05)
            waiting = runtime.start(one_stage(quick), 7)
            await asyncio.sleep(0.2)  # four times what the attempt may take
            assert not waiting.finished
            release.set()
            assert await waiting.result() == 7
            assert [await request.result() for request in full] == [0, 1]

    on_real_loop(main)


def test_the_time_in_which_a_session_works_on_what_it_has_been_given_does_count() -> None:
    over = threading.Event()

    @stage
    async def one(x: int) -> AsyncIterator[int]:
        yield x
        await asyncio.sleep(PATIENCE_S)

    @stage(timeout=0.1)
    def grinds(items: Stream[int]) -> int:
        for _ in items:
            over.wait(PATIENCE_S)
        return 0

    @pipeline
    def p(x: int):
        return grinds(one(x))

    async def main() -> None:
        async with watched() as runtime:
            try:
                with pytest.raises(alto.StageError, match=r"took longer than timeout=0\.1"):
                    await runtime.call(p, 1)
            finally:
                over.set()

    on_real_loop(main)


def test_context_variables_of_the_caller_are_seen_in_threads() -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    @stage
    def plain(x: int) -> str:
        return f"{user.get()} {alto.current().stage}"

    @stage
    def many(x: int) -> Iterator[str]:
        yield f"{user.get()} {alto.current().stage}"

    @pipeline
    def p(x: int):
        return {"plain": plain(x), "many": many(x)}

    async def main() -> None:
        async with watched() as runtime:
            for name in ("ann", "bob"):
                user.set(name)
                result = await runtime.call(p, 1)
                assert result == {"plain": f"{name} plain", "many": [f"{name} many"]}

    on_real_loop(main)


def test_what_a_blocking_generator_reports_comes_before_the_item_it_yields_next() -> None:
    busy = threading.Event()

    @stage
    def numbers(x: int) -> Iterator[int]:
        for number in range(x):
            alto.current().emit("at", number)
            yield number
            busy.wait(PATIENCE_S)

    def once_all_is_yielded(number: int) -> bool:  # the loop is busy with the first item until then
        busy.set()
        for thread in threading.enumerate():
            if thread.name == "alto-numbers":
                thread.join(PATIENCE_S)
        return True

    @pipeline
    def p(x: int):
        return numbers(x).where(once_all_is_yielded)

    async def main() -> list[tuple[str, int]]:
        async with watched() as runtime:
            return [(event.output, event.value) async for event in runtime.stream(p, 3)]

    seen = on_real_loop(main)
    assert [value for output, value in seen if output == "at"] == [0, 1, 2]
    assert all(seen.index(("at", number)) < seen.index(("result", number)) for number in range(3))


def test_progress_from_a_thread_that_outlives_its_request_reaches_nobody() -> None:
    release, ended, begun = threading.Event(), threading.Event(), threading.Event()
    raised: list[BaseException] = []

    @stage
    def late(x: int) -> int:
        begun.set()
        release.wait(PATIENCE_S)
        try:
            alto.current().emit("late", x)
        except BaseException as error:
            raised.append(error)
        ended.set()
        return x

    async def main() -> None:
        async with alto.Runtime() as runtime:
            request = runtime.start(one_stage(late), 1)
            await asyncio.to_thread(begun.wait)
            request.cancel()

    asyncio.run(main())  # the loop is closed now
    release.set()
    assert ended.wait(PATIENCE_S)
    assert not raised


def test_a_blocking_function_that_returns_a_coroutine_is_awaited() -> None:
    async def inner(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    @stage
    def outer(x: int) -> int:
        return inner(x)  # type: ignore[return-value]

    async def main() -> None:
        async with watched() as runtime:
            assert await runtime.call(one_stage(outer), 1) == 2

    on_real_loop(main)
    on_virtual_time(main)
