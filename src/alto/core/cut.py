"""Text into items, while the text is still being written.

A cutter is fed the pieces of one text in order and gives each item with the piece that completes
it. Operations: `feed(piece)`, `finish(truncated)`, and three things to look at: `error`, `settled`,
and `until()`, which says what a piece must hold to matter. Few do, and the others need not be fed
one by one: whoever has the text anyway keeps them, and feeds them along with the next that does.

Goals, in order:
    1. where a text is cut into pieces changes nothing: the items are those of the uncut text
    2. an item comes as soon as it is certain that it is complete, not later
    3. time is linear: no character is looked at again because another piece came; an open item is
       kept as a list of pieces and joined once
    4. memory is that of the open item, at most `OPEN_CHARS_MAX`

Always true:
    C1  the items given never depend on text that comes later
    C2  items are stripped of white space around them; a blank item is no item
    C3  `error` is set once, at most; after that `feed` and `finish` give nothing
    C4  pieces that `until()` rules out give no items. An error in them may show only when they are
        fed

A cutter does not raise. It sets `error` and still returns the complete items of that piece, since
they stand. The caller passes them on, and then raises `error`; it may stop the text there.

Here are the cutters without rules of their own. The others have a file each: `sentences`,
`json_cut`, `scalar_cut`, `choice`; and `think` keeps reasoning from all of them.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from ..errors import ParseError
from .texts import Line, Paragraph

T = TypeVar("T")

Until = tuple[str, int]
"""Some characters, none of them a letter, a digit or one of `DULL`; and a number of characters."""

DULL: Final = " ,:;\"'({[*_-"
"""What often stands before or behind a word and never completes an item."""

AT_ONCE: Until = ("", 0)
"""Any piece may matter."""

OPEN_CHARS_MAX = 1_000_000
"""The longest open item, in characters. Beyond it the text is refused with a `ParseError`."""

SHOWN_CHARS_MAX = 400
"""How much of a text an error message shows; `ParseError.text` has all of it."""


class OpenText:
    """The text of an item that is not complete yet, in the pieces that it came in. Mostly that is
    one, so that there is no list before there are two."""

    __slots__ = ("_more", "_text", "chars")

    def __init__(self) -> None:
        self._text = ""
        self._more: list[str] | None = None
        """The pieces behind `_text`."""
        self.chars = 0
        """How long all of it is. It is changed by `add` and `take` alone."""

    def add(self, piece: str) -> None:
        """It goes on with this."""
        if self.chars == 0:
            self._text = piece
            self.chars = len(piece)
            return
        if self._more is None:
            self._more = [piece]
        else:
            self._more.append(piece)
        self.chars += len(piece)

    def room(self) -> int:
        """With how many characters more it is too long."""
        return OPEN_CHARS_MAX + 1 - self.chars

    def so_far(self) -> str:
        """All of it as one plain string."""
        return self._text + ("" if self._more is None else "".join(self._more))

    def take(self) -> str:
        """The same; empty afterwards."""
        text = self._text + ("" if self._more is None else "".join(self._more))
        self._text = ""
        self._more = None
        self.chars = 0
        return text


class Cutter(OpenText, Generic[T]):
    """Text pieces in, items out.

    It holds the text of its open item itself: one in an object of its own would be another for
    each of many texts that are read at once.
    """

    __slots__ = ("error", "settled")

    def __init__(self) -> None:
        # Those of an open text are set here too: for each text that is one call less.
        self._text = ""
        self._more = None
        self.chars = 0
        self.error: ParseError | None = None
        """Why the text cannot be read (further). Look at it after each `feed` and `finish`."""
        self.settled = 0
        """How many characters of the text lie before the end of the last item given. A text that is
        asked for again can go on from there: feed a new cutter the kept text, drop what it gives.
        """

    def until(self) -> Until:
        """What further text must have before an item can come of it: one of these characters, or
        this length. It holds until something is fed."""
        raise NotImplementedError

    def feed(self, text: str) -> list[T]:
        """Take the next piece; return the items that it completes, in order."""
        raise NotImplementedError

    def finish(self, truncated: bool = False) -> list[T]:
        """The text has ended: return what that completes. Called once.

        `truncated` says that the engine stopped for length. Then complete items are still given,
        an open one is not, and `error` is set if the text could have held more of them.
        """
        raise NotImplementedError


def shorten(text: str, limit: int = SHOWN_CHARS_MAX) -> str:
    """The text for an error message, with its middle left out if it is long."""
    if len(text) <= limit:
        return repr(text)
    half = limit // 2
    return f"{text[:half]!r} … ({len(text) - 2 * half} characters left out) … {text[-half:]!r}"


def cut_off(expected: str, text: str) -> ParseError:
    """The error for text that ended by length in the middle of things."""
    return ParseError(
        f"The text was cut off by its length limit; expected {expected}. "
        f"The items before it stand; what was left: {shorten(text)}. "
        "Raise max_tokens, or ask for less in the prompt.",
        text=text,
    )


def too_long(expected: str, text: str, limit: int) -> ParseError:
    """The error for an item that does not end within its limit."""
    return ParseError(
        f"Expected {expected}, but none ended within {limit} characters: {shorten(text)}. "
        "Ask for shorter ones in the prompt, or lower max_tokens.",
        text=text,
    )


class Deltas(Cutter[str]):
    """Every piece is an item, as it came: white space counts, an empty piece does not.

    Any text is made of deltas, so one that was cut off by length is no error.
    """

    __slots__ = ()

    def feed(self, text: str) -> list[str]:
        self.settled += len(text)
        # A piece may be a `Delta`, which carries more than its text: give the text alone.
        return [str.__str__(text)] if text else []

    def until(self) -> Until:
        return AT_ONCE

    def finish(self, truncated: bool = False) -> list[str]:
        return []


class Whole(Cutter[str]):
    """The whole text is one item, exactly as it was written, even if it is empty.

    Any text is a string, so one that was cut off by length is no error.
    """

    __slots__ = ()

    def feed(self, text: str) -> list[str]:
        if self.error is None:
            self.add(text)
            if self.chars > OPEN_CHARS_MAX:
                self.error = too_long("a text", self.take(), OPEN_CHARS_MAX)
        return []

    def until(self) -> Until:
        return AT_ONCE if self.error is not None else ("", self.room())

    def finish(self, truncated: bool = False) -> list[str]:
        if self.error is not None:
            return []
        self.settled = self.chars
        return [self.take()]


class Lines(Cutter[Line]):
    """An item for each line that is not blank, complete with its line break. A line is held
    without that."""

    __slots__ = ("_read",)

    def __init__(self) -> None:
        super().__init__()
        self._read = 0

    def feed(self, text: str) -> list[Line]:
        if self.error is not None:
            return []
        items: list[Line] = []
        *ends, rest = text.split("\n")
        for end in ends:
            self.add(end)
            self._read += self.chars + 1
            if line := self.take().strip():
                items.append(Line(line))
                self.settled = self._read
        self.add(rest)
        if self.chars > OPEN_CHARS_MAX:
            self.error = too_long("lines", self.take(), OPEN_CHARS_MAX)
        return items

    def until(self) -> Until:
        return AT_ONCE if self.error is not None else ("\n", self.room())

    def finish(self, truncated: bool = False) -> list[Line]:
        if self.error is not None:
            return []
        self._read += self.chars
        line = self.take().strip()
        if truncated:
            self.error = cut_off("whole lines", line)
            return []
        if not line:
            return []
        self.settled = self._read
        return [Line(line)]


class Paragraphs(Cutter[Paragraph]):
    """An item for each run of lines without a blank one, complete with the blank line after it. A
    paragraph is held from its first visible character on."""

    __slots__ = ("_blank", "_read")

    def __init__(self) -> None:
        super().__init__()
        self._read = 0
        self._blank = True
        """Nothing visible has come in the line that is being written."""

    def feed(self, text: str) -> list[Paragraph]:
        if self.error is not None:
            return []
        items: list[Paragraph] = []
        *ends, rest = text.split("\n")
        for end in ends:
            self._add(end)
            self._read += len(end) + 1
            if not self._blank:
                self.add("\n")
                self._blank = True
            elif paragraph := self.take().strip():
                items.append(Paragraph(paragraph))
                self.settled = self._read
        self._add(rest)
        self._read += len(rest)
        if self.chars > OPEN_CHARS_MAX:
            self.error = too_long("paragraphs", self.take(), OPEN_CHARS_MAX)
        return items

    def until(self) -> Until:
        return AT_ONCE if self.error is not None else ("\n", self.room())

    def finish(self, truncated: bool = False) -> list[Paragraph]:
        if self.error is not None:
            return []
        paragraph = self.take().strip()
        if truncated:
            self.error = cut_off("whole paragraphs", paragraph)
            return []
        if not paragraph:
            return []
        self.settled = self._read
        return [Paragraph(paragraph)]

    def _add(self, piece: str) -> None:
        """Take a piece without a line break."""
        if piece and not piece.isspace():
            self._blank = False
        if not self._blank or self.chars:
            self.add(piece)


class After(Cutter[T]):
    """A cutter that keeps its first items to itself."""

    __slots__ = ("_count", "_cutter")

    def __init__(self, cutter: Cutter[T], count: int) -> None:
        super().__init__()
        self._cutter = cutter
        self._count = count

    def feed(self, text: str) -> list[T]:
        return self._rest(self._cutter.feed(text))

    def until(self) -> Until:
        return self._cutter.until()

    def finish(self, truncated: bool = False) -> list[T]:
        return self._rest(self._cutter.finish(truncated))

    def _rest(self, items: list[T]) -> list[T]:
        self.error, self.settled = self._cutter.error, self._cutter.settled
        rest = items[self._count :]
        self._count -= min(self._count, len(items))
        return rest
