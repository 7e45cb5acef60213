"""What is waited for around a request: its events, its end, room for what it produces."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..core.execution import Invocation, State
from .events import Event

if TYPE_CHECKING:
    from .driver import Run

CLEANUP_S = 5.0
"""How long the end of a request waits for its cancelled tasks to clean up."""


async def closed(run: Run) -> None:
    """Until no task of the request is left (at most `CLEANUP_S` after its end)."""
    if not run.ended:
        ended = run.loop.create_future()
        run.awaited += (ended,)
        await ended
        # Mostly the last of them has ended the request: one turn of the loop, in which it is heard
        # of, and one for what stages have left behind, such as generators that the loop closes.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    if run.tasks:
        current = asyncio.current_task()
        tasks = [task for task in run.tasks if task is not current]
        if tasks:
            await asyncio.wait(tasks, timeout=CLEANUP_S)


async def next_events(run: Run) -> list[Event]:
    """The events that are there, waiting for one if need be; empty at the end."""
    if run.more is not None:
        raise RuntimeError(
            f"request {run.id}: its events have a reader already, and each is given once. "
            "Let one task read them and hand them on."
        )
    while not run.events and not run.ended:
        run.more = run.loop.create_future()
        try:
            await run.more
        finally:
            run.more = None
    events, run.events = run.events or [], None
    if run.bounded and not run.execution.client_room:
        run.execution.now = run.loop.time()
        run.execution.set_client_room(True)
        run.pump()
    return events


async def gate(run: Run, invocation: Invocation) -> bool:
    """Wait until a paused producer may go on; False if its attempt is over."""
    if invocation.state is State.RUNNING and invocation.paused:
        opened = run.set_aside().gates[invocation] = run.loop.create_future()
        if run.aside.waits or run.queued:
            run.rested()
        await opened
        if run.aside.lent:
            await reclaim(run, invocation)
    run.execution.now = run.loop.time()
    return invocation.state is State.RUNNING


async def reclaim(run: Run, invocation: Invocation) -> None:
    """Wait until an attempt has the place again that it may have lent."""
    back = asyncio.Event()
    if invocation.state is State.RUNNING and not run.take_back(invocation, back.set):
        await back.wait()
