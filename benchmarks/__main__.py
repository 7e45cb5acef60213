"""Run every benchmark and print what was promised beside what was measured.

    python -m benchmarks [--quick] [--only overhead,structure] [--strict]

Each report is printed as it is done and saved as JSON under `results/`; the table of all targets
comes last. `--strict` makes a missed target, or a benchmark that broke, the exit status 1.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback

from .report import TARGET_HEADER, Report, Target, machine, table

BENCHMARKS = (
    "structure",
    "prewarm",
    "chunks",
    "overhead",
    "orchestrators",
    "requests",
    "goodput",
    "routers",
)
"""Modules with `measure(quick) -> Report`, the short ones first."""


def run_one(name: str, quick: bool) -> Report:
    """One benchmark; a broken one gives a report whose only target is a miss."""
    try:
        module = importlib.import_module(f".{name}", __package__)
        report: Report = module.measure(quick=quick)
    except Exception as error:
        traceback.print_exc()
        broken = Target(f"{name} ran to its end ({type(error).__name__})", 0.0, 1.0, "at least")
        report = Report(name=name, title=f"{name} broke", targets=[broken])
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run all benchmarks.")
    parser.add_argument("--quick", action="store_true", help="less precise, a few minutes")
    parser.add_argument("--only", help=f"by comma, of {','.join(BENCHMARKS)}")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark named {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    targets: list[Target] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        report = run_one(name, options.quick)
        report.save()
        targets += report.targets
        print(report.text(), flush=True)
    print(table(TARGET_HEADER, [target.row() for target in targets]))
    print(f"\n{machine()}")
    return int(options.strict and not all(target.met for target in targets))


if __name__ == "__main__":
    sys.exit(main())
