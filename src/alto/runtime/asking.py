"""How the engine of an LM stage is asked, or the first of several that answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from ..core.calls import Call
from ..core.execution import Invocation
from ..engines.asked import Whole, ended
from ..engines.keeper import Keeper
from ..engines.pieces import no_text
from ..engines.protocol import Ask, Engine, Read, Take
from ..errors import EngineError
from . import spending

if TYPE_CHECKING:
    from .driver import Run
    from .units import Unit


def asks(run: Run, unit: Unit, invocation: Invocation) -> Ask:
    """How what answers the stage's calls is asked: to be read to its end, or until `take` has
    enough."""
    if len(unit.engines) > 1:
        return _whole(partial(_read_one_of, run, unit, invocation))
    ask = unit.ask = _asks_engine(run, unit, unit.engines[0])
    return _within_budget(run, invocation, ask)


async def _read_one_of(
    run: Run, unit: Unit, invocation: Invocation, template: Call, take: Take, keeper: Keeper
) -> None:
    """Read the first engine that answers; the next one when an engine fails before its first
    piece."""
    for position, name in enumerate(unit.engines):
        ask = _within_budget(run, invocation, _asks_engine(run, unit, name))
        try:
            await ended(ask(template, take, keeper))
            return
        except EngineError:
            if keeper.given or position == len(unit.engines) - 1:
                raise


def _asks_engine(run: Run, unit: Unit, name: str) -> Ask:
    engine = run.runtime.engine(name, unit.name)
    return getattr(engine, "ask", None) or _plainly(engine, name)


def _within_budget(run: Run, invocation: Invocation, ask: Ask) -> Ask:
    return ask if run.budget is None else _whole(partial(spending.read, run, invocation, ask))


def _whole(read: Callable[[Call, Take, Keeper], Awaitable[None]]) -> Ask:
    return lambda template, take, keeper: Whole(read(template, take, keeper))


def _plainly(engine: Engine, name: str) -> Ask:
    """How an engine is asked that does not look at what a reader keeps."""
    read: Read = getattr(engine, "read", None) or partial(_streamed, engine, name)
    return lambda template, take, keeper: Whole(read(template, take))


async def _streamed(engine: Engine, name: str, template: Call, take: Take) -> None:
    piece: object = ""
    try:
        async with aclosing(engine.stream(template)) as pieces:
            async for piece in pieces:
                going = take(piece)
                if going is not True and (going is False or not await going):
                    return
    except TypeError as error:
        if isinstance(piece, str):
            raise
        raise no_text(name, piece) from error
