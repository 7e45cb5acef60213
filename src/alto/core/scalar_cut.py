"""A stream of labels or numbers: out of a JSON array, or one a line.

Asked for a list of verdicts a model writes `["YES", "NO"]`, or `YES\\nNO`, or `1. YES\\n2. **NO**`.
Text is read as lines until a JSON array (or an object around one) begins; from there on its
elements are the items. List markers and code fences are skipped.

Lines that hold no label are talk before the first item or after the last. One *between* two items
would silently shift what belongs to what, so it is an error as soon as the next item shows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from ..errors import ParseError
from .cut import AT_ONCE, OPEN_CHARS_MAX, Cutter, Until, cut_off, shorten, too_long
from .json_cut import SCALAR, JsonItems

T = TypeVar("T")

_MARKER = re.compile(r"\s*(?:[-*•+]|\(?\d{1,3}[.):])\s+(?=\S)")


class ScalarItems(Cutter[T]):
    """Items read by `read_element` from an array, or by `read_line` from lines.

    Both raise `ParseError`. `read_line` has to be the stricter one, as it also sees talk. Until an
    array begins, the line is held that is being written.
    """

    __slots__ = (
        "_expected",
        "_given",
        "_json",
        "_read",
        "_read_element",
        "_read_line",
        "_unreadable",
    )

    def __init__(
        self,
        read_element: Callable[[str], T],
        read_line: Callable[[str], T],
        *,
        expected: str,
        wrapper: str = "items",
    ) -> None:
        super().__init__()
        self._read_element = read_element
        self._read_line = read_line
        self._expected = expected
        self._json = JsonItems(starts=SCALAR, wrapper=wrapper)
        self._read = 0
        self._given = 0
        self._unreadable: str | None = None
        """A line behind an item that held none: an error if another item follows."""

    def feed(self, text: str) -> list[T]:
        items: list[T] = []
        # Line by line, so that what a piece holds at once is read as if it had come in two.
        for line in text.splitlines(keepends=True) if "\n" in text else [text]:
            if self.error is None:
                self._feed_line(line, items)
        return items

    def until(self) -> Until:
        return AT_ONCE

    def finish(self, truncated: bool = False) -> list[T]:
        before = self.error  # by a name of its own: the last line may set another
        if before is not None:
            return []
        items: list[T] = []
        if self._json.seen:
            self._json.finish(truncated)
            self.error = self._json.error
            return []
        line = self.take()
        if truncated:
            self.error = cut_off(f"lines with {self._expected}", line)
            return []
        self._end_line(line, items)
        if self.error is None and not self._given:
            self.error = ParseError(
                f"Expected {self._expected}, as a JSON array or one a line; the text has none: "
                f"{shorten(self._json.unread())}. Show the form in the prompt.",
                text=self._json.unread(),
            )
        return items

    def _feed_line(self, text: str, items: list[T]) -> None:
        """Take text that has a line break at its end or nowhere."""
        elements = self._json.feed(text)
        self._read += len(text)
        if not self._json.seen:
            self.add(text)
            if text.endswith("\n"):
                self._end_line(self.take(), items)
            elif self.chars > OPEN_CHARS_MAX:
                self.error = too_long(self._expected, self.take(), OPEN_CHARS_MAX)
            return
        try:
            for element in elements:
                items.append(self._read_element(element))
                self.settled = element.end
        except ParseError as error:
            self.error = error
            return
        self.error = self._json.error

    def _end_line(self, line: str, items: list[T]) -> None:
        bare = _MARKER.sub("", line, count=1).strip()
        if not bare or bare.startswith("```"):
            return
        try:
            item = self._read_line(bare)
        except ParseError:
            if self._given and self._unreadable is None:
                self._unreadable = bare
            return
        if self._unreadable is not None:
            self.error = ParseError(
                f"Expected {self._expected} in every line between the first and the last one that "
                f"has it, but there is none in {shorten(self._unreadable)}. Ask for the bare "
                "answers, one a line, or for a JSON array.",
                text=self._unreadable,
            )
            return
        self._given += 1
        self.settled = self._read
        items.append(item)
