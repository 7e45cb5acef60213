"""Stages that do what they should not, and what the runtime makes of it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import pytest
from leaks import nothing_held, on_real_loop, on_virtual_time, watched

import alto
from alto import Stream, pipeline, stage
from alto.runtime.waits import CLEANUP_S

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


def one_stage(subject: Any) -> Any:
    @pipeline
    def p(x: int):
        return subject(x)

    return p


@stage
async def numbers(x: int) -> AsyncIterator[int]:
    for k in range(x):
        yield k


# ------------------------------------------------------------------------ context variables


def test_what_one_invocation_sets_no_other_sees() -> None:
    seen: list[str] = []

    @stage
    async def sets(x: int) -> int:
        seen.append(user.get())
        user.set(f"set by {x}")
        await asyncio.sleep(0)
        assert user.get() == f"set by {x}"
        return x

    @stage
    async def gets(x: int) -> str:
        return user.get()

    @pipeline
    def p(x: int):
        return gets(sets(numbers(x)))

    async def main() -> Any:
        user.set("the caller")
        async with watched() as runtime:
            return await runtime.call(p, 100)

    assert on_virtual_time(main) == ["the caller"] * 100
    assert seen == ["the caller"] * 100


def test_a_stage_that_fails_leaves_no_context_behind_either() -> None:
    @stage(retries=1, backoff=0)
    async def sets(x: int) -> str:
        if alto.current().attempt == 1:
            user.set("a failed attempt")
            raise ValueError(x)
        return user.get()

    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(one_stage(sets), 1)

    assert on_virtual_time(main) == "nobody"


def test_values_that_cannot_be_compared_may_stand_in_a_context() -> None:
    class Array:
        def __eq__(self, other: object) -> bool:
            raise ValueError("the truth of an array is ambiguous")

        __hash__ = None  # type: ignore[assignment]

    held: contextvars.ContextVar[Any] = contextvars.ContextVar("held", default=None)

    @stage
    async def sets(x: int) -> bool:
        clean = held.get() is None
        token = held.set(Array())
        held.reset(token)
        held.set(Array())
        return clean

    @pipeline
    def p(x: int):
        return sets(numbers(x))

    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(p, 10)

    assert on_virtual_time(main) == [True] * 10


def test_contexts_of_requests_and_of_requests_inside_requests() -> None:
    @stage
    async def inner(x: int) -> str:
        return f"{user.get()}/{alto.current().stage}"

    inner_pipeline = one_stage(inner)
    runtimes: list[alto.Runtime] = []

    @stage
    async def outer(x: int) -> str:
        user.set(f"outer {x}")
        found: str = await runtimes[0].call(inner_pipeline, x)
        return f"{found}/{alto.current().stage}"

    async def main() -> Any:
        async with watched() as runtime:
            runtimes.append(runtime)
            return await asyncio.gather(*(runtime.call(one_stage(outer), x) for x in range(3)))

    assert on_virtual_time(main) == [f"outer {x}/inner/outer" for x in range(3)]


# ------------------------------------------------------------------------ endings


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), asyncio.CancelledError()])
@pytest.mark.parametrize("form", ["async", "blocking", "batch", "generator"])
def test_what_is_no_exception_is_a_failure_of_the_stage_all_the_same(
    form: str, error: BaseException
) -> None:
    @stage(name="odd")
    async def plain(x: int) -> int:
        raise error

    @stage(name="odd")
    def blocking(x: int) -> int:
        raise error

    @stage(name="odd", batch=4)
    async def batch(x: list[int]) -> list[int]:
        raise error

    @stage(name="odd")
    async def generator(x: int) -> AsyncIterator[int]:
        yield x
        raise error

    subject = {"async": plain, "blocking": blocking, "batch": batch, "generator": generator}[form]

    async def main() -> None:
        async with watched() as runtime:
            with pytest.raises(alto.StageError) as caught:
                await runtime.call(one_stage(subject), 1, timeout=10)
            assert type(caught.value.__cause__) is type(error)

    on_real_loop(main)


def test_a_ctrl_c_ends_the_request_and_goes_on_to_the_top() -> None:
    @stage
    async def interrupted(x: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        alto.run(one_stage(interrupted), 1)


def test_a_stage_that_swallows_its_cancellation_disturbs_nobody() -> None:
    log: list[str] = []

    @stage(name="stubborn")
    async def stubborn(x: int) -> int:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            log.append("swallowed")
        return x

    @stage
    async def after(x: int) -> int:
        await asyncio.sleep(1)
        if x == 3:
            raise asyncio.CancelledError("its own")
        return x

    @stage
    async def first(items: Stream[int]) -> int:
        async for item in items:
            return item
        return -1

    @stage
    async def mixed(x: int) -> int:
        if x == 0:
            await asyncio.sleep(1)
            return x
        return int(await stubborn.function(x))

    @pipeline
    def p(x: int):
        ns = numbers(x)
        return {"first": first(mixed(ns)), "after": after(ns.where(lambda n: n != 3))}

    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(p, 9)

    assert on_virtual_time(main) == {"first": 0, "after": [0, 1, 2, 4, 5, 6, 7, 8]}
    assert log == ["swallowed"] * 8


def test_a_request_waits_for_clean_up_but_not_for_ever() -> None:
    cleaned: list[float] = []

    @stage
    async def tidy(x: int) -> int:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(x)
            cleaned.append(asyncio.get_running_loop().time())
        return x

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with watched() as runtime:
            with pytest.raises(alto.DeadlineExceeded):
                await runtime.call(one_stage(tidy), 2, timeout=1)
            assert loop.time() == 3.0
            with pytest.raises(alto.DeadlineExceeded):
                await runtime.call(one_stage(tidy), 60, timeout=1)
            assert loop.time() == 4.0 + CLEANUP_S
            assert runtime.open_requests == 0
            await asyncio.sleep(100)
            nothing_held(runtime)

    on_virtual_time(main)
    assert cleaned == [3.0, 64.0]


def test_closing_waits_for_the_clean_up_of_requests_that_nobody_waits_for() -> None:
    log: list[str] = []

    @stage
    class Model:
        async def __call__(self, x: int) -> int:
            try:
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(2)
                log.append("cleaned")
            return x

        def close(self) -> None:
            log.append("closed")

    async def main() -> None:
        async with alto.Runtime() as runtime:
            request = runtime.start(one_stage(Model), 1)
            await asyncio.sleep(1)
            request.cancel()
        assert asyncio.get_running_loop().time() == 3.0

    on_virtual_time(main)
    assert log == ["cleaned", "closed"]


def test_a_session_that_ignores_its_end_does_not_stall_the_loop() -> None:
    @stage
    async def deaf(items: Stream[int]) -> int:
        for _ in range(500):
            try:
                async for _ in items:
                    pass
            except asyncio.CancelledError:
                pass
        return 1

    @stage
    async def quiet(x: int) -> AsyncIterator[int]:
        yield x
        await asyncio.sleep(1000)

    @pipeline
    def p(x: int):
        return deaf(quiet(x))

    async def main() -> None:
        async with watched() as runtime:
            with pytest.raises(alto.DeadlineExceeded):
                await runtime.call(p, 2, timeout=1)

    on_virtual_time(main)


def test_two_tasks_that_read_one_stream_are_told() -> None:
    @stage
    async def slowly(x: int) -> AsyncIterator[int]:
        await asyncio.sleep(1)
        yield x

    @stage
    async def both(items: Stream[int]) -> list[int]:
        stream = aiter(items)

        async def one() -> int:
            return await anext(stream)

        return list(await asyncio.gather(one(), one()))

    @pipeline
    def p(x: int):
        return both(slowly(x))

    async def main() -> None:
        async with watched() as runtime:
            with pytest.raises(alto.StageError, match="two tasks wait for the next item"):
                await runtime.call(p, 2)

    on_virtual_time(main)


# ------------------------------------------------------------------------ forms


def test_an_async_iterator_that_is_returned_is_closed_when_its_reader_leaves() -> None:
    log: list[str] = []

    async def forever(x: int) -> AsyncIterator[int]:
        try:
            while True:
                yield x
        finally:
            log.append("closed")

    @stage
    async def returns(x: int) -> AsyncIterator[int]:
        return forever(x)

    @stage
    async def first(items: Stream[int]) -> int:
        async for item in items:
            return item
        return -1

    @pipeline
    def p(x: int):
        return first(returns(x))

    async def main() -> Any:
        async with watched() as runtime:
            result = await runtime.call(p, 7)
            assert log == ["closed"]
            return result

    assert on_virtual_time(main) == 7


@pytest.mark.parametrize("wrong", [None, 3, "text", {"a": 1}], ids=repr)
def test_what_is_no_stream_is_named(wrong: Any) -> None:
    @stage
    async def returns(x: int) -> Stream[int]:
        return wrong  # type: ignore[no-any-return]

    async def main() -> None:
        async with watched() as runtime:
            with pytest.raises(alto.StageError, match="annotated as a stream and returned"):
                await runtime.call(one_stage(returns), 1)

    on_virtual_time(main)


def test_a_generator_that_never_yields_is_an_empty_scope() -> None:
    @stage
    async def never(x: int) -> AsyncIterator[int]:
        if x < 0:
            yield x

    @stage
    def never_either(x: int) -> Iterator[int]:
        return iter(())

    @pipeline
    def p(x: int):
        return {"one": never(x), "two": never_either(x)}

    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(p, 1)

    assert on_real_loop(main) == {"one": [], "two": []}


def test_a_generator_that_yields_after_it_was_stopped() -> None:
    @stage
    async def stubborn(x: int) -> AsyncIterator[int]:
        while True:
            try:
                yield x
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                yield -1

    @stage
    async def first(items: Stream[int]) -> int:
        async for item in items:
            await asyncio.sleep(0.5)
            return item
        return -1

    @pipeline
    def p(x: int):
        return first(stubborn(x))

    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(p, 7)

    assert on_virtual_time(main) == 7


def test_keyword_only_positional_only_and_wrapped() -> None:
    def traced(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Awaitable[Any]:
            found: Awaitable[Any] = function(*args, **kwargs)
            return found

        return wrapper

    @stage
    @traced
    async def wrapped(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    @stage
    def mixed(a: int, /, b: int, *, c: int) -> int:
        return 100 * a + 10 * b + c

    @pipeline
    def p(x: int):
        return mixed(wrapped(x), b=x, c=3)

    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(p, 1)

    assert on_real_loop(main) == 213
    assert on_virtual_time(main) == 213


def test_tasks_that_outlive_their_stage_read_nothing_and_tell_nothing() -> None:
    tasks: list[asyncio.Task[Any]] = []

    @stage
    async def starts(x: int, items: Stream[int]) -> int:
        async def later() -> list[int]:
            await asyncio.sleep(5)
            alto.current().emit("late", x)
            return [item async for item in items]

        tasks.append(asyncio.create_task(later()))
        return x

    @pipeline
    def p(x: int):
        return starts(x, numbers(x))

    async def main() -> None:
        async with watched() as runtime:
            events = [event async for event in runtime.stream(p, 3)]
            assert [event.value for event in events] == [3]
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]

    on_virtual_time(main)
