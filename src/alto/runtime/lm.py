"""An attempt of an LM stage, from its prompt, which may grow, to its last item, for whoever waits
for all of it. (A runner waits for the `Reading` of the usual one itself.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.calls import Call, Message, Usage
from ..core.execution import Invocation
from ..engines.asked import ended
from ..stages import LM
from . import calls, prompts

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
    reading = calls.begin(run, unit, invocation, arguments, messages, ahead)
    if reading is not None:
        await ended(reading)


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
        return calls.made(run, unit, invocation, {}, parts.messages())

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
