"""A call under way, for whoever waits for its text without a frame of the engine's in between.

Every coroutine that waits for another one is gone through once more for each piece of text. So an
engine can say what is to be waited for, and be told what came of that: nearly always the text is
then over, and only else does a coroutine of the engine's own go on.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol


class Asked(Protocol):
    """A call under way. It has to be waited for, and then heard, once each: it holds its place in
    the engine until then."""

    @property
    def waits(self) -> Awaitable[None]:
        """What to wait for first."""
        ...

    def after(self, error: BaseException | None) -> Awaitable[None] | None:
        """That has ended, or raised this error. Gives what to wait for to the end, None if the end
        is reached; raises what the call has failed with, the error that it was given included."""
        ...


class Whole:
    """A call that is one coroutine from its beginning to its end."""

    __slots__ = ("waits",)

    def __init__(self, waits: Awaitable[None]) -> None:
        self.waits = waits

    def after(self, error: BaseException | None) -> None:
        """Nothing is left to do."""
        try:
            if error is not None:
                raise error
        finally:
            error = None  # which knows this frame: a circle


async def failed(error: Exception) -> None:
    """A call that has failed before it was to be waited for."""
    raise error


async def ended(asked: Asked) -> None:
    """Wait for a call to its end."""
    try:
        await asked.waits
    except BaseException as error:
        rest = asked.after(error)
    else:
        rest = asked.after(None)
    if rest is not None:
        await rest
