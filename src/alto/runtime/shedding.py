"""Requests and `core/admission.py`: who is counted, who is refused, what is learned.

Requests are counted from the first one with a deadline on; before that nothing is done for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.admission import PipelineLoad
from ..core.execution import Invocation
from ..core.graph import Graph
from ..errors import DeadlineExceeded, Overloaded

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from .driver import Run
    from .embedded import Runtime


def load_of(
    runtime: Runtime,
    pipeline: Pipeline[Any, Any],
    deadline: float | None,
    priority: int,
    now: float,
) -> PipelineLoad | None:
    """What a new request is counted with; None: it need not be counted. Raises `Overloaded` if it
    would end too late."""
    admission = runtime.admission
    if not runtime.config.shed or (deadline is None and not admission.pipelines):
        return None
    graph = pipeline.graph
    known = admission.find(graph) or admission.add(graph, pipeline.name, engines_of(runtime, graph))
    if deadline is not None:
        refusal = admission.ask(known, deadline - now, priority, now)
        if refusal is not None:
            raise refusal
    return known


def too_late(run: Run, invocation: Invocation) -> Overloaded | None:
    """Before an LM call of a counted request: what it ends with if it cannot make its deadline."""
    assert run.ticket is not None
    refusal = run.runtime.admission.reached(run.ticket, invocation.use.name, run.loop.time())
    if refusal is not None:
        run.cancel(refusal)
    return refusal


def settle(run: Run) -> None:
    """Count a request out, once."""
    ticket, run.ticket = run.ticket, None
    if ticket is None:
        return
    ended: bool | None = None
    if run.error is None:
        ended = True
    elif isinstance(run.error, DeadlineExceeded | Overloaded):
        ended = False
    usage = run.usage
    # Some servers count more as found in their cache than as read.
    read = max(0, usage.prompt_tokens - usage.cached_tokens)
    tokens = usage.completion_tokens + read / 4
    run.runtime.admission.end(ticket, ended, tokens, run.loop.time())


def engines_of(runtime: Runtime, graph: Graph) -> set[str]:
    """The engines that a pipeline's LM stages use."""
    units = runtime.units_of(graph)
    return {name for unit in units if unit is not None and unit.is_lm for name in unit.engines}
