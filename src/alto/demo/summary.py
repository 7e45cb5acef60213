"""What a request took, streaming and with a barrier after each stage, side by side.

`summary` is a table of moments with their ratios, `bars` shows when each stage was at work, on one
scale of time for both runs. Both are values that rich draws; nothing here asks a clock or prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from .board import Board, Moments
from .timeline import Run, Span, stages_of
from .view import STYLES

_ROWS: tuple[tuple[str, str], ...] = (
    ("answer", "answer written"),
    ("first_verdict", "first verdict"),
    ("last_verdict", "last verdict"),
)
# Ratios below this would be written as 1.0.
_SAME = 1.05
_STAGE_STYLES = ("blue", "dark_orange3", "bright_black", "green", "magenta", "yellow", "cyan")


def summary(streaming: Moments, barrier: Moments | None = None) -> Table:
    """Seconds until each moment; beside a barrier, how many times sooner streaming was there."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("streaming", justify="right")
    if barrier is not None:
        table.add_column("stage by stage", justify="right")
        table.add_column("", justify="right")
    for name, title in _ROWS:
        row = [title, _seconds(getattr(streaming, name))]
        if barrier is not None:
            row += [
                _seconds(getattr(barrier, name)),
                _sooner(getattr(streaming, name), getattr(barrier, name)),
            ]
        table.add_row(*row, style="bold" if "verdict" in name else "")
    return table


def verdict_counts(board: Board) -> Text:
    """One line: how many claims were found right, wrong, and neither."""
    counts = board.counts()
    line = Text(f"{len(board.claims)} claims: ")
    parts = [
        Text(f"{counts[label]} {label}", style=style)
        for label, style in STYLES.items()
        if counts[label]
    ]
    return line.append_text(Text(", ").join(parts))


def _seconds(moment: float | None) -> str:
    return "never" if moment is None else f"{moment:.2f} s"


def _sooner(streaming: float | None, barrier: float | None) -> str:
    """The ratio in words; nothing where there is none."""
    if not streaming or not barrier:
        return ""
    if barrier >= streaming * _SAME:
        return f"{barrier / streaming:.1f} times sooner"
    if streaming >= barrier * _SAME:
        return f"{streaming / barrier:.1f} times later"
    return "at the same time"


class Bars:
    """A row of bars for each stage of each run: a cell is filled where the stage was at work."""

    def __init__(self, runs: Sequence[Run], stages: Sequence[str] = ()) -> None:
        self.runs = runs
        self.stages = stages or stages_of(runs)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        margin = max(map(len, self.stages), default=0) + 4
        cells = max(options.max_width - margin - 1, 10)
        end = max((run.end for run in self.runs), default=0.0) or 1.0
        full, empty = ("=", ".") if options.ascii_only else ("━", "·")
        for run in self.runs:
            yield Text(run.title, style="bold")
            for index, stage in enumerate(self.stages):
                spans = [span for span in run.spans if span.stage == stage]
                row = Text(f"  {stage:<{margin - 2}}")
                for busy, stretch in groupby(busy_cells(spans, end, cells)):
                    style = _STAGE_STYLES[index % len(_STAGE_STYLES)] if busy else "dim"
                    row.append((full if busy else empty) * len(list(stretch)), style=style)
                yield row
        yield Text(" " * margin + _ruler(end, cells), style="dim")


def busy_cells(spans: Sequence[Span], end: float, cells: int) -> list[bool]:
    """Whether any span reaches into each of `cells` equal parts of the time up to `end`."""
    busy = [False] * cells
    for span in spans:
        first = min(int(span.start / end * cells), cells - 1)
        last = min(max(int(-(-span.end * cells // end)) - 1, first), cells - 1)
        busy[first : last + 1] = [True] * (last + 1 - first)
    return busy


def _ruler(end: float, cells: int) -> str:
    """Where the time begins and where it ends."""
    last = f"{end:.2f} s"
    return "0 s" + last.rjust(cells - len("0 s"))
