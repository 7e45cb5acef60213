"""A request run stage by stage: what systems without streaming do, for comparisons.

An invocation is held until every stage that its input comes from is complete in this request.
Inside a stage everything runs in parallel as ever.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..core.attempt import ACTIVE, Invocation, State
from .driver import Run

NO_LIMIT = 1 << 60


class BarrierRun(Run):
    """A `Run` with a barrier after every stage."""

    barrier = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # a whole stage's output waits at a barrier: nothing may be paused for being ahead
        limits = self.execution.limits
        self.execution.limits = replace(limits, scope_items=NO_LIMIT, scope_bytes=NO_LIMIT)
        self._live: dict[int, set[Invocation]] = {}
        self._held: list[Invocation] = []
        self._passed: set[Invocation] = set()

    def holds(self, invocation: Invocation) -> bool:
        if invocation in self._passed:
            self._passed.discard(invocation)
            return False
        self._live.setdefault(invocation.use.index, set()).add(invocation)
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
        free = [invocation for invocation in self._held if self._complete(invocation)]
        if not free:
            return
        self._held = [i for i in self._held if i not in set(free) and i.state is State.READY]
        self._passed.update(free)
        self.execution.ready.extend(free)
        self.schedule()

    def _complete(self, invocation: Invocation) -> bool:
        for index in invocation.use.upstream:
            live = self._live.get(index)
            if live:
                live = self._live[index] = {i for i in live if i.state in ACTIVE}
                if live:
                    return False
        return True
