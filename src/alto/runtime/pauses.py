"""Where the reading of an LM's text (`reading`) waits in the middle of it: for an engine that goes
on, or for a core that takes no more items at present."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from ..errors import EngineError
from . import waits

if TYPE_CHECKING:
    from .reading import Reading


async def read_on(reading: Reading, rest: Awaitable[None]) -> None:
    """The engine is not at the end of the text yet."""
    try:
        await rest
    except EngineError as failure:
        reading.note_cost(failure)
        raise
    finally:
        reading.count_untold()
    more = reading.over()
    if more is not None:
        await more


async def put_on(reading: Reading, items: list[Any], *, more: bool) -> None:
    """The text is over, and the core has not taken these items; `more` if the last may follow."""
    if not await give_on(reading, items):
        return
    if more:
        items = reading.last()
        if items and not reading.put(items) and not await give_on(reading, items):
            return
    rest = reading.done()
    if rest is not None:
        await rest


async def give_on(reading: Reading, items: list[Any]) -> bool:
    """Wait until the core takes more, and give it the rest; False when the attempt is over."""
    run, invocation = reading.run, reading.invocation
    while await waits.gate(run, invocation):
        if not items:
            return True
        go_on = run.execution.give(invocation, items.pop(0))
        run.pump()
        if go_on and not items:
            return True
    reading.stopped = reading.enough = True
    return False
