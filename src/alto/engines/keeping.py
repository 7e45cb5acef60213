"""A reader of an engine that only takes what it is given, made into one that keeps it."""

from __future__ import annotations

from collections.abc import Awaitable

from ..core.calls import Delta
from .keeper import Keeper
from .pool_reader import text_of
from .protocol import Take


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
            first.began()
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
