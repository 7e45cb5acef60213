"""How much load at the same latency?

    python -m benchmarks.headline [--shape factool] [--processes 2] [--full] [--strict]

Tables are printed, pictures and all numbers are written to `results/`. `--full` (or FULL=1 in the
environment) adds the other profiles, 5 to 16 replicas, and the arrivals of a recorded service.
The same seed gives the same numbers, on any machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from ..report import RESULTS, machine
from .contenders import ENGINE
from .experiment import SHAPES, Outcome, measure
from .full import variants
from .plots import draw
from .reporting import label, report


def measure_all(
    runs: Sequence[tuple[str, dict[str, Any], dict[str, Any]]], processes: int
) -> Iterator[Outcome]:
    """Outcomes in the order of the runs, each when it is there. Fresh processes: nothing is
    inherited but the code."""
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, mp_context=context) as pool,
        ThreadPoolExecutor(max(2, processes)) as threads,
    ):
        found = [
            threads.submit(measure, shape, pool, engine, options) for shape, engine, options in runs
        ]
        for future in found:
            yield future.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=list(SHAPES), help="only this one")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--full", action="store_true", default=bool(os.environ.get("FULL")))
    parser.add_argument("--strict", action="store_true", help="exit 1 if a target is missed")
    given = parser.parse_args()
    shapes = [given.shape] if given.shape else list(SHAPES)
    options = {"seed": given.seed}
    runs = [(shape, ENGINE, options) for shape in shapes]
    if given.full:
        runs += variants(shapes, options)
    outcomes: list[Outcome] = []
    pictures: list[str] = []
    for outcome in measure_all(runs, given.processes):
        print(f"measured {label(outcome)}", file=sys.stderr, flush=True)
        outcomes.append(outcome)
        pictures += [str(path.relative_to(RESULTS.parent)) for path in draw(outcome, RESULTS)]
        made = report("headline", outcomes)
        made.save()  # the full experiment takes hours: what it has found by now is not lost
    made.notes += pictures
    print(made.text())
    print(machine())
    return int(given.strict and not all(target.met for target in made.targets))


if __name__ == "__main__":
    sys.exit(main())
