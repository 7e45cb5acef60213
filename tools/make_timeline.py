"""Draw the picture of one request, streaming beside a barrier, for the README.

    python tools/make_timeline.py [OUT]

Runs the demo's pipeline both ways on virtual time, with its recorded answers at the speed of the
demo's GPU profile, and writes an SVG (default: docs/images/timeline.svg). Search takes no time
there: a thousandth of a second would not be seen.

Always true: the same code and data give the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from alto.demo.app import BARRIER, PROFILE, STREAMING, plan, run_quietly
from alto.demo.factcheck import STAGES
from alto.demo.timeline import Run, svg
from alto.testing import loop

OUT = Path(__file__).resolve().parent.parent / "docs" / "images" / "timeline.svg"

TITLES = {STREAMING: "Streaming between stages", BARRIER: "A barrier after each stage"}


def picture() -> str:
    """The whole SVG."""
    chosen = plan()
    runs = [Run(TITLES[title], loop.run(run_quietly(chosen, title)).spans) for title in TITLES]
    return svg(
        "One question: answered, and every claim of the answer checked",
        f"A bar is one call of a stage. {chosen.question} Recorded answers at the speed of "
        f"{PROFILE}.",
        runs,
        stages=STAGES,
    )


def main(arguments: list[str]) -> int:
    out = Path(arguments[0]) if arguments else OUT
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(picture(), encoding="utf-8")
    print(f"{out}: {out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
