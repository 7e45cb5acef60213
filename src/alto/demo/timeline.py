"""A request's timeline as a picture: which stage worked on what, and when, in one SVG file.

Two runs of the same request stand one above the other on one scale of time: streaming, and with a
barrier after each stage. A bar is one invocation; bars of a stage that overlap in time lie in
lanes. A line marks the first verdict and the last.

The SVG is written by hand: no library, no script, no font but the reader's own. It follows the
reader's light or dark theme, and brings its own background for pages whose theme the browser does
not know.

Always true:
    T1  the same spans give the same bytes
    T2  two bars of one lane do not overlap, but for ticks and what lies on the last lane
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 920
_LEFT = 92
_RIGHT = 26
_LANE = 9
_LANE_GAP = 2
_STAGE_GAP = 9
_HEADER = 74
_TITLE = 34
_PANEL_GAP = 20
_AXIS = 40

# Lanes beyond this lie on the last one: a stage of fifty claims keeps its shape.
LANES_MAX = 14

# A bar narrower than this is a tick, not a length. About how wide a letter of a label is.
_TICK = 5.0
_LETTER = 6.4

# Okabe and Ito's colours, told apart by colour-blind readers too, on white and on near-black.
_COLOURS = ("#0072b2", "#d55e00", "#8a8f98", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

_STYLE = """
.card{fill:#ffffff;stroke:#d0d7de}.ink{fill:#1f2328}.soft{fill:#59636e}
.grid{stroke:#d0d7de;stroke-width:1}.mark{stroke:#1f2328;stroke-width:1.2;stroke-dasharray:3 3}
text{font-family:system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;font-size:12px}
.head{font-size:17px;font-weight:600}.panel{font-size:13px;font-weight:600}
@media (prefers-color-scheme:dark){.card{fill:#0d1117;stroke:#3d444d}.ink{fill:#f0f6fc}
.soft{fill:#9198a1}.grid{stroke:#3d444d}.mark{stroke:#f0f6fc}}
""".strip()


@dataclass(frozen=True, slots=True)
class Span:
    """One invocation: a stage at a path, from its start to its end, in seconds of the request."""

    stage: str
    path: tuple[int, ...]
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Run:
    """A request as it was run once."""

    title: str
    spans: Sequence[Span]

    @property
    def end(self) -> float:
        return max((span.end for span in self.spans), default=0.0)

    def ends_of(self, stage: str) -> list[float]:
        """When the invocations of a stage were done, the soonest first."""
        return sorted(span.end for span in self.spans if span.stage == stage)


def stages_of(runs: Iterable[Run]) -> list[str]:
    """The stages in the order in which they first began."""
    first: dict[str, float] = {}
    for run in runs:
        for span in run.spans:
            first[span.stage] = min(span.start, first.get(span.stage, span.start))
    return sorted(first, key=lambda stage: first[stage])


def lanes_of(spans: Iterable[Span]) -> list[list[Span]]:
    """Put spans into as few lanes as need be, those that began first on top."""
    lanes: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: (span.start, span.path)):
        free = next((lane for lane in lanes if lane[-1].end <= span.start), None)
        if free is None:
            lanes.append([span])
        else:
            free.append(span)
    return lanes


def svg(
    headline: str,
    caption: str,
    runs: Sequence[Run],
    *,
    stages: Sequence[str] = (),
    marked: str = "verify",
) -> str:
    """The picture. `stages` is their order from the top, `marked` the stage whose first and last
    ends have lines."""
    stages = stages or stages_of(runs)
    colours = {stage: _COLOURS[index % len(_COLOURS)] for index, stage in enumerate(stages)}
    scale = _Scale(max((run.end for run in runs), default=0.0) or 1.0)
    top = float(_HEADER)
    body: list[str] = []
    for run in runs:
        panel, top = _panel(run, stages, colours, scale, top, marked)
        body += panel
        top += _PANEL_GAP
    bottom = top - _PANEL_GAP
    height = bottom + _AXIS
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
            f'width="{WIDTH}" height="{height:g}" role="img" aria-label="{escape(headline)}">',
            f"<style>{_STYLE}</style>",
            f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" '
            'rx="10"/>',
            _text(24, 34, headline, "head ink"),
            _text(24, 55, caption, "soft"),
            *_axis(scale, bottom),
            *body,
            "</svg>\n",
        ]
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """Seconds to points."""

    end: float

    def x(self, seconds: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * seconds / self.end

    def ticks(self) -> list[float]:
        """Round moments, four to nine of them."""
        step = next(
            step * 10**power
            for power in range(-6, 9)
            for step in (1, 2, 5)
            if self.end / (step * 10**power) <= 9
        )
        return [index * step for index in range(int(self.end / step) + 1)]


def _panel(
    run: Run, stages: Sequence[str], colours: dict[str, str], scale: _Scale, top: float, marked: str
) -> tuple[list[str], float]:
    """One run, drawn from `top` on; and where it ends."""
    bars: list[str] = []
    y = top + _TITLE
    for stage in stages:
        lanes = _drawn_lanes([span for span in run.spans if span.stage == stage], scale)
        height = max(len(lanes), 1) * (_LANE + _LANE_GAP) - _LANE_GAP
        bars.append(_text(_LEFT - 12, y + height / 2 + 4, stage, "soft", anchor="end"))
        for index, lane in enumerate(lanes):
            lane_y = y + index * (_LANE + _LANE_GAP)
            bars += [_bar(span, lane_y, colours[stage], scale) for span in lane]
        y += height + _STAGE_GAP
    bottom = y - _STAGE_GAP
    return [
        *_grid(scale, top + _TITLE - 6, bottom + 6),
        _text(24, top + 16, run.title, "panel ink"),
        *_marks(run, marked, scale, top, bottom),
        *bars,
    ], bottom


def _drawn_lanes(spans: Sequence[Span], scale: _Scale) -> list[list[Span]]:
    """The lanes of a stage. One that takes no time to speak of is a row of ticks."""
    if all(scale.x(span.end) - scale.x(span.start) < _TICK for span in spans):
        return [list(spans)] if spans else []
    lanes = lanes_of(spans)
    folded = [span for lane in lanes[LANES_MAX - 1 :] for span in lane]
    return lanes[: LANES_MAX - 1] + ([folded] if folded else [])


def _bar(span: Span, y: float, colour: str, scale: _Scale) -> str:
    x = scale.x(span.start)
    width = max(scale.x(span.end) - x - 0.8, 2.0)
    where = ".".join(str(index + 1) for index in span.path)
    title = f"{span.stage} {where}".strip() + f": {span.start:.2f} to {span.end:.2f} s"
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_LANE}" rx="2" '
        f'fill="{colour}"><title>{escape(title)}</title></rect>'
    )


def _marks(run: Run, marked: str, scale: _Scale, top: float, bottom: float) -> list[str]:
    """Lines where the first and the last verdict were there."""
    ends = run.ends_of(marked)
    if not ends:
        return []
    first, last = ends[0], ends[-1]
    labels = [(first, f"first verdict {first:.2f} s"), (last, f"last verdict {last:.2f} s")]
    if scale.x(last) - scale.x(first) < len(labels[1][1]) * _LETTER + 12:
        # Two labels would run into each other.
        labels = [(first, f"verdicts {first:.2f} to {last:.2f} s"), (last, "")]
    # A label ends at its line, so that the last one stays inside, unless the title is in the way.
    title_end = 24 + len(run.title) * (_LETTER + 1)
    drawn = []
    for seconds, label in labels:
        x = scale.x(seconds)
        fits = x - 6 - len(label) * _LETTER > title_end
        drawn.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 5:g}" y2="{bottom:g}"/>'
        )
        if label and fits:
            drawn.append(_text(x - 6, top + 16, label, "ink", anchor="end"))
        elif label:
            drawn.append(_text(max(x, title_end) + 6, top + 16, label, "ink"))
    return drawn


def _grid(scale: _Scale, top: float, bottom: float) -> list[str]:
    return [
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:g}" y2="{bottom:g}"/>'
        for x in map(scale.x, scale.ticks())
    ]


def _axis(scale: _Scale, bottom: float) -> list[str]:
    return [
        _text(scale.x(seconds), bottom + 22, f"{seconds:g} s", "soft", anchor="middle")
        for seconds in scale.ticks()
    ]


def _text(x: float, y: float, content: str, classes: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}" text-anchor="{anchor}">'
        f"{escape(content)}</text>"
    )
