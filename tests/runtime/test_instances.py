"""Class stages: instances are made once, off the loop, chosen by load, closed at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from leaks import PATIENCE_S, on_real_loop, on_virtual_time, watched

import alto
from alto import pipeline, stage


def one_stage(subject: Any) -> Any:
    @pipeline
    def p(x: int):
        return subject(x)

    return p


def test_concurrent_first_uses_make_each_instance_once_and_off_the_loop() -> None:
    made: list[int] = []
    all_ask = threading.Event()

    @stage(instances=3)
    class Model:
        def __init__(self) -> None:
            assert all_ask.wait(PATIENCE_S)
            made.append(threading.get_ident())

        async def __call__(self, x: int) -> int:
            return x

    async def main() -> int:
        async with watched() as runtime:
            p = one_stage(Model)
            requests = [runtime.start(p, x) for x in range(20)]
            for _ in range(20):
                await asyncio.sleep(0)  # until each of them waits for its instance
            all_ask.set()
            assert [await request.result() for request in requests] == [*range(20)]
        return threading.get_ident()

    loop_thread = on_real_loop(main)
    assert len(made) == 3
    assert loop_thread not in made


def test_the_first_user_may_leave_while_the_instance_is_made() -> None:
    made: list[int] = []
    begun, release = threading.Event(), threading.Event()

    @stage
    class Model:
        def __init__(self) -> None:
            begun.set()
            assert release.wait(PATIENCE_S)
            made.append(1)

        async def __call__(self, x: int) -> int:
            return x

    async def main() -> None:
        async with watched() as runtime:
            p = one_stage(Model)
            first, second = runtime.start(p, 1), runtime.start(p, 2)
            await asyncio.to_thread(begun.wait)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first.result()
            release.set()
            assert await second.result() == 2
            assert await runtime.call(p, 3) == 3

    on_real_loop(main)
    assert made == [1]


def test_an_instance_that_cannot_be_made_fails_each_request_until_it_can() -> None:
    tries: list[int] = []
    closed: list[int] = []

    @stage(instances=2)
    class Model:
        def __init__(self, path: str) -> None:
            tries.append(1)
            if len(tries) in (2, 4):
                raise OSError(f"no file {path}")

        async def __call__(self, x: int) -> int:
            return x

        def close(self) -> None:
            closed.append(1)

    config = alto.Config(stages={"Model": alto.StageConfig(init={"path": "weights.bin"})})

    async def main() -> None:
        async with watched(config) as runtime:
            for _ in range(2):
                with pytest.raises(alto.StageError) as caught:
                    await runtime.call(one_stage(Model), 1)
                assert "no file weights.bin" in str(caught.value)
                assert "[stages.Model.init]" in str(caught.value)
                assert caught.value.stage == "Model"
            assert closed == [1, 1], "the other instance of each try"
            assert await runtime.call(one_stage(Model), 1) == 1

    on_real_loop(main)
    assert closed == [1, 1, 1, 1]


def test_wrong_init_arguments_are_named() -> None:
    @stage
    class Model:
        async def __call__(self, x: int) -> int:
            return x

    config = alto.Config(stages={"Model": alto.StageConfig(init={"size": 3})})

    async def main() -> None:
        async with watched(config) as runtime:
            with pytest.raises(alto.StageError, match=r"init \{'size': 3\} raised TypeError"):
                await runtime.call(one_stage(Model), 1)

    on_real_loop(main)


def test_the_instance_with_the_least_to_do_is_chosen() -> None:
    served: dict[int, list[int]] = {}

    @stage(instances=2)
    class Worker:
        async def __call__(self, x: int) -> int:
            served.setdefault(id(self), []).append(x)
            await asyncio.sleep(x)
            return x

    async def main() -> None:
        async with watched() as runtime:
            p = one_stage(Worker)
            requests = []
            for seconds in (100, 1, 1, 1):  # the second instance is free each time
                requests.append(runtime.start(p, seconds))
                await asyncio.sleep(2)
            for request in requests:
                await request.result()

    on_virtual_time(main)
    assert sorted(served.values()) == [[1, 1, 1], [100]]


def test_every_form_of_call() -> None:
    @stage
    class Blocking:
        def __call__(self, x: int) -> int:
            return x + 1

    @stage
    class Generates:
        def __call__(self, x: int) -> Iterator[int]:
            yield from range(x)

    @stage
    class Waits:
        async def __call__(self, x: int) -> int:
            await asyncio.sleep(0)
            return x + 1

    @pipeline
    def p(x: int):
        return Waits(Generates(Blocking(x)))

    async def main() -> Any:
        async with watched() as runtime:
            return await runtime.call(p, 2)

    assert on_real_loop(main) == [1, 2, 3]
    assert on_virtual_time(main) == [1, 2, 3]


def test_everything_is_closed_even_if_one_close_raises() -> None:
    closed: list[str] = []

    def model(name: str, close: Any) -> Any:
        async def call(self: Any, x: int) -> int:
            return x

        return stage(name=name)(type(name, (), {"__call__": call, "close": close}))

    def bad(self: Any) -> None:
        closed.append("bad")
        raise OSError("device is gone")

    async def waits(self: Any) -> None:
        await asyncio.sleep(0)
        closed.append("waits")

    def lazily(self: Any) -> Any:
        return waits(self)

    first, second, third = model("A", bad), model("B", waits), model("C", lazily)

    @pipeline
    def p(x: int):
        return third(second(first(x)))

    async def main() -> None:
        with pytest.raises(alto.StageError, match="stage A: closing an instance raised OSError"):
            async with watched() as runtime:
                await runtime.call(p, 1)
        assert closed == ["bad", "waits", "waits"]
        await runtime.aclose()  # once more: nothing is closed twice

    on_real_loop(main)
    assert closed == ["bad", "waits", "waits"]


def test_closing_while_an_instance_is_made_closes_it() -> None:
    begun, release = threading.Event(), threading.Event()
    closed: list[int] = []

    @stage
    class Model:
        def __init__(self) -> None:
            begun.set()
            assert release.wait(PATIENCE_S)

        async def __call__(self, x: int) -> int:
            return x

        def close(self) -> None:
            closed.append(1)

    async def main() -> None:
        async with alto.Runtime() as runtime:
            request = runtime.start(one_stage(Model), 1)
            await asyncio.to_thread(begun.wait)
            asyncio.get_running_loop().call_later(0.01, release.set)
        with pytest.raises(asyncio.CancelledError):
            await request.result()

    on_real_loop(main)
    assert closed == [1]


def test_an_instance_is_closed_when_its_last_thread_has_left_it() -> None:
    begun, release = threading.Event(), threading.Event()
    log: list[str] = []

    @stage
    class Model:
        def __call__(self, x: int) -> int:
            begun.set()
            assert release.wait(PATIENCE_S)
            log.append("left")
            return x

        def close(self) -> None:
            log.append("closed")

    async def main() -> None:
        async with alto.Runtime() as runtime:
            request = runtime.start(one_stage(Model), 1)
            await asyncio.to_thread(begun.wait)
            request.cancel()
            asyncio.get_running_loop().call_later(0.02, release.set)

    on_real_loop(main)
    assert log == ["left", "closed"]
