"""A runner: a task that works off ready invocations one after another.

What a completion makes ready runs next in the same task, so a chain of quick stages costs no tasks.
What a runner does between two waits is done by its `Run`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .attempts import run_one
from .reading import Reading

if TYPE_CHECKING:
    from .driver import Run

YIELD_EVERY = 64
"""After this much work without waiting, a runner lets other tasks have the loop."""


async def work(run: Run) -> None:
    """Until nothing is ready, or until an attempt has left its context changed."""
    units, ready = run.units, run.execution.ready
    task = asyncio.current_task()
    assert task is not None
    count = 0
    while run.has_work():
        invocation = run.take()
        if invocation is None:
            continue
        while invocation is not None:  # a chain: what this completion makes ready runs next here
            unit = units[invocation.use.index]
            assert unit is not None
            context = run.enter(invocation, task)
            before = len(ready)
            try:
                if unit.plain:
                    run.done(invocation, await unit.stage.function(**run.arguments(invocation)))
                else:
                    place = run.aside.placed.pop(invocation, None) if unit.gated else None
                    step = run_one(run, unit, invocation, place)
                    if isinstance(step, Reading):  # to wait for with no frame in between
                        try:
                            await step.waits
                        except BaseException as error:
                            step = step.after(error)
                        else:
                            step = step.after(None)
                    if step is not None:
                        await step
            except BaseException as error:
                if not run.absorb(invocation, task, error):
                    raise
            run.leave(invocation, task)
            if run.is_left_changed(context):
                return  # the next invocation starts from the request's own context
            invocation = run.following(before) if count % YIELD_EVERY else None
            count += 1
        if run.execution._timers:
            run.arm()
        if count % YIELD_EVERY == 0 and run.has_work():
            await asyncio.sleep(0)
    run.runner_over(task)
