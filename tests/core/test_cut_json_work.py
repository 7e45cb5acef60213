"""How much a cutter of JSON does, counted in bytecodes: a test of the interpreted form alone."""

from __future__ import annotations

import json
import sys
from types import FrameType
from typing import Any

import pytest

from alto.core.json_cut import JsonItems


def steps(text: str, size: int) -> int:
    """How many bytecodes the cutter runs; what it does in C is one search from where it stopped."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    cutter = JsonItems(fields=frozenset({"text", "tags"}))
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for at in range(0, len(text), size):
            cutter.feed(text[at : at + size])
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_work_grows_with_the_text_and_no_faster(size: int) -> None:
    item = json.dumps({"text": "a long one \\ with 'this' " * 4, "tags": [[1], {"a": [{}]}]})
    short, long = ("[" + ",".join([item] * count) + "]" for count in (10, 80))
    assert steps(long, size) < 8.5 * steps(short, size)
    one_short, one_long = ('[{"text":"' + "x, [y] " * count for count in (50, 400))
    assert steps(one_long, size) < 8.5 * steps(one_short, size) + 100
