"""The call of an LM stage: made when its prompt is known, and asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.calls import Call, Message, asked
from ..core.execution import Invocation
from ..stages import LM
from . import prompts, shedding
from .readers import wake
from .reading import Reading

if TYPE_CHECKING:
    from ..engines.ahead import Ahead
    from .driver import Run
    from .units import Unit


def begin(
    run: Run,
    unit: Unit,
    invocation: Invocation,
    arguments: dict[str, Any],
    messages: list[Message],
    ahead: Ahead | None = None,
) -> Reading | None:
    """Begin an attempt of an LM stage whose prompt is known: ask for its text. `ahead` knows where
    the beginning of the prompt has been read, if it has. None: there is nothing to wait for."""
    if invocation.feeds:
        _have_enough(run, invocation)
        arguments = prompts.arguments_of(arguments)
    template = made(run, unit, invocation, arguments, messages)
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


def _have_enough(run: Run, invocation: Invocation) -> None:
    """The prompt is complete: what its function has not read is not waited for while the LM
    writes."""
    run.execution.now = run.loop.time()
    run.execution.have_enough(invocation)
    wake(invocation)
    run.pump()


def made(
    run: Run,
    unit: Unit,
    invocation: Invocation,
    arguments: dict[str, Any],
    messages: list[Message],
) -> Call:
    """The call of an attempt with this prompt."""
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
