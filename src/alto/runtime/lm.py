"""An LM stage: prompt, call, and items out of the text while it is written.

Text that does not parse is asked for once more, of another replica if there is one; a stream goes
on after its last complete item.
When an engine of several fails, the next is used. A later attempt of a stream of deltas is cut
where the earlier one was, as far as the characters agree, so equal text keeps its downstream work.
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.calls import Call, Message, Usage, asked
from ..core.execution import Invocation
from ..engines.keeper import Keeper
from ..engines.protocol import Engine, Read, ReadFor, Take
from ..errors import EngineError, ParseError
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
    beginning of the prompt has been read, if it has.

    This frame waits for the engine's directly: each frame in between would be gone through for
    each piece of text.
    """
    reader = unit.reader
    assert reader is not None, "an LM stage has one"
    if invocation.feeds:
        _have_enough(run, invocation)
        arguments = prompts.arguments_of(arguments)
    template = _call(run, unit, invocation, arguments, messages)
    template.ahead = ahead
    template.priority = run.priority
    template.leads = run.execution.leads(invocation)
    if run.ticket is not None and run.deadline is not None:
        if shedding.too_late(run, invocation) is not None:
            return
        template.rest_s = run.ticket.rest_s
    read = _read_of(run, unit, invocation)
    reading = Reading(run, unit, invocation, reader, _wait)
    for attempt in range(1, PARSE_TRIES + 1):
        try:
            await read(template, reading.begin(), reading)
        except EngineError as failure:
            template.untold = template.untold or failure.usage
            raise
        finally:
            if template.untold is not None:
                run.usage, template.untold = run.usage + template.untold, None
        error = await _end(reading)
        if reading.stopped:
            return
        if error is None:
            break
        if attempt == PARSE_TRIES or reading.truncated:
            raise error
        template.messages, template.avoid = reading.again(messages), template.answered_by
    reading.finish()


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


def _read_of(run: Run, unit: Unit, invocation: Invocation) -> ReadFor:
    """How what answers the stage's calls is read: to its end, or until `take` has enough."""
    if len(unit.engines) > 1:
        return partial(_read_one_of, run, unit, invocation)
    return _read_engine(run, unit, invocation, unit.engines[0])


async def _read_one_of(
    run: Run, unit: Unit, invocation: Invocation, template: Call, take: Take, keeper: Keeper
) -> None:
    """Read the first engine that answers; the next one when an engine fails before its first
    piece."""
    for position, name in enumerate(unit.engines):
        read = _read_engine(run, unit, invocation, name)
        try:
            await read(template, take, keeper)
            return
        except EngineError:
            if keeper.given or position == len(unit.engines) - 1:
                raise


def _read_engine(run: Run, unit: Unit, invocation: Invocation, name: str) -> ReadFor:
    read = unit.reads.get(name)
    if read is None:
        engine = run.runtime.engine(name, unit.name)
        read = unit.reads[name] = getattr(engine, "read_for", None) or _plainly(engine)
    return read if run.budget is None else partial(spending.read, run, invocation, read)


def _plainly(engine: Engine) -> ReadFor:
    """How an engine is read that does not look at what a reader keeps."""
    read: Read = getattr(engine, "read", None) or partial(_streamed, engine)
    return lambda template, take, keeper: read(template, take)


async def _streamed(engine: Engine, template: Call, take: Take) -> None:
    async with aclosing(engine.stream(template)) as deltas:
        async for delta in deltas:
            going = take(delta)
            if going is not True and (going is False or not await going):
                return


async def _end(reading: Reading) -> ParseError | None:
    """The answer is over: read what is left of it. The error says why it cannot be read to its
    end."""
    if reading.failed is not None:
        raise reading.failed
    if reading.stopped:
        return None
    items = reading.rest()
    if items and not await _pass(reading, items):
        return None
    items = reading.last()
    if items and not await _pass(reading, items):
        return None
    return reading.cutter.error


async def _pass(reading: Reading, items: list[Any]) -> bool:
    """Hand items to the core; False when the attempt is over."""
    if not reading.fans_out:
        reading.value = items[0]
        return True
    return reading.give(items) or await _wait(reading, items)


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
