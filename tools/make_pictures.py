"""Draw the picture of docs/concepts.md: the rule of ancestry.

    python tools/make_pictures.py [FOLDER]          (default: docs/images)

`rule.svg` is drawn from a run: every item is its own path, every stage notes at which path it runs
and what it is given, and that is what the picture shows.

Always true: the same code gives the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import alto
from alto import Stream, pipeline, stage
from alto.testing import loop

OUT = Path(__file__).resolve().parent.parent / "docs" / "images"
SHAPE = (2, 1)
"""How many claims each sentence has."""

Place = tuple[int, ...]


@dataclass(frozen=True)
class Question:
    at: Place = ()


@dataclass(frozen=True)
class Line:
    at: Place


@dataclass(frozen=True)
class Claim:
    at: Place


@dataclass(frozen=True)
class Ran:
    """One invocation: where, and the places of the items that it was given."""

    at: Place
    items: tuple[Place, ...]
    gathered: tuple[Place, ...] = ()


@stage
async def sentences(question: Question) -> AsyncIterator[Line]:
    for k in range(len(SHAPE)):
        yield Line((*question.at, k))


@stage
async def claims(sentence: Line) -> AsyncIterator[Claim]:
    for k in range(SHAPE[sentence.at[-1]]):
        yield Claim((*sentence.at, k))


@stage
async def check(claim: Claim) -> Ran:
    return Ran(alto.current().path, (claim.at,))


@stage
async def relate(question: Question, claim: Claim) -> Ran:
    return Ran(alto.current().path, (question.at, claim.at))


@stage
async def grade(sentence: Line, claims: Stream[Claim]) -> Ran:
    given = tuple([claim.at async for claim in claims])
    return Ran(alto.current().path, (sentence.at,), given)


@stage
async def tally(question: Question, claims: Stream[Claim]) -> Ran:
    given = tuple([claim.at async for claim in claims])
    return Ran(alto.current().path, (question.at,), given)


@pipeline
def rule(question: Question) -> Any:
    lines: Any = sentences(question)
    below: Any = claims(lines)
    return {
        "check(claim: Claim)": check(below),
        "relate(question, claim)": relate(question, below),
        "grade(sentence, claims: Stream)": grade(lines, below),
        "tally(question, claims: Stream)": tally(question, below),
    }


SAYS = {
    "check": ("once for each claim",),
    "relate": ("once for each claim;", "the question is broadcast"),
    "grade": ("once for each sentence,", "with every claim below it"),
    "tally": ("once for each question,", "with every claim below it"),
}

WIDTH, PANEL, TOP, STEP, HEIGHT = 920, 224, 96, 76, 330
STYLE = """
.card{fill:#ffffff;stroke:#d0d7de}.ink{fill:#1f2328}.soft{fill:#59636e}.limb{stroke:#d0d7de}
.node{fill:#ffffff;stroke:#8a8f98}.runs{fill:#0072b2;stroke:#0072b2}.on{fill:#ffffff}
.item{stroke:#e69f00;stroke-width:2.4;stroke-dasharray:5 3;fill:none}
.gather{stroke:#009e73;stroke-width:2.4;fill:none}
text{font-family:system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;font-size:12px}
.head{font-size:11px;font-weight:600;font-family:ui-monospace,Menlo,Consolas,monospace}
@media (prefers-color-scheme:dark){.card{fill:#0d1117;stroke:#3d444d}.ink{fill:#f0f6fc}
.soft{fill:#9198a1}.limb{stroke:#3d444d}.node{fill:#0d1117;stroke:#9198a1}}
""".strip()


def rule_svg() -> str:
    """The rule in four panels."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="For what a stage runs, and what it is given">',
        f"<style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10"/>',
    ]
    for index, (title, ran) in enumerate(loop.run(_run()).items()):
        runs = ran if isinstance(ran, list) else [ran]
        parts += _panel(title, runs, 12 + index * PANEL)
    parts += _legend()
    return "\n".join([*parts, "</svg>\n"])


async def _run() -> dict[str, Any]:
    async with alto.Runtime() as runtime:
        result: dict[str, Any] = await runtime.call(rule, Question())
        return result


def _places() -> dict[Place, tuple[float, float]]:
    """Where each item of the tree stands in a panel."""
    leaves = [(s, c) for s, count in enumerate(SHAPE) for c in range(count)]
    x = {leaf: 38.0 + index * 70.0 for index, leaf in enumerate(leaves)}
    found: dict[Place, tuple[float, float]] = {leaf: (x[leaf], TOP + 2 * STEP) for leaf in leaves}
    for s in range(len(SHAPE)):
        below = [x[leaf] for leaf in leaves if leaf[0] == s]
        found[(s,)] = (sum(below) / len(below), TOP + STEP)
    found[()] = ((found[(0,)][0] + found[(1,)][0]) / 2, TOP)
    return found


def _panel(title: str, runs: list[Ran], left: float) -> list[str]:
    places = {place: (left + x, y) for place, (x, y) in _places().items()}
    drawn = [_text(left + 14, 32, title, "head ink")]
    says = SAYS[title.partition("(")[0]]
    drawn += [_text(left + 14, 50 + 16 * k, line, "soft") for k, line in enumerate(says)]
    for place, (x, y) in places.items():
        if place:
            above = places[place[:-1]]
            drawn.append(f'<line class="limb" x1="{x}" y1="{y}" x2="{above[0]}" y2="{above[1]}"/>')
    for run in runs:
        for item in run.items:
            if item != run.at:
                drawn.append(_arc(places[item], places[run.at], "item"))
        drawn += [_arc(places[item], places[run.at], "gather") for item in run.gathered]
    at = {run.at for run in runs}
    for place, (x, y) in places.items():
        kind, ink = ("runs", "on") if place in at else ("node", "soft")
        name = ".".join(map(str, place)) or "()"
        drawn.append(f'<circle class="{kind}" cx="{x}" cy="{y}" r="15"/>')
        drawn.append(_text(x, y + 4, name, ink, "middle"))
    return drawn


def _arc(start: tuple[float, float], end: tuple[float, float], kind: str) -> str:
    (x1, y1), (x2, y2) = start, end
    bend = 20 if x1 >= x2 else -20
    return (
        f'<path class="{kind}" d="M{x1} {y1} Q{(x1 + x2) / 2 + bend} {(y1 + y2) / 2} {x2} {y2}"/>'
    )


def _legend() -> list[str]:
    y = HEIGHT - 22
    return [
        f'<circle class="runs" cx="34" cy="{y - 4}" r="7"/>',
        _text(48, y, "the stage runs here", "soft"),
        f'<path class="item" d="M190 {y - 4} h28"/>',
        _text(226, y, "an item from further up, broadcast", "soft"),
        f'<path class="gather" d="M446 {y - 4} h28"/>',
        _text(482, y, "gathered, in path order", "soft"),
        _text(660, y, "numbers are paths; () is the request", "soft"),
    ]


def _text(x: float, y: float, content: str, classes: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x}" y="{y}" class="{classes}" text-anchor="{anchor}">{escape(content)}</text>'
    )


def pictures() -> dict[str, str]:
    """Every picture by its file name."""
    return {"rule.svg": rule_svg()}


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else OUT
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pictures().items():
        (folder / name).write_text(text, encoding="utf-8")
        print(f"{folder / name}: {len(text):,} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
