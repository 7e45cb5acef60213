"""What a reader of an engine keeps of the text that it takes, where the engine sees it."""

from __future__ import annotations

from typing import Protocol


class First(Protocol):
    """Wants to hear of the first piece of a try."""

    def began(self) -> None:
        """It is there."""
        ...


class Keeper:
    """A reader that keeps what it takes where its engine sees it, so that no other need keep it too
    in case a text breaks off.

    Its `take` does this with each piece before anything else: where there is a `first` it takes
    that away and tells it, and it puts the piece into `given`. Before it answers False, it says so
    in `enough`.
    """

    __slots__ = ("enough", "first", "given")

    def __init__(self) -> None:
        self.given: list[str] = []
        """Every piece as it came: a `Delta` where it carries more than text, else a plain string.
        (A `Delta` is an object of which the garbage collector keeps count, a string is not.)"""
        self.first: First | None = None
        """Who is to be told of the first piece of a try. The engine puts it here."""
        self.enough = False
        """It wants no more."""
