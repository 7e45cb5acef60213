"""Calls as values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from alto.core.calls import Call, asked


def test_a_call_asked_again_differs_in_what_is_asked_and_by_whom_only() -> None:
    told: dict[str, Any] = {field.name: object() for field in fields(Call)}
    template = Call(**told)
    own: dict[str, Any] = {
        name: object()
        for name in ("messages", "arguments", "path", "request", "attempt", "deadline")
    }
    assert asked(template, **own) == Call(**{**told, **own})
