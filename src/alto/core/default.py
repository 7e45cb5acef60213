"""What stands in for the output of a stage that failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Default:
    """`on_error=Default(value)`: the value that stands in for a failed invocation's output. For a
    stage that returns a `Stream`, `value` is a list of items put after those already given."""

    value: Any
