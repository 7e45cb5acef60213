"""A case on the production runtime, on virtual time: `Runtime.call`, `.stream` and `.start`.

The functions under the stages follow the same script as the puppets do, with `async for` and
`await asyncio.sleep`. After a case nothing of it may be left: no task, no request, no place taken.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import alto
from alto.testing.loop import run as run_virtually

from .behaviour import END, Give, Plan, Read, dice, script
from .check import expect, judge
from .draw import Case, describe, draw

PATIENCE_S = 1_000_000.0
"""Virtual seconds that no case needs, even if each attempt of a stage hangs and one runs at a time."""


def body(case: Case, plan: Plan) -> Callable[..., Any]:
    """The function under a stage: an async generator if it fans out."""

    async def steps(arguments: dict[str, Any]) -> AsyncIterator[Any]:
        here = alto.current()
        streams = {name: aiter(arguments.pop(name)) for name in plan.reads}
        run = script(case.seed, plan, here.path, here.attempt, arguments)
        answer: Any = None
        while True:
            try:
                step = run.send(answer)
            except StopIteration as end:
                yield _Returned(end.value)
                return
            answer = None
            if isinstance(step, Read):
                answer = await anext(streams[step.parameter], END)
            elif isinstance(step, Give):
                yield step.value
            else:
                await asyncio.sleep(step.seconds)

    async def fan_out(**arguments: Any) -> AsyncIterator[int]:
        async for step in steps(arguments):
            if not isinstance(step, _Returned):
                yield step

    async def one(**arguments: Any) -> int | None:
        async for step in steps(arguments):
            if isinstance(step, _Returned):
                return step.value
        raise AssertionError("a script ends with a value")

    return fan_out if plan.fans_out else one


class _Returned:
    def __init__(self, value: int | None) -> None:
        self.value = value


def one(seed: int, runs_max: int = 3000) -> int:
    """Run a case in the ways in which a client can ask for it. How many invocations it had."""
    case = draw(seed, body)
    expected = expect(case)
    if expected.runs > runs_max:
        return 0
    try:
        run_virtually(_all_ways(case, expected))
    except Exception as error:
        if isinstance(error, AssertionError) and "expected Expected" in str(error):
            raise
        raise AssertionError(f"{type(error).__name__}: {error}\n{describe(case)}") from error
    return expected.runs


async def _all_ways(case: Case, expected: Any) -> None:
    limits = alto.Limits(**case.limits)
    async with alto.Runtime(alto.Config(limits=limits)) as runtime:
        if case.stream:
            await _streamed(runtime, case, expected)
        else:
            await _called(runtime, case, expected)
        _nothing_left(runtime)
        await _given_up(runtime, case)
        _nothing_left(runtime)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left"


async def _called(runtime: alto.Runtime, case: Case, expected: Any) -> None:
    error: BaseException | None = None
    results: Any = {}
    try:
        results = await runtime.call(case.pipeline, **case.arguments, timeout=PATIENCE_S)
    except alto.AltoError as raised:
        error = raised
    judge(case, expected, results, error, None)


async def _streamed(runtime: alto.Runtime, case: Case, expected: Any) -> None:
    error: BaseException | None = None
    events: list[alto.Event] = []
    delivery = "committed" if case.committed else "provisional"
    stream = runtime.stream(case.pipeline, **case.arguments, timeout=PATIENCE_S, delivery=delivery)
    try:
        async for event in stream:
            events.append(event)
            if dice(case.seed, len(events)) % 8 == 0:
                await asyncio.sleep(1.0)
    except alto.AltoError as raised:
        error = raised
    judge(case, expected, None, error, events)


async def _given_up(runtime: alto.Runtime, case: Case) -> None:
    """The caller loses patience at some time: by a deadline, or by cancelling."""
    after = dice(case.seed, "after") % 40 / 8
    if dice(case.seed, "how") % 2:
        request = runtime.start(case.pipeline, **case.arguments)
        await asyncio.sleep(after)
        request.cancel()
        try:
            await request.result()
        except (asyncio.CancelledError, alto.StageError):
            assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        return
    with contextlib.suppress(alto.DeadlineExceeded, alto.StageError):
        await runtime.call(case.pipeline, **case.arguments, timeout=after)


def _nothing_left(runtime: alto.Runtime) -> None:
    assert runtime.open_requests == 0, "a request is left"
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks are left: {left}"
