"""What does serving 200 verification requests at once cost, above hand-written asyncio?

Every contender serves the same requests (`workload.py`) on the same LM, which writes by the clock
in this process; each reads the LM's words as they come. What a contender spends above the
hand-written version is therefore its own work: moving items, keeping track of them, waiting.

    python -m benchmarks.requests [--quick] [--only handwritten,alto]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence

from .contenders import BASELINE, INTERPRETED, MODULES, SUBJECT
from .measure import Measured, difference, form, interleaved, ratio
from .report import Report, Spread, Target, machine

REQUESTS = 200
CPU_ABOVE_MAX_MS = 1.5
P99_RATIO_MAX = 1.05
MEMORY_ABOVE_MAX_MB = 20.0

REPEATS, REPEATS_QUICK = 7, 5
"""Of each contender. A repeat is some seconds long, and what else a shared machine does then moves
one difference by a third or more: it takes a few for a median that means something."""

SLOW = frozenset({"llamaindex"})
"""Contenders that take half a minute of CPU for one run: measured once."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all do not exceed."""
    ranked = sorted(values)
    rank = -(-len(ranked) * percent // 100)
    return ranked[max(int(rank), 1) - 1]


Columns = dict[str, dict[str, list[float]]]
"""Per measured quantity and contender, one number a run."""


def columns(found: Mapping[str, list[Measured]], count: int) -> Columns:
    def each(read: str) -> dict[str, list[float]]:
        return {name: [float(run[read]) for run in runs] for name, runs in found.items()}

    def latency(percent: float) -> dict[str, list[float]]:
        return {
            name: [percentile(run["latency_s"], percent) for run in runs]
            for name, runs in found.items()
        }

    cpu_ms = {name: [s / count * 1e3 for s in runs] for name, runs in each("cpu_s").items()}
    return {
        "cpu_ms": cpu_ms,
        "p50_s": latency(50),
        "p99_s": latency(99),
        "peak_mb": each("peak_mb"),
        "kb_each": {
            name: [(run["peak_mb"] - run["loaded_mb"]) * 1024 / count for run in runs]
            for name, runs in found.items()
        },
    }


def targets(measured: Columns, forms: Sequence[str] = (SUBJECT,)) -> list[Target]:
    """What is promised of ALTO, with what was measured: CPU for each of its forms."""
    return [
        *(
            Target(
                f"CPU per request, {REQUESTS} at once, {name} above hand-written",
                difference(measured["cpu_ms"], name),
                CPU_ABOVE_MAX_MS,
                unit="ms",
            )
            for name in forms
        ),
        Target(
            f"p99 latency, {REQUESTS} at once, times hand-written",
            ratio(measured["p99_s"], SUBJECT),
            P99_RATIO_MAX,
            unit="x",
        ),
        Target(
            f"peak memory, {REQUESTS} at once, above hand-written",
            difference(measured["peak_mb"], SUBJECT),
            MEMORY_ABOVE_MAX_MB,
            unit="MB",
        ),
    ]


def measure(quick: bool = False, only: Sequence[str] | None = None) -> Report:
    """Run the request benchmark. `quick` repeats less."""
    names = list(only or MODULES)
    repeats = REPEATS_QUICK if quick else REPEATS
    found = interleaved(
        {name: ("requests", name, str(REQUESTS)) for name in names},
        {name: 1 if name in SLOW else repeats for name in names},
    )
    measured = columns(found, REQUESTS)
    report = Report(
        name="requests",
        title=f"{REQUESTS} verification requests at once",
        header=(
            "contender",
            "CPU ms per request",
            "above",
            "p50 s",
            "p99 s",
            "times",
            "peak MB",
            "KB per request",
        ),
        raw=dict(found),
    )
    for name in names:
        if not found[name]:
            report.notes.append(f"{name} gave no numbers in this run.")
            continue
        report.rows.append(
            (
                name,
                Spread.of(measured["cpu_ms"][name]).text(),
                f"{difference(measured['cpu_ms'], name):.2f}" if BASELINE in names else "-",
                f"{statistics.median(measured['p50_s'][name]):.2f}",
                Spread.of(measured["p99_s"][name]).text(),
                f"{ratio(measured['p99_s'], name):.2f}" if BASELINE in names else "-",
                Spread.of(measured["peak_mb"][name]).text(1),
                f"{statistics.median(measured['kb_each'][name]):.0f}",
            )
        )
    if {BASELINE, SUBJECT} <= set(names):
        report.targets = targets(
            measured, [each for each in (SUBJECT, INTERPRETED) if each in names]
        )
    report.notes += [f"{SUBJECT} is {form()}", machine()]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{REPEATS_QUICK} repeats")
    parser.add_argument("--only", help="contenders, by comma", type=lambda text: text.split(","))
    options = parser.parse_args()
    report = measure(quick=options.quick, only=options.only)
    report.save()
    print(report.text())


if __name__ == "__main__":
    main()
