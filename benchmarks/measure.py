"""Run probes: each number from a fresh process, repeats of all contenders interleaved.

Interleaving matters more than repeating: other load on a machine comes and goes over seconds, and
contenders measured side by side meet the same of it. So a ratio is taken within one repeat, and
the median over repeats is what is reported.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .contenders import BASELINE, INTERPRETED, SUBJECT

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import native  # noqa: E402

Measured = dict[str, Any]
PROBE_TIMEOUT_S = 900.0
"""A probe that takes longer hangs: the slowest contender needs about two minutes."""


class ProbeFailed(RuntimeError):
    """A probe ended without a number. The message has the end of what it wrote."""


def form() -> str:
    """What an installation of ALTO is on this machine: the same rule as in `hatch_build.py`."""
    lacking = native.missing()
    return "compiled" if lacking is None else f"interpreted: this machine lacks {lacking}"


def package_for(arguments: Sequence[str]) -> str | None:
    """The folder from which a probe of ALTO takes it; None: for other contenders."""
    if INTERPRETED in arguments or (SUBJECT in arguments and native.missing() is not None):
        return str(ROOT / "src")
    return str(native.built()) if SUBJECT in arguments else None


def probe(*arguments: str) -> Measured:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.probe", *arguments]
    environment = dict(os.environ)
    try:
        package = package_for(arguments)
    except native.NativeError as error:
        raise ProbeFailed(str(error)) from error
    if package is not None:
        environment["PYTHONPATH"] = package
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as expired:
        raise ProbeFailed(
            f"benchmarks.probe {' '.join(arguments)} gave nothing in {PROBE_TIMEOUT_S:.0f} s"
        ) from expired
    if done.returncode != 0:
        raise ProbeFailed(
            f"benchmarks.probe {' '.join(arguments)} ended with {done.returncode}; frameworks to "
            f"compare with come with `pip install 'alto[bench]'`\n{done.stderr[-2000:]}"
        )
    measured: Measured = json.loads(done.stdout.splitlines()[-1])
    return measured


def interleaved(
    plan: Mapping[str, Sequence[str]], repeats: Mapping[str, int]
) -> dict[str, list[Measured]]:
    """Each contender's measurements: round by round, every contender that still has repeats left.

    A contender whose probe fails has an empty list, and why is written to standard error: one
    framework that is not installed does not cost the run of the others.
    """
    found: dict[str, list[Measured]] = {name: [] for name in plan}
    failed: set[str] = set()
    for turn in range(max(repeats.values(), default=0)):
        for name, arguments in plan.items():
            if turn >= repeats[name] or name in failed:
                continue
            print(f"  {' '.join(arguments)} (repeat {turn + 1})", file=sys.stderr, flush=True)
            try:
                found[name].append(probe(*arguments))
            except ProbeFailed as error:
                failed.add(name)
                found[name] = []
                print(f"  {error}", file=sys.stderr, flush=True)
    return found


def ratio(values: Mapping[str, Sequence[float]], name: str, to: str = BASELINE) -> float:
    """How many times `to` a contender took: the median over repeats that both made. NaN: none."""
    pairs = list(zip(values[name], values[to], strict=False))
    return statistics.median(own / other for own, other in pairs) if pairs else float("nan")


def difference(values: Mapping[str, Sequence[float]], name: str, to: str = BASELINE) -> float:
    """How much more than `to` a contender took: the median over repeats. NaN: none."""
    pairs = list(zip(values[name], values[to], strict=False))
    return statistics.median(own - other for own, other in pairs) if pairs else float("nan")
