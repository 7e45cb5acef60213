"""JSON items out of LM text: each as raw JSON text, with the character that closes it.

Models wrap what they are asked for. All of these hold the same two items:

    [{"a": 1}, {"a": 2}]                       an array
    {"items": [{"a": 1}, {"a": 2}]}            an object around an array, under any name
    {"a": 1}\n{"a": 2}                         JSON lines, or objects anywhere in prose
    Sure! ```json\n[{"a": 1}, {"a": 2},]```    fences, prose before and after, trailing commas

So the text is read as prose with JSON in it. In prose only `{` and `[` matter, and only where the
next characters look like JSON: `{` then a string and a colon, `[` then the start of an item.
Brackets in prose ("the set {a, b}", "see [1]", "- [ ] to do") stay prose. Inside JSON the cutter
counts brackets and skips strings; it does not validate, which is for the decoder of the items.

An object at the top is one item, or a wrapper. Who knows which names an item has (`fields`) can
tell by the first name that is no field and has an array of items; without `fields` the first
value decides. The name under which the schema wraps (`wrapper`) always does. An empty object at
the top is a wrapper around nothing.

Always true:
    J1  every character is looked at once, whatever the pieces: the state is a few flags, the
        brackets that are open, and the pieces of the open item
    J2  an item is given with its last bracket or quote; a bare number or word with what follows it
    J3  text in which no JSON was seen at all is an error, and so is JSON that is not closed; an
        empty array is no item and no error

The array of an object that turns out to be a wrapper is cut as it streams; what a wrapper holds
besides is skipped. Two arrays of items in one wrapper are read one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..errors import ParseError
from .cut import AT_ONCE, OPEN_CHARS_MAX, Cutter, OpenText, Until, cut_off, shorten, too_long
from .json_flat import FIRST_NAME_CHARS_MAX, first_name_of, flat_end_of
from .texts import JsonText

DEPTH_MAX = 200
"""How deep JSON may nest. Beyond it the text is refused with a `ParseError`."""

OBJECT = "{"
ARRAY = "["
SCALAR = '"-0123456789tfn'
"""First characters of items, to be joined for `JsonItems(starts=…)`."""

_IN_PROSE = re.compile(r"[{\[]")
_IN_JSON = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\]')
_IN_NAME = re.compile(r'["\\\n]')
_VISIBLE = re.compile(r"[^ \t\r\n]")
_ELEMENT = re.compile(r"[^ \t\r\n,]")
_BARE_END = re.compile(r"[ \t\r\n,\[\]{}]")
_BEFORE_EMPTY = ("", ":", "`")
_CLOSER = {"{": "}", "[": "]"}


class JsonItems(Cutter[Any]):
    """Items from an array, a wrapper around one, JSON lines or objects in prose: what `decode`
    makes of the raw JSON of each, which raises `ParseError`; or that itself, as `JsonText`.

    A state is a method that looks at `text` from `at` on, and says from where the next one looks.
    It is kept as a plain function, since a bound method would tie the cutter to itself and leave
    it to the garbage collector.
    """

    __slots__ = (
        "_after_string",
        "_before",
        "_brackets",
        "_capturing",
        "_count",
        "_decode",
        "_emits",
        "_escaped",
        "_fields",
        "_first",
        "_floor",
        "_items",
        "_list_closed",
        "_mark",
        "_name",
        "_read",
        "_stack",
        "_starts",
        "_state",
        "_unread",
        "_whole",
        "_wrapper",
        "_wraps",
        "seen",
    )

    def __init__(
        self,
        starts: str = OBJECT,
        fields: frozenset[str] | None = None,
        wrapper: str | None = "items",
        decode: Callable[[str], Any] | None = None,
    ) -> None:
        super().__init__()
        self._decode = decode
        self._count = 0
        """So many items have been given."""
        self._whole = False
        self._starts = starts
        self._brackets = not starts.strip(OBJECT + ARRAY)
        """Every item should end in a bracket."""
        self._fields = fields
        self._wrapper = wrapper
        self._state: _State = JsonItems._prose
        self._before = ""
        """The last visible character of the line of prose that is being read."""
        self._stack = ""
        """The closing brackets that are due, outermost first. Empty in prose."""
        self._floor = 0
        """How many of them stay open when the value that is being skipped ends."""
        self._emits = False
        """That value is an item."""
        self._capturing = False
        """The text is held, since it is or may be an item."""
        self._mark = 0
        """From where in this piece it is held."""
        self._items: list[Any] | None = None
        """What this piece completes."""
        self._read = 0
        """Characters of earlier pieces."""
        self._after_string: _State = JsonItems._prose
        self._escaped = False
        """The last character was a backslash in a string."""
        self._name: OpenText | None = None
        """The name that is being read in an object at the top."""
        self._first = True
        """It is the first one: no colon behind it means prose."""
        self._wraps = False
        """It is the name under which the schema wraps."""
        self.seen = False
        """There was JSON, for certain."""
        self._list_closed = False
        """The last JSON that ended was a whole array: no item is missing if the text breaks off."""
        self._unread: OpenText | None = None
        """The text as long as no JSON was seen, for the error."""

    def feed(self, text: str) -> list[Any]:
        before = self.error  # by a name of its own: a state may set another
        if before is not None:
            return []
        self._mark = at = 0
        end = len(text)
        while at < end and self.error is None:
            at = self._state(self, text, at)
        if self._capturing:
            self.add(text[self._mark :])
        if self.seen:
            self._unread = None
        else:
            if self._unread is None:
                self._unread = OpenText()
            self._unread.add(text)
        self._read += end
        if self._read > OPEN_CHARS_MAX and self._chars_held() > OPEN_CHARS_MAX:
            self._too_long()
        items, self._items = self._items, None
        return [] if items is None else items

    def until(self) -> Until:
        if not self._brackets or self.error is not None:
            return AT_ONCE
        if self._stack:  # else it is prose, as it mostly is
            state = self._after_string if self._state is JsonItems._in_string else self._state
            if state is JsonItems._elements or state is JsonItems._bare:
                return AT_ONCE  # what has no bracket is no item, but it is given
        return "]}", OPEN_CHARS_MAX + 1 - self._chars_held()

    def _chars_held(self) -> int:
        return self.chars if self._unread is None else max(self.chars, self._unread.chars)

    def _too_long(self) -> None:
        if self.chars > OPEN_CHARS_MAX:
            text = self.take()
        else:
            text, self._unread = self.unread(), None
        if self.error is None:
            self.error = too_long("JSON", text, OPEN_CHARS_MAX)

    def finish(self, truncated: bool = False) -> list[Any]:
        if self.error is not None:
            return []
        if not truncated and self._undecided():
            self._back_to_prose(0)
        if self._state is JsonItems._done:
            return []
        if truncated and not (self._list_closed and not self._stack):
            self.error = cut_off("complete JSON", self.take() or self.unread())
        elif not self.seen:
            text = self.unread()
            expected = "a JSON value" if self._whole else "JSON items (an array, or JSON lines)"
            self.error = ParseError(
                f"Expected {expected}, but the text has none: {shorten(text)}. "
                "Show the form in the prompt, or use an engine with guided decoding.",
                text=text,
            )
        elif self._stack:
            text = self.take()
            self.error = ParseError(
                f"Expected {self._stack[::-1]!r} to close the JSON, but the text "
                f"ended: {shorten(text)}.",
                text=text,
            )
        return []

    def unread(self) -> str:
        """The text so far, as long as no JSON was seen."""
        return "" if self._unread is None else self._unread.so_far()

    # States. Outside JSON, and where it may begin:

    def _prose(self, text: str, at: int) -> int:
        end = at
        if text[at] == "\n":
            self._before = ""
            return at + 1
        if text[at] != "{":  # where each item is a line there is mostly nothing to search
            found = _IN_PROSE.search(text, at)
            end = len(text) if found is None else found.start()
        if self._fields is not None and end < len(text) and not self._whole:
            flat_end = flat_end_of(text, end)
            name = first_name_of(text, end) if flat_end else None
            if name in self._fields and name != self._wrapper:
                self._first = self._wraps = False
                return self._flat(text, end, flat_end)
        line = text.rfind("\n", at, end) + 1
        self._before = text[line or at : end].rstrip()[-1:] or ("" if line else self._before)
        if end == len(text):
            return end
        at = end
        self._stack = _CLOSER[text[at]]
        self._capture(at)
        self._state = JsonItems._opened_object if text[at] == "{" else JsonItems._opened_array
        return at + 1

    def _opened_object(self, text: str, at: int) -> int:
        found = _VISIBLE.search(text, at)
        if found is None:
            return len(text)
        at = found.start()
        if text[at] == '"':
            self._first = True
            self._state = JsonItems._name_string
            return at + 1
        if text[at] != "}":
            return self._back_to_prose(at)
        if self._whole:
            self._skip(floor=0, emits=True)
            return at
        return self._close_empty(at)

    def _opened_array(self, text: str, at: int) -> int:
        found = _VISIBLE.search(text, at)
        if found is None:
            return len(text)
        at = found.start()
        if self._whole:
            if ARRAY not in self._starts or text[at] not in OBJECT + ARRAY + SCALAR + "]":
                return self._back_to_prose(at)
            self._skip(floor=0, emits=True)
        elif text[at] == "]":
            return self._close_empty(at)
        elif text[at] in self._starts:
            self._open_list()
        elif ARRAY in self._starts and text[at] in OBJECT + SCALAR:
            self._skip(floor=0, emits=True)
        else:
            return self._back_to_prose(at)
        return at

    # In an object at the top, which is an item, or a wrapper, or not decided yet:

    def _members(self, text: str, at: int) -> int:
        """Between members. What is no bracket or quote is a comma or a value without them."""
        found = _IN_JSON.search(text, at)
        if found is None:
            return len(text)
        at = found.start()
        if text[at] == '"':
            self._state = JsonItems._name_string
        elif text[at] == "}":
            self._stack = self._stack[:-1]
            if self._capturing:
                self._emit(text, at + 1)
            self._state = JsonItems._prose
        else:
            self._fail(text, at)
        return at + 1

    def _name_string(self, text: str, at: int) -> int:
        name = self._name
        if name is None:
            name = self._name = OpenText()
        if self._escaped:
            self._escaped = False
            name.add(text[at])
            return at + 1
        found = _IN_NAME.search(text, at)
        end = len(text) if found is None else found.start()
        name.add(text[at:end])
        if self._first and (
            name.chars > FIRST_NAME_CHARS_MAX or (found is not None and found[0] == "\n")
        ):
            return self._back_to_prose(end)
        if found is None:
            return end
        if found[0] == '"':
            self._state = JsonItems._colon
        else:
            self._escaped = found[0] == "\\"
            name.add(found[0])
        return end + 1

    def _colon(self, text: str, at: int) -> int:
        found = _VISIBLE.search(text, at)
        if found is None:
            return len(text)
        at = found.start()
        if text[at] != ":":
            return self._back_to_prose(at) if self._first else self._fail(text, at)
        assert self._name is not None, "it stands before the colon"
        name = self._name.take()
        self._wraps = name == self._wrapper
        if self._fields is None:
            # The first value decides, and this may be one of the others.
            is_item = not self._first
        else:
            is_item = name in self._fields
        if self._whole or (is_item and self._capturing and not self._wraps):
            self._skip(floor=0, emits=True)
        else:
            self._state = JsonItems._value
        self.seen = True
        self._first = False
        return at + 1

    def _value(self, text: str, at: int) -> int:
        found = _VISIBLE.search(text, at)
        if found is None:
            return len(text)
        at = found.start()
        if text[at] == "[":
            self._stack += "]"
            self._state = JsonItems._value_array
            return at + 1
        self._skip(floor=1, emits=False)
        if text[at] == '"':
            return self._string(at, JsonItems._members)
        if text[at] != "{":
            self._state = JsonItems._members
        return at

    def _value_array(self, text: str, at: int) -> int:
        found = _VISIBLE.search(text, at)
        if found is None:
            return len(text)
        at = found.start()
        if text[at] in self._starts or (
            text[at] == "]" and (self._wraps or self._fields is not None)
        ):
            self._open_list()
        else:
            self._skip(floor=1, emits=False)
        return at

    # In an array of items:

    def _elements(self, text: str, at: int) -> int:
        found = _ELEMENT.search(text, at)
        if found is None:
            return len(text)
        at = found.start()
        mark = text[at]
        if mark == "]":
            return self._close_list(at)
        if mark == "}":
            return self._fail(text, at)
        if mark == "[" and ARRAY not in self._starts:
            if len(self._stack) == DEPTH_MAX:
                return self._fail(text, at)
            # An array in the array, though items are none: its elements are the items.
            self._stack += "]"
            return at + 1
        if mark == "{" and (flat_end := flat_end_of(text, at)):
            return self._flat(text, at, flat_end)
        self._capture(at)
        if mark == '"':
            return self._string(at, JsonItems._elements)
        if mark in "{[":
            self._skip(floor=len(self._stack), emits=True)
        else:
            self._state = JsonItems._bare
        return at

    def _bare(self, text: str, at: int) -> int:
        found = _BARE_END.search(text, at)
        if found is None:
            return len(text)
        self._emit(text, found.start())
        self._state = JsonItems._elements
        return found.start()

    # In a value whose inside does not matter here:

    def _inside(self, text: str, at: int) -> int:
        found = _IN_JSON.search(text, at)
        if found is None:
            return len(text)
        at = found.start()
        mark = text[at]
        if mark == '"':
            return self._string(at, JsonItems._inside)
        if mark in _CLOSER:
            if len(self._stack) == DEPTH_MAX:
                return self._fail(text, at)
            self._stack += _CLOSER[mark]
            return at + 1
        if mark != self._stack[-1]:
            return self._fail(text, at)
        self._stack = self._stack[:-1]
        if len(self._stack) == self._floor:
            if self._emits:
                self._emit(text, at + 1)
            self._state = self._around()
        return at + 1

    def _in_string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        found = _IN_STRING.search(text, at)
        if found is None:
            return len(text)
        if found[0] == "\\":
            self._escaped = True
        else:
            self._state = self._after_string
            if self._state is JsonItems._elements:
                self._emit(text, found.end())
        return found.end()

    def _done(self, text: str, at: int) -> int:
        """The one value that was asked for has been given; the rest is talk."""
        return len(text)

    # What states do:

    def _flat(self, text: str, at: int, end: int) -> int:
        """An item that is all there and holds no brackets: the same, without going through it."""
        self._before = ""
        self.seen = True
        self._give(text[at:end], end)
        return end

    def _around(self) -> _State:
        """The state in the innermost bracket that is open."""
        if not self._stack:
            return JsonItems._done if self._whole else JsonItems._prose
        return JsonItems._members if self._stack[-1] == "}" else JsonItems._elements

    def _undecided(self) -> bool:
        """What has begun may still be prose."""
        if not self._stack:
            return False
        if self._state in (JsonItems._name_string, JsonItems._colon):
            return self._first
        return self._state in (JsonItems._opened_object, JsonItems._opened_array)

    def _string(self, at: int, after: _State) -> int:
        self._state = JsonItems._in_string
        self._after_string = after
        return at + 1

    def _skip(self, *, floor: int, emits: bool) -> None:
        self._floor = floor
        self._emits = emits
        self._before = ""
        self.seen = True
        self._state = JsonItems._inside

    def _open_list(self) -> None:
        """These are items: what is around them was none."""
        self._drop()
        self._before = ""
        self.seen = True
        self._list_closed = False
        self._state = JsonItems._elements

    def _close_empty(self, at: int) -> int:
        """Brackets around nothing, which are prose too: `items[]`, "- [ ] to do"."""
        return self._close_list(at) if self._before in _BEFORE_EMPTY else self._back_to_prose(at)

    def _close_list(self, at: int) -> int:
        self._drop()
        self.seen = True
        self._stack = self._stack[:-1]
        self._list_closed = True
        self._state = self._around()
        return at + 1

    def _back_to_prose(self, at: int) -> int:
        self._drop()
        self._name = None
        self._escaped = False
        self._stack = ""
        self._state = JsonItems._prose
        return at

    def _capture(self, at: int) -> None:
        self._capturing = True
        self._mark = at

    def _drop(self) -> None:
        self._capturing = False
        self.take()

    def _emit(self, text: str, end: int) -> None:
        self.add(text[self._mark : end])
        self._give(self.take(), end)
        self._capturing = False

    def _give(self, written: str, end: int) -> None:
        if self._decode is None:
            item = JsonText(written)
            item.end = self._read + end
        else:
            try:
                item = self._decode(written)
            except ParseError as error:
                self.error = ParseError(f"Item {self._count + 1}: {error}", text=error.text)
                return
        self._count += 1
        self.settled = self._read + end
        self._list_closed = False
        if self._items is None:
            self._items = [item]
        else:
            self._items.append(item)

    def _fail(self, text: str, at: int) -> int:
        held = text[self._mark if self._capturing else at : at + 1]
        held = self.take() + held
        self._capturing = False
        due = self._stack[-1]
        self.error = ParseError(
            f"Expected JSON, where {due!r} would close what is open, but got {text[at]!r} "
            f"(nesting {len(self._stack)} of at most {DEPTH_MAX}): {shorten(held)}.",
            text=held,
        )
        return at + 1


class JsonWhole(JsonItems):
    """The first JSON object (or array, if `starts` has `[`) in the text is the one item.

    It is given when it closes. What comes after it is not read, so it may be cut off by length.
    """

    __slots__ = ()

    def __init__(self, *, starts: str = OBJECT, decode: Callable[[str], Any] | None = None) -> None:
        super().__init__(starts=starts, decode=decode)
        self._whole = True


_State = Callable[[JsonItems, str, int], int]
