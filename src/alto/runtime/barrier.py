"""A request run stage by stage: what systems without streaming do, for comparisons.

An invocation is held until every stage that its input comes from is complete in this request.
Inside a stage everything runs in parallel as ever.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core.attempt import ACTIVE, Invocation, State
from ..core.graph import Use
from .driver import Run

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from .embedded import Runtime

NO_LIMIT = 1 << 60


class BarrierRun(Run):
    """A `Run` with a barrier after every stage."""

    def __init__(
        self,
        runtime: Runtime,
        pipeline: Pipeline[Any, Any],
        request_id: str,
        *,
        deadline: float | None,
        stream: bool,
        keep: bool,
        committed: bool = False,
        bounded: bool = False,
    ) -> None:
        super().__init__(
            runtime,
            pipeline,
            request_id,
            deadline=deadline,
            stream=stream,
            keep=keep,
            committed=committed,
            bounded=bounded,
        )
        self.barrier = True
        # a whole stage's output waits at a barrier: nothing may be paused for being ahead
        limits = self.execution.limits
        self.execution.bound(replace(limits, scope_items=NO_LIMIT, scope_bytes=NO_LIMIT))
        self._live: dict[int, list[Invocation]] = {}
        self._held: list[Invocation] = []
        self._passed: set[Invocation] = set()

    def holds(self, invocation: Invocation) -> bool:
        if invocation in self._passed:
            self._passed.discard(invocation)
            return False
        self._live.setdefault(invocation.use.index, []).append(invocation)
        self._held.append(invocation)
        if not self.execution.ready:
            self._open()
        return True

    def pump(self) -> None:
        super().pump()
        if self._held and not self.execution.ready:
            self._open()

    def _open(self) -> None:
        """Let pass what waits for nothing any more."""
        complete: dict[int, bool] = {}
        for invocation in self._held:
            use = invocation.use
            if use.index not in complete:
                complete[use.index] = self._complete(use)
        free = [invocation for invocation in self._held if complete[invocation.use.index]]
        if not free:
            return
        self._passed.update(free)
        self._held = [i for i in self._held if i not in self._passed and i.state is State.READY]
        self.execution.ready.extend(free)
        self.schedule()

    def _complete(self, use: Use) -> bool:
        """Whether everything is over that the input of this use comes from."""
        for index in use.upstream:
            live = self._live.get(index, [])
            while live and live[-1].state not in ACTIVE:
                live.pop()
            if live:
                return False
        return True
