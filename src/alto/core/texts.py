"""Pieces of LM text that are types of their own: strings with a name.

They stand apart from the cutters that make them, since a subclass of `str` cannot be compiled
(tools/native.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class _Text(str):
    """A piece of LM text that is a type of its own."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Let it be a field of a pydantic model; pydantic asks for plain dicts."""
        made = {"type": "no-info", "function": cls}
        return {"type": "function-after", "function": made, "schema": handler(str)}


class Sentence(_Text):
    """One sentence of LM text, with its stop and closing quotes."""

    __slots__ = ()


class Line(_Text):
    """One line of LM text that is not blank."""

    __slots__ = ()


class Paragraph(_Text):
    """Lines of LM text between blank lines; its inner line breaks are kept."""

    __slots__ = ()


class JsonText(str):
    """The raw JSON of one item; `end` is where it ended in the whole text."""

    __slots__ = ("end",)
    end: int
