"""What does a streamed LM chunk cost over HTTP? `http_client.py`, held to its target.

At real pace (50 streams of 100 chunks a second) a chunk read by `alto.OpenAI` may cost at most
twice what it costs a hand-written reader with msgspec.

    python -m benchmarks.chunks [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from .report import Report, Target

LIMIT = "raw"
SUBJECT = "alto"
CONTENDERS = (LIMIT, SUBJECT, "aiohttp", "httpx", "openai")
PACED_RATIO_MAX = 2.0


def measure(quick: bool = False) -> Report:
    """Run the HTTP benchmark in a process of its own and judge it."""
    rounds, seconds = ("1", "2") if quick else ("3", "3")
    script = Path(__file__).with_name("http_client.py")
    options = ["--json", "--only", ",".join(CONTENDERS), "--rounds", rounds, "--seconds", seconds]
    done = subprocess.run(
        [sys.executable, str(script), *options], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"benchmarks/http_client.py {' '.join(options)} ended with {done.returncode}: "
            f"{done.stderr[-2000:]}"
        )
    cost: dict[str, dict[str, float]] = json.loads(done.stdout)
    limit = cost[LIMIT]
    ratio = cost[SUBJECT]["paced"] / limit["paced"] if SUBJECT in cost else float("nan")
    return Report(
        name="chunks",
        title="CPU of a streamed LM chunk, over HTTP",
        header=("client", "paced, us a chunk", "times raw", "burst, us a chunk", "times raw"),
        rows=[
            (
                name,
                f"{row['paced']:.1f}",
                f"{row['paced'] / limit['paced']:.1f}",
                f"{row['burst']:.1f}",
                f"{row['burst'] / limit['burst']:.1f}",
            )
            for name, row in sorted(cost.items(), key=lambda entry: entry[1]["paced"])
        ],
        targets=[
            Target(
                "a streamed LM chunk at real pace, times a raw reader with msgspec",
                ratio,
                PACED_RATIO_MAX,
                unit="x",
            )
        ],
        raw=dict(cost),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    report = measure(quick=parser.parse_args().quick)
    report.save()
    print(report.text())


if __name__ == "__main__":
    main()
