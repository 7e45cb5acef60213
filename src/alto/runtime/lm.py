"""An LM stage: prompt, call, and items out of the text while it is written.

Text that does not parse is asked for once more, of another replica if there is one; a stream goes
on after its last complete item.
When an engine of several fails, the next is used. A later attempt of a stream of deltas is cut
where the earlier one was, as far as the characters agree, so equal text keeps its downstream work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.calls import Call, Message, Usage, asked
from ..core.execution import Invocation
from ..engines.asked import Asked, Whole, ended
from ..engines.keeper import Keeper
from ..engines.protocol import Ask, Engine, Read, Take
from ..errors import EngineError
from ..stages import LM
from . import prompts, shedding, spending
from .readers import wake
from .reading import Reading

if TYPE_CHECKING:
    from ..engines.ahead import Ahead
    from .driver import Run
    from .units import Unit

PARSE_TRIES = 2
"""How often a text is asked for when it does not parse."""


async def call(
    run: Run,
    unit: Unit,
    invocation: Invocation,
    arguments: dict[str, Any],
    messages: list[Message],
    ahead: Ahead | None = None,
) -> None:
    """Run one attempt of an LM stage from its prompt to its last item. `ahead` knows where the
    beginning of the prompt has been read, if it has."""
    writing = begin(run, unit, invocation, arguments, messages, ahead)
    if writing is not None:
        await ended(writing)


def begin(
    run: Run,
    unit: Unit,
    invocation: Invocation,
    arguments: dict[str, Any],
    messages: list[Message],
    ahead: Ahead | None = None,
) -> Writing | None:
    """The same for whoever waits by itself. None: there is nothing to wait for."""
    if invocation.feeds:
        _have_enough(run, invocation)
        arguments = prompts.arguments_of(arguments)
    template = _call(run, unit, invocation, arguments, messages)
    template.ahead = ahead
    template.priority = run.priority
    template.leads = run.execution.leads(invocation)
    if run.ticket is not None and run.deadline is not None:
        if shedding.too_late(run, invocation) is not None:
            return None
        template.rest_s = run.ticket.rest_s
    return _asked(Reading(run, unit, invocation, template, _wait))


class Writing:
    """An attempt while its text is being written. To be waited for as a call is (`Asked`): any
    frame in between would be gone through for each piece of text."""

    __slots__ = ("_asked", "_reading", "waits")

    def __init__(self, reading: Reading, asked: Asked) -> None:
        self.waits = asked.waits
        self._asked = asked
        self._reading = reading

    def after(self, error: BaseException | None) -> Awaitable[None] | None:
        """What was first waited for has ended, or raised this: nearly always the text is over."""
        reading = self._reading
        rest: Awaitable[None] | None = None
        try:
            rest = self._asked.after(error)
        except EngineError as failure:
            _note_cost(reading.call, failure)
            raise
        finally:
            error = None  # which knows this frame: a circle
            if rest is None:
                _count_untold(reading)
        return _over(reading) if rest is None else _read_on(reading, rest)


def _asked(reading: Reading) -> Writing:
    """Ask for the text, or for another one in its place."""
    run, unit = reading.run, reading.unit
    ask = unit.ask
    if ask is None or run.budget is not None:
        ask = _asks(run, unit, reading.invocation)
    reading.tries += 1
    return Writing(reading, ask(reading.call, reading.begin(), reading))


async def _read_on(reading: Reading, rest: Awaitable[None]) -> None:
    """The engine is not at the end of the text yet."""
    try:
        await rest
    except EngineError as failure:
        _note_cost(reading.call, failure)
        raise
    finally:
        _count_untold(reading)
    more = _over(reading)
    if more is not None:
        await more


def _note_cost(call: Call, failure: EngineError) -> None:
    call.untold = call.untold or failure.usage


def _count_untold(reading: Reading) -> None:
    """What no delta has told of the cost is known once the engine has heard of the end."""
    run, call = reading.run, reading.call
    if call.untold is not None:
        run.usage, call.untold = run.usage + call.untold, None


def _over(reading: Reading) -> Awaitable[None] | None:
    """The text is over: read what is left of it, and tell the core. Gives what to wait for if the
    core does not take all of it at once, or if the text cannot be read."""
    if reading.failed is not None:
        raise reading.failed
    if reading.stopped:
        return None
    items = reading.rest()
    if items and not reading.put(items):
        return _put_on(reading, items, more=True)
    items = reading.last()
    if items and not reading.put(items):
        return _put_on(reading, items, more=False)
    return _done(reading)


async def _put_on(reading: Reading, items: list[Any], *, more: bool) -> None:
    """As `_over`, from where the core has not taken these items; `more` if the last may follow."""
    if not await _wait(reading, items):
        return
    if more:
        items = reading.last()
        if items and not reading.put(items) and not await _wait(reading, items):
            return
    rest = _done(reading)
    if rest is not None:
        await rest


def _done(reading: Reading) -> Awaitable[None] | None:
    """All items have been taken. If the text could not be read to its end, have it asked for once
    more, as long as that may help."""
    error = reading.cutter.error
    if error is None:
        reading.finish()
        return None
    if reading.tries == PARSE_TRIES or reading.truncated:
        raise error
    call = reading.call
    call.messages, call.avoid = reading.again(), call.answered_by
    return ended(_asked(reading))


async def call_growing(
    run: Run, unit: Unit, invocation: Invocation, arguments: dict[str, Any], given: Any
) -> None:
    """Run one attempt of an LM stage that is a generator; `given` is an iterator over the parts of
    its prompt."""
    stage = unit.stage
    assert isinstance(stage, LM)
    parts = prompts.Parts(stage.name)
    ahead = _ahead(run, unit, stage)
    if ahead is None:
        await call(run, unit, invocation, arguments, await prompts.joined(parts, given))
        return

    def so_far() -> Call:
        return _call(run, unit, invocation, {}, parts.messages())

    try:
        messages = await prompts.joined(parts, given, lambda: ahead.grow(parts.size, so_far))
        await call(run, unit, invocation, arguments, messages, ahead)
    finally:
        await ahead.aclose()


def _ahead(run: Run, unit: Unit, stage: LM[Any, Any]) -> Ahead | None:
    """What takes a prompt that grows, where the stage wants that and its engine can; not in a
    request with a token budget, where nothing is sent twice."""
    if not stage.prewarm or run.budget is not None:
        return None
    begin = getattr(run.runtime.engine(unit.engines[0], unit.name), "ahead", None)
    if begin is None:
        return None

    def used(usage: Usage) -> None:
        run.usage = run.usage + usage

    ahead: Ahead = begin(used)
    return ahead


def _have_enough(run: Run, invocation: Invocation) -> None:
    """The prompt is complete: what its function has not read is not waited for while the LM
    writes."""
    run.execution.now = run.loop.time()
    run.execution.have_enough(invocation)
    wake(invocation)
    run.pump()


def _call(
    run: Run,
    unit: Unit,
    invocation: Invocation,
    arguments: dict[str, Any],
    messages: list[Message],
) -> Call:
    if unit.template is None:
        unit.template = _template(run, unit)
    who = (invocation.path, run.id, invocation.attempt, run.deadline)
    call = asked(unit.template, messages, arguments, *who)
    call.queued = run.queue
    return call


def _template(run: Run, unit: Unit) -> Call:
    """What all calls of a stage have in common."""
    stage, reader = unit.stage, unit.reader
    assert isinstance(stage, LM) and reader is not None
    return Call(
        messages=[],
        stage=stage.name,
        max_tokens=unit.max_tokens,
        temperature=unit.temperature,
        stop=stage.stop,
        seed=stage.seed,
        schema=reader.schema,
        schema_name=stage.name if reader.schema is not None else "",
        returns=stage.returns,
        extra=stage.extra,
        model=unit.model,
        boundaries=run.runtime.boundaries(stage),
    )


def _asks(run: Run, unit: Unit, invocation: Invocation) -> Ask:
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
    return getattr(engine, "ask", None) or _plainly(engine)


def _within_budget(run: Run, invocation: Invocation, ask: Ask) -> Ask:
    return ask if run.budget is None else _whole(partial(spending.read, run, invocation, ask))


def _whole(read: Callable[[Call, Take, Keeper], Awaitable[None]]) -> Ask:
    return lambda template, take, keeper: Whole(read(template, take, keeper))


def _plainly(engine: Engine) -> Ask:
    """How an engine is asked that does not look at what a reader keeps."""
    read: Read = getattr(engine, "read", None) or partial(_streamed, engine)
    return lambda template, take, keeper: Whole(read(template, take))


async def _streamed(engine: Engine, template: Call, take: Take) -> None:
    async with aclosing(engine.stream(template)) as deltas:
        async for delta in deltas:
            going = take(delta)
            if going is not True and (going is False or not await going):
                return


async def _wait(reading: Reading, items: list[Any]) -> bool:
    """Wait until the core takes more, and give it the rest; False when the attempt is over."""
    run, invocation = reading.run, reading.invocation
    while await run.gate(invocation):
        if not items:
            return True
        go_on = run.execution.give(invocation, items.pop(0))
        run.pump()
        if go_on and not items:
            return True
    reading.stopped = reading.enough = True
    return False
