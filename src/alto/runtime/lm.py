"""An LM stage: prompt, call, and items out of the text while it is written.

Text that does not parse is asked for once more, of another replica if there is one; a stream goes
on after its last complete item.
When an engine of several fails, the next is used. A later attempt of a stream of deltas is cut
where the earlier one was, as far as the characters agree, so equal text keeps its downstream work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.calls import Call, Message, Usage, asked
from ..core.execution import Invocation
from ..engines.asked import ended
from ..stages import LM
from . import prompts, shedding
from .readers import wake
from .reading import Reading

if TYPE_CHECKING:
    from ..engines.ahead import Ahead
    from .driver import Run
    from .units import Unit


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
    reading = begin(run, unit, invocation, arguments, messages, ahead)
    if reading is not None:
        await ended(reading)


def begin(
    run: Run,
    unit: Unit,
    invocation: Invocation,
    arguments: dict[str, Any],
    messages: list[Message],
    ahead: Ahead | None = None,
) -> Reading | None:
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
    reading = Reading(run, unit, invocation, template)
    reading.ask()
    return reading


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
    call.queued = run
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
