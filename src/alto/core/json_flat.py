"""JSON objects that are all there and hold no others: read at once, without going through them.

Most items that an LM writes are such objects, and most come with their last bracket.
"""

from __future__ import annotations

import re
from typing import Final

FIRST_NAME_CHARS_MAX: Final = 200
"""A string behind `{` that is longer, or has a line break, was prose."""

_PLAIN = r'[^"\\{}\[\]]*'
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_MEMBERS = rf"{_PLAIN}(?:{_STRING}{_PLAIN})*}}"
_NAME = rf'[ \t\r\n]*"([^"\\\n]{{0,{FIRST_NAME_CHARS_MAX}}})"[ \t\r\n]*:'
_FLAT = re.compile(rf"{{{_MEMBERS}", re.DOTALL)
_NAMED = re.compile(rf"{{{_NAME}")


def flat_end_of(text: str, at: int) -> int:
    """Where the object ends that begins at `at`, if all of it is there and no bracket is in it but
    in strings; else 0."""
    end = text.find("}", at) + 1
    inside = text[at + 1 : end]
    if "\\" in inside or "{" in inside or "[" in inside or "]" in inside or inside.count('"') % 2:
        found = _FLAT.match(text, at) if end else None
        return 0 if found is None else found.end()
    return end


def first_name_of(text: str, at: int) -> str | None:
    """The first name in what begins at `at`, of which all is there; None if it is no object."""
    if text[at] == "{" and text[at + 1] == '"':
        end = text.find('"', at + 2)
        name = text[at + 2 : end]
        plain = len(name) <= FIRST_NAME_CHARS_MAX and "\\" not in name and "\n" not in name
        if plain and text[end + 1] == ":":  # as nearly always: the same without a pattern
            return name
    named = _NAMED.match(text, at)
    return None if named is None else named[1]
