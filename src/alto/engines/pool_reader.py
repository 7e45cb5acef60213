"""One reader of a pool: what it asked for, and the text that it has been given so far.

The text is kept in case the replica breaks off and another one has to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

from ..core.calls import Call, Delta, Usage
from ..core.scheduling import CallId, ReplicaId
from ..errors import AltoError
from .keeper import Keeper
from .protocol import Take


class PoolReader:
    """One call's generator, seen from the pool, and the text it has given on."""

    __slots__ = (
        "asked",
        "before",
        "call",
        "error",
        "finished",
        "given",
        "number",
        "replica",
        "sends",
        "start",
        "waiter",
        "writing",
    )

    def __init__(self, number: CallId, call: Call, given: list[str]) -> None:
        self.number = number
        self.call = call
        """As the reader asked."""
        self.asked = _from_the_first_token(call)
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
        self.replica = ReplicaId(0)
        """Where that try, or the one that may begin next, is."""
        self.sends: list[ReplicaId] = []
        """Where to go, not yet gone to."""
        self.error: AltoError | None = None
        """Why there will be no (more) answer."""
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Kept:
    """Keeps the pieces, in `keeper`, for a reader that does nothing but take them."""

    __slots__ = ("_take", "keeper")

    def __init__(self, take: Take) -> None:
        self._take = take
        self.keeper = Keeper()

    def take(self, piece: str) -> bool | Awaitable[bool]:
        """One piece."""
        keeper = self.keeper
        if (first := keeper.first) is not None:
            keeper.first = None
            first()
        if piece.__class__ is Delta:
            piece = text_of(piece)
        keeper.given.append(piece)
        going = self._take(piece)
        if isinstance(going, bool):
            keeper.enough = not going
            return going
        return self._waited(going)

    async def _waited(self, going: Awaitable[bool]) -> bool:
        goes_on = await going
        self.keeper.enough = not goes_on
        return goes_on


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
    """The call, asking for a delta at its first character.

    An engine may be silent until a boundary, but the first token is the sign that the prompt is
    read, which both speed and room are measured by.
    """
    boundaries = call.boundaries
    if boundaries is None:
        return call
    return replace(call, boundaries=lambda text: (1, *boundaries(text)))
