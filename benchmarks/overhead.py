"""What does moving an item through a stage cost?

N items are made one by one, each goes through three trivial async stages, and the results are
gathered in order. Measured per contender: CPU per item and stage, how that grows with N, and peak
memory. The limit is asyncio by hand with one task per item.

    python -m benchmarks.overhead [--quick] [--only handwritten,alto]
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence

from . import requests
from .contenders import BASELINE, INTERPRETED, MODULES, SUBJECT
from .measure import Measured, difference, form, interleaved, ratio
from .report import Report, Spread, Target, machine

STAGES = 3
ITEMS = 2_000
ITEMS_FEW = 200
ITEMS_MANY = 100_000

CPU_RATIO_MAX = 8.0
GROWTH_MAX = 1.3
MEMORY_ABOVE_MAX_MB = 20.0

BUDGET_S = 2.0
"""A probe repeats its fan-out until this much time has gone, at least once."""

SLOW = frozenset({"llamaindex"})
"""Contenders that take minutes for one fan-out of `ITEMS`: measured once."""


def cpu_us(runs: Sequence[Measured], items: int) -> list[float]:
    """CPU microseconds per item and stage, one number a run: the median of its rounds."""
    return [statistics.median(run["cpu_s"]) / items / STAGES * 1e6 for run in runs]


def peaks(found: Mapping[str, list[Measured]]) -> dict[str, list[float]]:
    return {name: [run["peak_mb"] for run in runs] for name, runs in found.items()}


def collect(names: Sequence[str], quick: bool) -> dict[int, dict[str, list[Measured]]]:
    """Runs by size and contender. All sizes of a contender follow each other in every repeat: how
    cost grows with the size is a ratio too, and is only as good as what its sides have in common.
    """
    repeats, budget_s = (2, BUDGET_S / 4) if quick else (5, BUDGET_S)
    sizes = {
        ITEMS_FEW: names,
        ITEMS: [name for name in names if not (quick and name in SLOW)],
        ITEMS_MANY: [name for name in names if name in (BASELINE, SUBJECT, INTERPRETED)],
    }
    plan: dict[str, tuple[str, ...]] = {}
    times: dict[str, int] = {}
    for name in names:
        for items, taking_part in sizes.items():
            if name in taking_part:
                plan[f"{name} {items}"] = ("fanout", name, str(items), str(budget_s))
                times[f"{name} {items}"] = 1 if name in SLOW else repeats
    found = interleaved(plan, times)
    return {
        items: {name: found[f"{name} {items}"] for name in taking_part}
        for items, taking_part in sizes.items()
    }


def targets(
    medium: Mapping[str, list[float]],
    many: Mapping[str, list[float]],
    memory: Mapping[str, list[float]],
    forms: Sequence[str] = (SUBJECT,),
) -> list[Target]:
    """What is promised of ALTO, with what was measured: CPU for each of its forms."""
    return [
        *(
            Target(
                f"CPU per item and stage, {ITEMS:,} items, {name}, times hand-written",
                ratio(medium, name),
                CPU_RATIO_MAX,
                unit="x",
            )
            for name in forms
        ),
        Target(
            f"CPU per item and stage, {ITEMS_MANY:,} items, times that of {ITEMS:,}",
            ratio({"many": many[SUBJECT], "medium": medium[SUBJECT]}, "many", "medium"),
            GROWTH_MAX,
            unit="x",
        ),
        Target(
            f"peak memory, {ITEMS:,} items, above hand-written",
            difference(memory, SUBJECT),
            MEMORY_ABOVE_MAX_MB,
            unit="MB",
        ),
    ]


def measure(quick: bool = False, only: Sequence[str] | None = None) -> Report:
    """Run the fan-out benchmark. `quick` repeats less and spares the slow ones the larger sizes."""
    names = list(only or MODULES)
    sizes = collect(names, quick)
    cpu = {
        size: {name: cpu_us(found.get(name, []), size) for name in names}
        for size, found in sizes.items()
    }
    return Report(
        name="overhead",
        title=f"CPU and memory of a fan-out through {STAGES} stages and back",
        header=(
            "contender",
            *(f"us per item and stage, {size:,}" for size in sizes),
            f"times {BASELINE}, {ITEMS:,}",
            f"peak MB, {ITEMS:,}",
            "of it loaded",
        ),
        rows=[row(name, cpu, sizes[ITEMS].get(name, [])) for name in names],
        targets=(
            targets(
                cpu[ITEMS],
                cpu[ITEMS_MANY],
                peaks(sizes[ITEMS]),
                [each for each in (SUBJECT, INTERPRETED) if each in names],
            )
            if {BASELINE, SUBJECT} <= set(names)
            else []
        ),
        notes=[f"{SUBJECT} is {form()}", machine()],
        raw={str(size): found for size, found in sizes.items()},
    )


def row(
    name: str, cpu: Mapping[int, Mapping[str, list[float]]], medium: Sequence[Measured]
) -> tuple[str, ...]:
    """One contender's line; a dash where it was not measured."""

    def cell(values: Sequence[float], digits: int = 2) -> str:
        return Spread.of(values).text(digits) if values else "-"

    times = ratio(cpu[ITEMS], name) if BASELINE in cpu[ITEMS] else math.nan
    return (
        name,
        *(cell(by_name[name]) for by_name in cpu.values()),
        "-" if math.isnan(times) else f"{times:,.1f}",
        cell([run["peak_mb"] for run in medium], 1),
        cell([run["loaded_mb"] for run in medium], 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--only", help="contenders, by comma", type=lambda text: text.split(","))
    options = parser.parse_args()
    for benchmark in (measure, requests.measure):
        report = benchmark(quick=options.quick, only=options.only)
        report.save()
        print(report.text())


if __name__ == "__main__":
    main()
