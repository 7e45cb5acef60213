"""What a benchmark hands back: a table to read, targets with PASS or MISS, numbers for machines.

A `Target` is one promise with the number that was measured for it. A target whose number could not
be measured is a MISS that says so, never left out: what is not measured is not kept.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import timeit
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).resolve().parents[1] / "results"
"""Where reports are saved as JSON; not under version control."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repeated measurements and the range that they fell in."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = sorted(values)
        if not found:
            raise ValueError("a spread of no measurements: expected at least one value")
        return cls(statistics.median(found), found[0], found[-1])

    def text(self, digits: int = 2) -> str:
        """`1.23 (1.10-1.31)`; the median alone where there is no range."""
        middle = f"{self.median:,.{digits}f}"
        if self.low == self.high:
            return middle
        return f"{middle} ({self.low:,.{digits}f}-{self.high:,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: `measured` must be at most, or at least, `limit`. NaN: it was not measured."""

    claim: str
    measured: float
    limit: float
    sense: Literal["at most", "at least"] = "at most"
    unit: str = ""

    @property
    def met(self) -> bool:
        if math.isnan(self.measured):
            return False
        if self.sense == "at most":
            return self.measured <= self.limit
        return self.measured >= self.limit

    def row(self) -> tuple[str, str, str, str]:
        unit = f" {self.unit}" if self.unit else ""
        measured = "not measured" if math.isnan(self.measured) else f"{self.measured:,.2f}{unit}"
        verdict = "PASS" if self.met else "MISS"
        return verdict, self.claim, measured, f"{self.sense} {self.limit:g}{unit}"


TARGET_HEADER = ("", "target", "measured", "limit")


@dataclass(slots=True)
class Report:
    """One benchmark's outcome. `raw` is everything that was measured, for later questions."""

    name: str
    title: str
    header: Sequence[str] = ()
    rows: list[Sequence[str]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The report as plain text for a terminal or a file."""
        parts = [self.title, "=" * len(self.title)]
        if self.rows:
            parts += ["", table(self.header, self.rows)]
        if self.targets:
            parts += ["", table(TARGET_HEADER, [target.row() for target in self.targets])]
        if self.notes:
            parts += ["", *self.notes]
        return "\n".join(parts) + "\n"

    def save(self, folder: Path = RESULTS) -> Path:
        """Write the report as JSON and give the file's path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        body = asdict(self)
        body["targets"] = [
            {**asdict(target), "met": target.met, "measured": _json_number(target.measured)}
            for target in self.targets
        ]
        path.write_text(json.dumps(body, indent=1, default=str) + "\n")
        return path


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else value


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: words to the left, cells that begin with a digit to the right."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    right = [
        all(row[column][:1].isdigit() or row[column] in ("", "-") for row in rows)
        for column in range(len(header))
    ]
    lines = [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def machine() -> str:
    """One line that says how fast this machine was while the run was made."""
    loop_us = min(timeit.repeat("for i in range(1000): x = i + 1", number=20, repeat=5)) / 20 * 1e6
    return (
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; 1,000 turns of an empty loop take {loop_us:.0f} us"
    )
