"""Where a sentence ends, while the text is still being written.

A candidate is a stop (`.` `!` `?` `…` and their kin) or a line break. What decides is on both sides
of it: the word before ("Dr.", "U.S.", "J."), and what comes after, closing quotes first, then
white space, then the beginning of the next word. So a stop waits for a few characters; how few is
the *delay* of the rules, and it matters, since the next stage starts when the sentence is known.
No sentence waits longer than `LOOKAHEAD_CHARS_MAX` behind its stop.

    certain at once         the full stops 。！？ outside of quotes; a blank line
    after white space       nothing: "e.g. this", "Yahoo! is"
    at the next word        nearly every stop: a small letter goes on, all else begins anew
    after the next word     only behind an abbreviation that may also end a sentence ("Inc.",
                            "U.S.", "J."): it does if a word follows that begins sentences ("The")

A line break ends a sentence if a blank line or the marker of a list, a heading or a fence follows,
or if its own line began with such a marker. Else it is white space.

Always true:
    E1  the sentences joined are the text, white space between them apart
    E2  a decision looks at the open sentence and the next few characters, never at how they came
    E3  each character is searched once for a candidate; a waiting candidate is looked at again with
        each piece, for at most `LOOKAHEAD_CHARS_MAX` characters

Abbreviations are English, with the titles and units of its neighbours; the rest holds for every
script. When in doubt a sentence goes on: half a sentence is worse for the next stage than two.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from .cut import AT_ONCE, Cutter, Until, cut_off
from .texts import Sentence

LOOKAHEAD_CHARS_MAX = 64
"""How far behind a candidate the text may decide about it."""

SENTENCE_CHARS_MAX = 20_000
"""Text without an end this long is cut at the last white space: it is no prose, but it must not
be held for ever, or looked at as a whole with each piece."""

QUOTES_MAX = 8
"""How many open quotes and brackets are remembered."""

WORD_CHARS_MAX = 24
"""How much of the word before a stop is looked at."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# With a capital: a name follows. "St. Louis", "Gen. Grant", "Univ. Press".
_TITLES = _words(
    "dr mr mrs ms mx prof hon rev fr gen lt col maj cpl sgt capt cmdr adm pres gov sen rep supt st"
    " mt ft messrs mme mlle hr univ dept assn bros"
)
# More of the sentence follows, whatever its first letter.
_GOES_ON = _words("e.g i.e eg ie viz vs v cf ca approx esp incl")
# A number follows, else it is a word like any other: "No. 5", but "He said no. Then".
_BEFORE_DIGIT = _words(
    "no nos nr p pp pg par ver fig figs eq eqs art ch chap sec vol vols op c b d r est"
)
# Perhaps the end: if a word follows with which sentences begin. So are "J." and "U.S.".
_MAY_END = _words(
    "inc ltd co corp llc plc jr sr esq pvt al ph.d ave blvd rd jan feb mar apr jun jul aug sep sept"
    " oct nov dec"
)
_STARTERS = _words(
    "a an the this that these those it its he his she her they their we our you your i my there"
    " here in on at by for from with as after before during since when while where if although"
    " though because but and or so yet however moreover furthermore additionally also then thus"
    " therefore hence finally first second next later today according some many most other another"
    " both all each one two who what why how which it's he's she's they're overall despite under"
    " throughout between among following unlike until upon once such no not"
)

_CANDIDATES = "\n.!?…‽؟۔।॥։።。！？｡"
_CANDIDATE = re.compile(f"[{_CANDIDATES}]")
_FULL_STOPS = frozenset("。！？｡")
_BEHIND = re.compile(
    r"(?P<run>[.!?…‽]*)"
    r"(?P<closers>(?:[\"'”’)\]}»›*_`」』】》〉）]|\[\d{1,3}(?:[,–-]\ ?\d{1,3})*\])*)"
    r"(?P<space>\s*)"
    r"(?P<openers>[\"'“‘(\[*_`«‹¿¡「『【《〈（]*)"
)
_OPEN_CITATION = re.compile(r"\[[\d,– -]*")
_WORD_BEHIND = re.compile(r"[\w'’]*")
_WORD_BEFORE = re.compile(r"[^\s\"'“‘(\[{/—–*_]*\Z")
_DOTTED = re.compile(r"(?:\w{1,2}\.)+\w{1,2}|[^\W\d_]")
_BLANK = re.compile(r"[ \t\r]*")
_MARKER = re.compile(r"(?:[-*•+–]|\d{1,3}[.)]|\(?\w{1,3}\)|\#{1,6}|>)\s|```|\*\*|\|")
_OPEN_MARKER = re.compile(r"(?:[-*•+–]|\(?\w{0,3}[.)]?|\#{1,6}|>|`{1,2})")
_BARE_MARKER = re.compile(r"[\s*_#>(•-]*(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,4})")
_INLINE_MARKER = re.compile(r"[:;)]\s+\(?\d{1,2}\Z")
_WORD = re.compile(r"\w")
_QUOTE = re.compile('[「」『』“”（）《》【】"]')
_CLOSER = {"「": "」", "『": "』", "“": "”", "（": "）", "《": "》", "【": "】", '"': '"'}

WAIT: Final = -1
GOES_ON: Final = -2

_Sort = Literal["word", "number", "perhaps", "goes on"]
"""A word before a dot: any word, an abbreviation that a number follows, one that may end a
sentence too, one that never does."""


class Sentences(Cutter[Sentence]):
    """An item for each sentence. The open one is held from its first visible character on, and is
    shorter than `SENTENCE_CHARS_MAX` and one lookahead."""

    __slots__ = ("_at", "_due", "_quiet", "_read")

    def __init__(self) -> None:
        super().__init__()
        self._read = 0
        """Characters of the text before the open sentence."""
        self._at = 0
        """Up to here it has no candidate that could still be an end."""
        self._due = ""
        """The closing quotes that are due since earlier sentences, in scripts without spaces."""
        self._quiet = False
        """A sentence is open and has no candidate that could still be its end."""

    def feed(self, text: str) -> list[Sentence]:
        if self.error is not None:
            return []
        if self._quiet:
            found = _CANDIDATE.search(text)
            if found is not None:
                self._at = self.chars + found.start()
            elif self.chars + len(text) < SENTENCE_CHARS_MAX:
                # Nearly every piece: nothing was waiting and nothing in it may be an end.
                self.add(text)
                return []
            else:
                self._at = self.chars
        self.add(text)
        return self._cut(self.take(), final=False)

    def until(self) -> Until:
        return (_CANDIDATES, SENTENCE_CHARS_MAX - self.chars) if self._quiet else AT_ONCE

    def finish(self, truncated: bool = False) -> list[Sentence]:
        if self.error is not None:
            return []
        if truncated:
            self.error = cut_off("whole sentences", self.take())
            self._quiet = False
            return []
        items = self._cut(self.take(), final=True)
        if rest := self.take():
            items.append(Sentence(rest.rstrip()))
            self._read += len(rest)
            self.settled = self._read
        return items

    def _cut(self, text: str, *, final: bool) -> list[Sentence]:
        items: list[Sentence] = []
        at = self._at
        start = 0 if at else _visible(text, 0)  # what is open begins with what is visible
        while True:
            found = _CANDIDATE.search(text, max(at, start))
            at = len(text) if found is None else found.start()
            if at - start >= SENTENCE_CHARS_MAX:
                end = _last_space(text, start, start + SENTENCE_CHARS_MAX)
            elif found is None:
                break
            else:
                limit = at + 1 + LOOKAHEAD_CHARS_MAX
                ended = final or len(text) >= limit
                end = _end(text, start, at, min(limit, len(text)), ended, self._due)
            if end == WAIT:
                break
            if end == GOES_ON:
                at += 1
                continue
            items.append(Sentence(text[start:end].rstrip()))
            # Quotes that a line break or a stop with white space leaves open are taken for closed.
            full_stop = at < end and text[at] in _FULL_STOPS
            self._due = _due(text, start, end, self._due) if full_stop else ""
            self.settled = self._read + end
            start = at = _visible(text, end)
        self._read += start
        self.add(text[start:])
        self._at = max(at - start, 0)
        self._quiet = 0 < self.chars == self._at
        return items


def _end(text: str, start: int, at: int, limit: int, final: bool, due: str) -> int:
    """Where the sentence ends whose candidate is at `at`; or `GOES_ON`, or `WAIT` for more text.

    Only `text[start:limit]` may be looked at. `final` says that no more of it will come, or that
    no more may be waited for. `due` are the quotes that were open at `start`.
    """
    mark = text[at]
    if mark == "\n":
        return _line_break(text, start, at, limit, final)
    if not text[start].isalnum() and _WORD.search(text, start, at) is None:
        # Dots in front of a sentence belong to it.
        return GOES_ON
    if mark in _FULL_STOPS:
        return _full_stop(text, at, _due(text, start, at, due), limit, final)
    return _stop(text, start, at, limit, final)


def _line_break(text: str, start: int, at: int, limit: int, final: bool) -> int:
    behind = _after(_BLANK, text, at + 1, limit)
    if _MARKER.match(text, start, at) or (final and behind == limit):
        return at
    if behind == limit:
        return WAIT
    if text[behind] == "\n" or _MARKER.match(text, behind, limit):
        return at
    if not final and _OPEN_MARKER.fullmatch(text, behind, limit):
        return WAIT
    return GOES_ON


def _full_stop(text: str, at: int, due: str, limit: int, final: bool) -> int:
    """A full stop of a script without spaces: at once, but with the quotes that it closes."""
    end = at + 1
    while due:
        if end == limit:
            return end if final else WAIT
        if text[end] != due[-1]:
            break
        due = due[:-1]
        end += 1
    return end


def _due(text: str, start: int, end: int, due: str) -> str:
    """The closing quotes that are due at `end`, innermost last, if `due` were at `start`."""
    for quote in _QUOTE.findall(text, start, end):
        if due.endswith(quote):
            due = due[:-1]
        elif quote in _CLOSER:
            due = (due + _CLOSER[quote])[-QUOTES_MAX:]
    return due


def _stop(text: str, start: int, at: int, limit: int, final: bool) -> int:
    end = at + 1
    if end < limit and text[end] == " ":  # as nearly always: no search for what else there may be
        if end + 1 == limit:
            return end if final else WAIT
        if text[end + 1].isalnum():
            sort = _sort_of(text, start, at) if text[at] == "." else "word"
            return _next_word(text, end, end + 1, limit, final, sort)
    behind = _BEHIND.match(text, at + 1, limit)
    assert behind is not None, "every part of the pattern may be empty"
    end, next_at = behind.end("closers"), behind.end()
    broken = "\n" in behind["space"]
    if next_at == limit and not broken:
        return end if final else WAIT
    if not behind["space"]:
        return _glued(text, at, end, limit, final)
    abbreviated = text[at] == "." and end == at + 1
    sort = _sort_of(text, start, at) if abbreviated else "word"
    if broken:
        return GOES_ON if sort == "goes on" else end
    return _next_word(text, end, next_at, limit, final, sort)


def _glued(text: str, at: int, end: int, limit: int, final: bool) -> int:
    """No white space behind the stop: no end, as in 3.14, U.S. or a.txt, but for some."""
    if not final and _OPEN_CITATION.fullmatch(text, end, limit):
        return WAIT
    # Half-width marks in text without spaces: "真的吗?是的".
    if text[at] in "!?" and _is_cjk(text[at - 1]) and _is_cjk(text[end]):
        return end
    return GOES_ON


def _sort_of(text: str, start: int, at: int) -> _Sort:
    """What kind of word stands before the dot at `at`."""
    if at - start < WORD_CHARS_MAX and _BARE_MARKER.fullmatch(text, start, at):
        return "goes on"
    before = text[max(start, at - WORD_CHARS_MAX) : at]
    word = before[before.rfind(" ") + 1 :]
    if not word.isalnum():
        found = _WORD_BEFORE.search(before)
        word = found[0] if found else ""
    folded = word.lower()
    if word.isdigit():
        return "goes on" if len(word) < 3 and _INLINE_MARKER.search(before) else "word"
    if folded in _GOES_ON or (folded in _TITLES and word[0].isupper()):
        return "goes on"
    if folded in _MAY_END or _DOTTED.fullmatch(word):
        return "perhaps"
    return "number" if folded in _BEFORE_DIGIT else "word"


def _next_word(text: str, end: int, at: int, limit: int, final: bool, sort: _Sort) -> int:
    """The end, if what begins at `at` may begin a sentence."""
    mark = text[at]
    if sort == "goes on" or mark.islower() or mark in ",;:":
        return GOES_ON
    if sort == "number" and mark.isdigit():
        return GOES_ON
    if sort != "perhaps":
        return end
    behind = _after(_WORD_BEHIND, text, at, limit)
    if behind == limit and not final:
        return WAIT
    return end if text[at:behind].lower() in _STARTERS else GOES_ON


def _last_space(text: str, start: int, limit: int) -> int:
    """Where to cut text that has no end: behind its last word, or anywhere if it is one."""
    for at in range(limit - 1, start, -1):
        if text[at].isspace():
            return at
    return limit


def _visible(text: str, at: int) -> int:
    """The first character from `at` on that is no white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _after(pattern: re.Pattern[str], text: str, at: int, limit: int) -> int:
    """Where a pattern that may be empty stops to match."""
    found = pattern.match(text, at, limit)
    return at if found is None else found.end()


def _is_cjk(char: str) -> bool:
    return "\u2e80" <= char <= "\u9fff" or "\uf900" <= char <= "\uffef"
