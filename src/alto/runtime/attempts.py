"""One attempt of a stage, in whatever form the stage was written.

Async functions and generators run on the loop; blocking ones in threads (runtime/threads.py). On
virtual time threads would not count, so there blocking code runs inline.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sized
from concurrent.futures import Future
from contextlib import aclosing
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from ..annotations import Stream
from ..core import pressure
from ..core.execution import Invocation, State
from ..errors import StageError
from . import calls, lm, prompts, threads, waits
from .places import Place
from .readers import LiveStream
from .reading import Reading

if TYPE_CHECKING:
    from .driver import Run
    from .units import Unit

YIELD_EVERY = 64
"""After this many items without waiting, a fan-out lets others run."""


def run_one(
    run: Run, unit: Unit, invocation: Invocation, place: Place | None
) -> Awaitable[None] | Reading | None:
    """Any stage but the plain ones: an LM, a generator, code in a thread, an instance. Gives what
    to wait for; of the usual LM stage its text (see `Reading`)."""
    if not unit.writes or place is not None:
        return _run_one(run, unit, invocation, place)
    arguments = run.execution.arguments(invocation, run.kept_stream_of)
    given = unit.stage.function(**arguments)
    if not isinstance(given, str) and inspect.isawaitable(given):
        return _when_written(run, unit, invocation, arguments, given)
    return calls.begin(run, unit, invocation, arguments, prompts.returned(unit.name, given))


async def _when_written(
    run: Run,
    unit: Unit,
    invocation: Invocation,
    arguments: dict[str, Any],
    given: Awaitable[Any],
) -> None:
    messages = prompts.returned(unit.name, await given)
    await lm.call(run, unit, invocation, arguments, messages)


async def _run_one(run: Run, unit: Unit, invocation: Invocation, place: Place | None) -> None:
    held: list[Future[Any]] = []
    try:
        if unit.is_lm:
            arguments = run.execution.arguments(invocation, run.kept_stream_of)
            given = await _prompt(unit, arguments, held, (run, invocation))
            if unit.is_generator:
                await lm.call_growing(run, unit, invocation, arguments, given)
            else:
                messages = prompts.returned(unit.name, given)
                await lm.call(run, unit, invocation, arguments, messages)
            return
        arguments = run.execution.arguments(invocation, run.stream_of)
        function = await unit.function(place)
        if unit.fans_out:
            await _fan_out(run, unit, invocation, function, arguments, held)
            return
        value = await call_plain(unit, function, arguments, held, (run, invocation))
        run.execution.now = run.loop.time()
        run.execution.done(invocation, value)
    finally:
        if place is not None:
            release_after(place, held)


async def _prompt(
    unit: Unit, arguments: dict[str, Any], held: list[Future[Any]], owner: tuple[Run, Invocation]
) -> Any:
    """What an `@lm` function gives: the prompt, or an iterator over the parts of it. Blocking ones
    run on the loop, since they do nothing but write, unless they read a stream."""
    function: Callable[..., Any] = unit.stage.function
    if unit.is_generator and (unit.is_async or unit.reads_streams):
        return _generated(owner[0], unit, function, arguments, held)
    if unit.reads_streams:
        return await call_plain(unit, function, arguments, held, owner)
    args, kwargs = split(unit.positional, arguments)
    given = function(*args, **kwargs)
    if unit.is_generator:
        return as_items(unit.name, given)
    return await given if inspect.isawaitable(given) else given


async def call_plain(
    unit: Unit,
    function: Callable[..., Any],
    arguments: dict[str, Any],
    held: list[Future[Any]],
    owner: tuple[Run, Invocation] | None = None,
) -> Any:
    """Call a stage's function, in a thread if it blocks. A thread goes into `held`: whoever took a
    place for it waits for it before the place is free."""
    args, kwargs = split(unit.positional, arguments)
    if unit.is_async:
        if unit.pretends:
            await _pretend(unit)
        return await function(*args, **kwargs)
    if unit.runtime.inline:
        args, kwargs = await _whole(args), await _whole_dict(kwargs)
        await _pretend(unit)
        value = function(*args, **kwargs)
    else:
        context = copy_context()
        if owner is not None and owner[1].feeds:
            future = threads.start_thread(unit.name, lambda: context.run(function, *args, **kwargs))
        else:
            future = unit.runtime.threads.submit(
                _begun(unit, owner, lambda: context.run(function, *args, **kwargs))
            )
        held.append(future)
        value = await asyncio.wrap_future(future)
    if inspect.isawaitable(value):
        return await value
    return value


def _begun(
    unit: Unit, owner: tuple[Run, Invocation] | None, function: Callable[[], Any]
) -> Callable[[], Any]:
    """The time in which an attempt waits for a thread does not count against its timeout."""
    if owner is None or owner[1].due is None or not unit.runtime.threads.full:
        return function
    run, invocation = owner
    invocation.stalled = run.loop.time()

    def go_on() -> None:
        run.execution.now = run.loop.time()
        pressure.unstall(run.execution, invocation)
        run.arm()

    def begin() -> Any:
        threads.tell(run.loop, go_on)
        return function()

    return begin


async def _fan_out(
    run: Run,
    unit: Unit,
    invocation: Invocation,
    function: Callable[..., Any],
    arguments: dict[str, Any],
    held: list[Future[Any]],
) -> None:
    items: AsyncIterator[Any]
    if unit.is_generator:
        items = _generated(run, unit, function, arguments, held)
    else:
        given = await call_plain(unit, function, arguments, held, (run, invocation))
        lazy = isinstance(given, Iterator) and not isinstance(given, Sized)
        if lazy and not unit.is_async and not unit.runtime.inline:
            items = _in_a_thread(run, unit, lambda: given, held)
        else:
            items = as_items(unit.name, given)
    try:
        await _give_all(run, invocation, items)
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


def _generated(
    run: Run,
    unit: Unit,
    function: Callable[..., Any],
    arguments: dict[str, Any],
    held: list[Future[Any]],
) -> AsyncIterator[Any]:
    """What a generator yields; a blocking one runs in a thread."""
    args, kwargs = split(unit.positional, arguments)
    if unit.is_async:
        items: AsyncIterator[Any] = function(*args, **kwargs)
        return _later(unit, items) if unit.pretends else items
    if unit.runtime.inline:
        return _inline_items(unit, function, args, kwargs)
    return _in_a_thread(run, unit, lambda: function(*args, **kwargs), held)


def _in_a_thread(
    run: Run, unit: Unit, make: Callable[[], Iterator[Any]], held: list[Future[Any]]
) -> threads.ThreadedItems:
    return threads.ThreadedItems(unit.name, make, held, copy_context(), run.hear)


async def _give_all(run: Run, invocation: Invocation, items: AsyncIterator[Any]) -> None:
    """Pass on the items of a fan-out, as fast as the core allows, and close it."""
    execution, time = run.execution, run.loop.time
    count = 0
    async for value in items:
        execution.now = time()
        go_on = execution.give(invocation, value)
        if execution.actions or execution.ready:
            run.pump()
        if not go_on and not await waits.gate(run, invocation):
            return
        count += 1
        if count % YIELD_EVERY == 0:
            await asyncio.sleep(0)
    if invocation.state is State.RUNNING:
        execution.now = time()
        execution.close(invocation)
        run.pump()


async def as_items(stage: str, given: Any) -> AsyncGenerator[Any, None]:
    """What a function that is annotated `Stream[T]` returned, as items."""
    if hasattr(given, "__aiter__"):
        if hasattr(given, "aclose"):
            async with aclosing(given):
                async for item in given:
                    yield item
        else:
            async for item in given:
                yield item
        return
    if isinstance(given, str | bytes | dict) or not hasattr(given, "__iter__"):
        raise StageError(
            f"stage {stage}: it is annotated as a stream and returned {type(given).__name__}. "
            "Yield items, or return a list or an iterator of them.",
            stage=stage,
        )
    for item in given:
        yield item


def split(positional: list[str], arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional-only arguments apart from the rest."""
    if not positional:
        return [], arguments
    rest = dict(arguments)
    return [rest.pop(name) for name in positional if name in rest], rest


def release_after(place: Place, held: list[Future[Any]]) -> None:
    """Give a place back once the threads that use it have ended."""
    pending = [future for future in held if not future.done()]
    release = place.unit.places.release
    if not pending:
        release(place)
        return
    loop = asyncio.get_running_loop()
    left = len(pending)
    lock = threading.Lock()

    def ended(_: Future[Any]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            threads.tell(loop, release, place)

    for future in pending:
        future.add_done_callback(ended)


# -------------------------------------------------------------------- on virtual time


async def _inline_items(
    unit: Unit, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> AsyncGenerator[Any, None]:
    args, kwargs = await _whole(args), await _whole_dict(kwargs)
    await _pretend(unit)
    for item in function(*args, **kwargs):
        yield item


async def _later(unit: Unit, items: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    try:
        await _pretend(unit)
        async for item in items:
            yield item
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def _pretend(unit: Unit) -> None:
    """Take the time that the stage is said to take, on virtual time."""
    duration = unit.runtime.durations.get(unit.name)
    if duration and unit.runtime.inline:
        await asyncio.sleep(duration)


async def _whole(args: list[Any]) -> list[Any]:
    return [await _whole_one(value) for value in args]


async def _whole_dict(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: await _whole_one(value) for name, value in kwargs.items()}


async def _whole_one(value: Any) -> Any:
    """A stream is read to its end before blocking code gets it."""
    if isinstance(value, LiveStream):
        return Stream.of(*[item async for item in value])
    return value
