"""Feed a text to a cutter in pieces: what comes out must not depend on the pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from alto.core.cut import DULL, Cutter

New = Callable[[], Cutter[Any]]
Result = tuple[list[Any], int, str | None]


def cut(new: New, pieces: Iterable[str], truncated: bool = False) -> Result:
    """All items, how far they reach, and the error if there is one."""
    cutter = new()
    items: list[Any] = []
    for piece in pieces:
        items += cutter.feed(piece)
    items += cutter.finish(truncated)
    return items, cutter.settled, cutter.error and str(cutter.error)


def everywhere(new: New, text: str, truncated: bool = False) -> Result:
    """Cut the text in two at every place, and into characters; give what it is uncut."""
    whole = cut(new, [text], truncated)
    for at in range(len(text) + 1):
        assert cut(new, [text[:at], text[at:]], truncated) == whole, (text[:at], text[at:])
    assert cut(new, text, truncated) == whole, "cut at every character"
    assert _patiently(new, text, truncated) == (given_after(new, text, truncated), whole)
    return whole


def _patiently(new: New, text: str, truncated: bool) -> tuple[list[tuple[int, Any]], Result]:
    """The same as `given_after` and `cut`, if each character that gives no item, by what the cutter
    says, is fed along with the next one that may."""
    cutter = new()
    kept = ""
    given: list[tuple[int, Any]] = []
    for at, char in enumerate(text):
        kept += char
        marks, chars = cutter.until()
        assert not any(mark.isalnum() or mark in DULL for mark in marks), "see Until"
        if char in marks or len(kept) >= chars:
            given += [(at + 1, item) for item in cutter.feed(kept)]
            kept = ""
    assert not cutter.feed(kept)
    given += [(len(text) + 1, item) for item in cutter.finish(truncated)]
    items = [item for _, item in given]
    return given, (items, cutter.settled, cutter.error and str(cutter.error))


def given_after(new: New, text: str, truncated: bool = False) -> list[tuple[int, Any]]:
    """Each item with the number of characters after which it was given, fed one by one."""
    cutter = new()
    given = [(at + 1, item) for at, char in enumerate(text) for item in cutter.feed(char)]
    return given + [(len(text) + 1, item) for item in cutter.finish(truncated)]


def error_of(new: New, text: str, truncated: bool = False) -> str:
    """The error of a text that has one."""
    _, _, error = everywhere(new, text, truncated)
    assert error is not None, f"{text!r} was read"
    return error
