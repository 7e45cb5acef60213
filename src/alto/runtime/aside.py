"""What a request keeps of attempts that wait for a place or for a slow reader, or do more than a
stage usually does.

Most requests have nothing of this at any time, and hundreds of them are under way at once: so a
`Run` begins with `NOTHING`, in which everything is empty and stays so, and has an `Aside` of its
own from when it first puts something there (`Run.set_aside`).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, MutableMapping, MutableSequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..core.execution import Invocation
from ..core.path import Path
from .events import Event

if TYPE_CHECKING:
    from .driver import Run
    from .places import Place, Places


class Aside:
    """What is rarely there, of one request."""

    __slots__ = (
        "calling",
        "gates",
        "granted",
        "lent",
        "on_stop",
        "placed",
        "reasoning",
        "reported",
        "waits",
    )

    def __init__(self) -> None:
        self.waits: MutableMapping[Places, int] = {}
        """Where attempts wait for a place, and how many."""
        self.granted: deque[tuple[Invocation, Place]] = deque()
        """Places that have been given to attempts which had waited for them."""
        self.placed: MutableMapping[Invocation, Place] = {}
        """Those of attempts between admission and start."""
        self.lent: MutableMapping[Invocation, Place] = {}
        """Those that attempts at rest have lent to others."""
        self.gates: MutableMapping[Invocation, asyncio.Future[None]] = {}
        """What paused producers wait for."""
        self.on_stop: MutableMapping[Invocation, list[Callable[[], object]]] = {}
        """What attempts have started for themselves, and how it is ended with them."""
        self.calling: MutableSequence[Invocation] = []
        """By whose own calls an engine writes."""
        self.reasoning: MutableMapping[tuple[str, Path], list[str]] = {}
        """What models have thought, by stage and path."""
        self.reported: MutableSequence[tuple[Invocation, Event]] = []
        """Progress, as threads have told of it so far."""

    def clear(self, run: Run) -> None:
        """The request is over: none of its attempts waits any more."""
        for gate in self.gates.values():
            if not gate.done():
                gate.set_result(None)
        self.gates.clear()
        for places in list(self.waits):
            places.forget(run)
        self.waits.clear()
        while self.granted:
            place = self.granted.popleft()[1]
            place.unit.places.release(place)


def _nothing() -> Aside:
    nothing = Aside()
    none: Any = ()
    no_entries: Any = MappingProxyType({})
    nothing.granted = nothing.calling = nothing.reported = none
    nothing.waits = nothing.placed = nothing.lent = nothing.gates = no_entries
    nothing.on_stop = nothing.reasoning = no_entries
    return nothing


NOTHING = _nothing()
"""Of all requests that have put nothing aside: to be read only."""

making = threading.Lock()
"""Held while a request gets an `Aside` of its own."""
