"""One label or number out of a short LM answer.

Models are asked for a word and give more: `**SUPPORTED**.`, `"yes"`, `The verdict is: REFUTED`.
So an answer is read in two steps. Trimmed and case-folded it may be a label, with quotes, markdown
and punctuation around it or not. Else it must contain exactly one label as a word. A label inside
a longer one that stands there is none ("supported" in "not supported", if that is a label too);
white space, `_` and `-` inside labels are the same. Labels that mean the same value may all occur.

None, or labels of different values, is a `ParseError`: nothing here guesses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from ..errors import ParseError
from .cut import AT_ONCE, OPEN_CHARS_MAX, Cutter, Until, cut_off, shorten, too_long

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_AROUND = " \t\r\n\"'`*_.,:;!?()[]{}<>“”‘’«»„。！？，：；「」『』（）"
_QUOTES = " \t\r\n\"'`*_()"
_JOINT = re.compile(r"(?<=\w)[\s_-]+(?=\w)")
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?"  # not the tail of a word or of another number
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
    r"(?!\w|\.\d)"
)


class Read(Protocol[T_co]):
    """Reads a whole answer; `truncated` says that it may go on. Raises `ParseError`."""

    def __call__(self, text: str, truncated: bool = False) -> T_co: ...


class Choice(Cutter[T]):
    """The whole text is one choice. It is certain at the end only: another label may follow."""

    __slots__ = ("_reader",)

    def __init__(self, read: Read[T]) -> None:
        super().__init__()
        self._reader = read

    def feed(self, text: str) -> list[T]:
        if self.error is None:
            self.add(text)
            if self.chars > OPEN_CHARS_MAX:
                self.error = too_long("a choice", self.take(), OPEN_CHARS_MAX)
        return []

    def until(self) -> Until:
        return AT_ONCE if self.error is not None else ("", self.room())

    def finish(self, truncated: bool = False) -> list[T]:
        if self.error is not None:
            return []
        end = self.chars
        try:
            value = self._reader(self.take(), truncated)
        except ParseError as error:
            self.error = error
            return []
        self.settled = end
        return [value]


class Labels(Generic[T]):
    """Reads one of some labels. `labels` are (label, value); several may mean the same value."""

    def __init__(self, labels: Iterable[tuple[str, T]]) -> None:
        self._labels = [(label, _fold(label), value) for label, value in labels]
        self._exact = {label: value for label, _, value in reversed(self._labels)}
        self._folded = {folded: value for _, folded, value in reversed(self._labels)}
        self.expected = f"one of {', '.join(label for label, _, _ in self._labels)}"
        # Longest first, so that an alternative inside another one never wins.
        by_length = sorted(filter(None, self._folded), key=len, reverse=True)
        self._word = re.compile("|".join(map(_word, by_length)) or "(?!)")

    def bare(self, text: str, truncated: bool = False) -> T:
        """The text is a label and nothing else."""
        trimmed = text.strip()
        if trimmed in self._exact and not truncated:
            return self._exact[trimmed]
        folded = _fold(trimmed)
        if folded not in self._folded:
            folded = folded.strip(_AROUND)
        if truncated or folded not in self._folded:
            raise _unreadable(self.expected, text, "other text")
        return self._folded[folded]

    def __call__(self, text: str, truncated: bool = False) -> T:
        """The text is a label, or it contains one as a word."""
        if not truncated:
            try:
                return self.bare(text)
            except ParseError:
                pass
        folded = _fold(text.strip())
        found = list(self._word.finditer(folded))
        values = [self._folded[match[0]] for match in found]
        if not values or any(value != values[0] for value in values):
            if truncated:
                raise cut_off(self.expected, text)
            raise _unreadable(self.expected, text, "several" if values else "none")
        if truncated and found[-1].end() == len(folded) and self._goes_on(found[-1][0]):
            raise cut_off(self.expected, text)
        return values[0]

    def _goes_on(self, folded: str) -> bool:
        """A longer label begins like this one, so that a text cut off here may mean either."""
        return any(len(other) > len(folded) and other.startswith(folded) for other in self._folded)


def read_float(text: str, truncated: bool = False) -> float:
    """Reads the only number in the text."""
    return float(_number("a number", text, truncated))


def read_int(text: str, truncated: bool = False) -> int:
    """Reads the only number in the text, which may be written 1,000 or 3.0 but is whole."""
    written = _number("a whole number", text, truncated)
    try:
        return int(written)
    except ValueError:
        number = float(written)
    if not number.is_integer():
        raise _unreadable("a whole number", text, "a fraction")
    return int(number)


def read_bare_int(text: str, truncated: bool = False) -> int:
    """Reads a whole number with nothing else but quotes and punctuation."""
    return read_int(_bare("a whole number", text), truncated)


def read_bare_float(text: str, truncated: bool = False) -> float:
    """Reads a number with nothing else but quotes and punctuation."""
    return read_float(_bare("a number", text), truncated)


def _bare(expected: str, text: str) -> str:
    # Not the dot in front of ".5", nor the sign.
    bare = text.strip(_QUOTES).rstrip(_QUOTES + ".,;")
    if _NUMBER.fullmatch(bare) is None:
        raise _unreadable(expected, text, "other text")
    return bare


def _number(expected: str, text: str, truncated: bool) -> str:
    found = list(_NUMBER.finditer(text))
    if truncated and (not found or found[-1].end() == len(text.rstrip())):
        raise cut_off(expected, text)
    if len(found) != 1:
        raise _unreadable(expected, text, "several" if found else "none")
    return found[0][0].replace(",", "").replace("−", "-")


def _fold(text: str) -> str:
    return _JOINT.sub(" ", text.casefold())


def _word(folded: str) -> str:
    """A pattern for the label as a word. Scripts without spaces between words have no edges."""
    before = r"(?<!\w)" if _has_edge(folded[:1]) else ""
    after = r"(?!\w)" if _has_edge(folded[-1:]) else ""
    return f"{before}{re.escape(folded)}{after}"


def _has_edge(char: str) -> bool:
    return (char.isalnum() or char == "_") and not "\u2e80" <= char <= "\u9fff"


def _unreadable(expected: str, text: str, got: str) -> ParseError:
    return ParseError(
        f"Expected {expected}, got {got} in {shorten(text)}. "
        "Ask for the bare answer in the prompt, or use an engine with guided decoding.",
        text=text,
    )


read_bool = Labels([("yes", True), ("no", False), ("true", True), ("false", False)])
"""Reads a bool."""
