"""Calls of tools in an answer: from the fragments that are streamed to whole ones.

A fragment has the `index` of its call, and of that call the `id` and the name of the function,
once, and the next characters of its arguments. Some servers give each call whole, and leave the
index out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..core.calls import Delta


def whole_calls(deltas: Iterable[Delta]) -> list[dict[str, Any]]:
    """The calls of an answer, as a message of the OpenAI API has them."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for fragment in delta.tool_calls:
            index = fragment.get("index")
            if not isinstance(index, int):
                index = len(calls) if fragment.get("id") or not calls else len(calls) - 1
            _add(calls.setdefault(index, _empty()), fragment)
    return [calls[index] for index in sorted(calls)]


def _empty() -> dict[str, Any]:
    return {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}


def _add(call: dict[str, Any], fragment: Mapping[str, Any]) -> None:
    call["id"] = call["id"] or fragment.get("id") or ""
    told, function = fragment.get("function") or {}, call["function"]
    function["name"] = function["name"] or told.get("name") or ""
    arguments = told.get("arguments")
    if arguments is not None:
        function["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)


def is_whole(call: Any) -> bool:
    """Whether this is such a call: with the name of a function and its arguments as a text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    return isinstance(function, Mapping) and all(
        isinstance(function.get(key), str) for key in ("name", "arguments")
    )
