"""The pictures of the headline experiment: two curves and a timeline for each shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .contenders import Span
from .experiment import SHAPES, Outcome
from .load import Point
from .reporting import label

COLOURS = ("#b04a3a", "#d99a3c", "#5b7fa6", "#2f7d4f")
"""One for each contender, in the order of the curves."""


def draw(outcome: Outcome, folder: Path) -> list[Path]:
    """Write all pictures of an outcome; their paths."""
    import matplotlib

    matplotlib.use("svg")
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"headline-{outcome.shape}-{outcome.engine['profile']}-{outcome.engine['replicas']}"
    if outcome.arrivals:
        stem = f"{stem}-{outcome.arrivals}"
    return [
        _curves(outcome, folder / f"{stem}-latency.svg", "mean latency, s", _mean),
        _curves(outcome, folder / f"{stem}-first.svg", "median time to first verdict, s", _first),
        _timelines(outcome, folder / f"{stem}-timeline.svg"),
    ]


def _mean(point: Point) -> float:
    return point.mean_s


def _first(point: Point) -> float:
    return point.first_s


def _curves(outcome: Outcome, path: Path, what: str, value: Callable[[Point], float]) -> Path:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for colour, (name, curve) in zip(COLOURS, outcome.curves.items(), strict=True):
        rates = [point.rate for point in curve.points]
        axes.plot(rates, [value(point) for point in curve.points], "o-", color=colour, label=name)
    if value is _mean:
        axes.axhline(outcome.latency_s, color="#999999", linewidth=0.8, linestyle="--")
    axes.set_xlabel("requests/s")
    axes.set_ylabel(what)
    axes.set_ylim(bottom=0)
    axes.set_title(label(outcome), fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return _save(figure, path)


def _timelines(outcome: Outcome, path: Path) -> Path:
    """One request in each contender: a bar for each LM call, pale until its first token."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    stages = SHAPES[outcome.shape].LM_STAGES
    palette = plt.get_cmap("tab10")
    colours = {stage: palette(at) for at, stage in enumerate(stages)}
    shown = outcome.timelines
    figure, all_axes = plt.subplots(
        len(shown), 1, figsize=(7, 2.2 * len(shown)), sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, (name, spans) in zip(all_axes[:, 0], shown.items(), strict=True):
        _bars(axes, sorted(spans, key=_order(stages)), colours)
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_yticks([])
        axes.invert_yaxis()
    handles = [Patch(color=colours[stage]) for stage in stages]
    figure.legend(handles, stages, loc="outside lower center", ncols=len(stages), fontsize=8)
    all_axes[-1, 0].set_xlabel("seconds after the request came")
    return _save(figure, path)


def _order(stages: tuple[str, ...]) -> Callable[[Span], tuple[int, tuple[int, ...]]]:
    return lambda span: (stages.index(span.stage), span.path)


def _bars(axes: Any, spans: list[Span], colours: dict[str, Any]) -> None:
    for row, span in enumerate(spans):
        colour = colours[span.stage]
        axes.barh(row, span.begun - span.asked, left=span.asked, color=colour, alpha=0.3)
        axes.barh(row, span.ended - span.begun, left=span.begun, color=colour)


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path
