"""One reader of a pool: what it asked for, and the text that it has been given so far.

The text is kept in case the replica breaks off and another one has to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ..core.calls import Call, Delta, Usage
from ..core.flights import Flight
from ..core.prefix import Prompt
from ..core.scheduling import CallId, ReplicaId
from ..errors import AltoError, EngineError
from .keeper import Keeper

if TYPE_CHECKING:
    from .pool_calls import Calls
    from .protocol import Take


_NONE_YET: Final = ReplicaId(0)


class PoolReader(Flight):
    """One call of a pool: what the core knows of it, by which the core is told of it, and the text
    that it has given on.

    Where it is read by the replica that it was sent to at once, it is what there is to wait for (as
    `Asked`, see `Pool.ask`).
    """

    __slots__ = (
        "asked",
        "before",
        "calls",
        "error",
        "finished",
        "given",
        "keeper",
        "replica",
        "sends",
        "start",
        "take",
        "waiter",
        "waits",
        "wanted",
        "writing",
    )
    keeper: Keeper
    take: Take
    """Of whom it is read for, where that is waited for."""
    waits: Awaitable[None]

    def __init__(
        self, calls: Calls, number: CallId, prompt: Prompt, call: Call, given: list[str]
    ) -> None:
        super().__init__(number, prompt, call.stage, call.deadline, call.max_tokens, call.leads)
        self.calls = calls
        self.wanted = call
        """As the reader asked."""
        self.asked = call if call.boundaries is None else _from_the_first_token(call)
        """As the next replica is asked: for the rest, once there is text."""
        self.given = given
        """All that was given on, see `Keeper.given`."""
        self.start = 0
        """From here on `given` is of the present try."""
        self.before: Usage | None = None
        """What tries that broke in mid-text have cost; None if none did."""
        self.finished = False
        """The present try gave all it had."""
        self.writing = False
        """A try has begun and not broken; there is never a second."""
        self.replica = _NONE_YET
        """Where that try, or the one that may begin next, is."""
        self.sends: tuple[ReplicaId, ...] = ()
        """Where to go, not yet gone to. (There is but one empty tuple.)"""
        self.error: AltoError | None = None
        """Why there will be no (more) answer."""
        self.waiter: asyncio.Future[None] | None = None

    def began(self) -> None:
        """The first piece of a try is there (as `Keeper.first`)."""
        self.calls.begin(self)

    def go(self, keeper: Keeper) -> ReplicaId:
        """Where it goes now, to read with this keeper, which will tell of the first piece."""
        keeper.first = self
        self.keeper = keeper
        self.replica = self.next()
        return self.replica

    def after(self, error: BaseException | None) -> Awaitable[None] | None:
        """The replica that it was sent to at once has read it, or has raised this."""
        keeper, calls = self.keeper, self.calls
        keeper.first = None
        goes_on = False
        try:
            if error is None:
                if keeper.enough:
                    return None
                try:
                    calls.finish(self)
                    return None
                except EngineError as silent:
                    error = silent
            if not isinstance(error, Exception):
                raise error
            goes_on = not calls.is_over(self, error)
            return calls.go_on(self, self.take, keeper) if goes_on else None
        finally:
            error = None  # which knows this frame: a circle
            if not goes_on:
                calls.leave(self)

    def next(self) -> ReplicaId:
        """Where to go now."""
        replica = self.sends[0]
        self.sends = self.sends[1:]
        return replica

    def wake(self) -> None:
        """Go and see what there is."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


text_of = str.__str__
"""A piece as a plain string."""


def kept(delta: Delta) -> str:
    """What is kept of a piece: all of it."""
    return text_of(delta) if delta.__class__ is Delta else delta


def as_delta(piece: str) -> Delta:
    """What `kept` has kept, as it came."""
    return piece if isinstance(piece, Delta) else Delta(piece)


def is_full(call: Call) -> bool:
    """The text so far has all the tokens that were asked for."""
    return call.max_tokens is not None and call.max_tokens <= 0


def _from_the_first_token(call: Call) -> Call:
    """A call with boundaries, asking for a delta at its first character.

    An engine may be silent until a boundary, but the first token is the sign that the prompt is
    read, which both speed and room are measured by.
    """
    boundaries = call.boundaries
    assert boundaries is not None
    return replace(call, boundaries=lambda text: (1, *boundaries(text)))
