"""A runtime that must leave nothing behind: no request, task, thread, place or queue entry."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import alto
from alto.testing.loop import run as run_virtually

PATIENCE_S = 20.0
"""Longer than anything here takes; a test that needs it fails."""


@asynccontextmanager
async def watched(config: alto.Config | None = None, **options: Any) -> AsyncIterator[alto.Runtime]:
    """A runtime; when it is left, all that requests had must have been given back."""
    async with alto.Runtime(config, **options) as runtime:
        yield runtime
        nothing_held(runtime)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks are left: {left}"


def nothing_held(runtime: alto.Runtime) -> None:
    assert runtime.open_requests == 0
    assert not runtime._cleaning, "tasks of a request that is over are left"
    for unit in runtime.units.values():
        places = unit.places
        assert not any(places.busy), f"{unit.name}: places are taken: {places.busy}"
        assert not places.held and not places.queue and not places.returning and not places.rooms
        assert not unit.batches, f"{unit.name}: a batch is forming"


async def quiet(runtime: alto.Runtime) -> None:
    """Until threads whose attempts were stopped, and streams that were left, have ended."""
    while busy(runtime):
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.to_thread(threading.Event().wait, 0.001)


def busy(runtime: alto.Runtime) -> bool:
    units = runtime.units.values()
    return bool(
        runtime.open_requests
        or runtime._cleaning
        or any(unit.places.held or unit.batches for unit in units)
    )


def alto_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("alto-")]


def no_threads() -> None:
    """No thread is left once those whose code has ended are gone."""
    for thread in alto_threads():
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), f"{thread} is left"


def on_real_loop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await main()

    result = asyncio.run(bounded())
    no_threads()
    return result


def on_virtual_time(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return run_virtually(main())
