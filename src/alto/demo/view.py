"""A request as it grows, on a terminal: sentences, their claims below them, verdicts beside those.

`View` draws a board at one moment and does nothing else. `Screen` keeps drawing: a live tree on a
terminal, one line for each event where there is none (a pipe, a dumb terminal, or NO_COLOR set).

A terminal has only so many rows. When the tree does not fit, detail goes from the top, where the
answer is oldest: first the evidence of a sentence, then its claims, then whole lines.

Always true:
    V1  a fitted view is never higher than its terminal, if that has six rows or more
    V2  a verdict is always a word, and never told by colour or sign alone
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from .board import Board, Event, Path

STYLES = {"SUPPORTED": "green", "REFUTED": "red", "UNKNOWN": "yellow"}
_SIGNS = {"SUPPORTED": "✓ ", "REFUTED": "✗ ", "UNKNOWN": "? "}
_STATE_WIDTH = 12
_SNIPPET_WIDTH = 110
_ROWS_MIN = 2
_DRAWN_MAX = 500


class Detail(IntEnum):
    """How much of a sentence is drawn."""

    LINE = 0
    CLAIMS = 1
    EVIDENCE = 2


Lines = list[list[Segment]]


class View:
    """A board at one moment, `elapsed` seconds after the request began.

    With `fit` it takes no more rows than the terminal has, less one for the cursor. A sentence
    looks the same until something under it changes; `drawn` keeps what was drawn, from one view to
    the next, so that a frame costs little of the time that it is about.
    """

    def __init__(
        self,
        board: Board,
        elapsed: float,
        *,
        fit: bool = True,
        drawn: dict[object, Lines] | None = None,
    ) -> None:
        self.board = board
        self.elapsed = elapsed
        self.fit = fit
        self.drawn = {} if drawn is None else drawn

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(height=None)
        head = console.render_lines(_head(self.board, self.elapsed), options, pad=False)
        room = max(console.size.height - 1 - len(head), _ROWS_MIN) if self.fit else None
        for line in head + self._body(console, options, room):
            yield from line
            yield Segment.line()

    def _body(self, console: Console, options: ConsoleOptions, room: int | None) -> Lines:
        """The sentences as lines, at most `room` of them."""
        order = sorted(self.board.sentences)
        blocks = [self._block(each, Detail.EVIDENCE, console, options) for each in order]
        if room is None:
            return [line for block in blocks for line in block]
        for detail in (Detail.CLAIMS, Detail.LINE):
            for index, sentence in enumerate(order):
                if sum(map(len, blocks)) <= room:
                    break
                blocks[index] = self._block(sentence, detail, console, options)
        lines = [line for block in blocks for line in block]
        if len(lines) > room:
            hidden = len(lines) - room + 1
            more = "..." if options.ascii_only else "⋮"
            lines[:hidden] = [[Segment(f"{more} {hidden} lines above")]]
        return lines

    def _block(
        self, sentence: Path, detail: Detail, console: Console, options: ConsoleOptions
    ) -> Lines:
        """One sentence with what is known under it, drawn again only if that has changed."""
        board = self.board
        below = [
            (claim, board.claims[claim], claim in board.evidence, board.verdicts.get(claim))
            for claim in board.claims_under(sentence)
        ]
        passages = [_deciding(board, claim) for claim, *_ in below]
        key = (board.sentences[sentence], detail, options.max_width, *below, *passages)
        if key not in self.drawn:
            if len(self.drawn) >= _DRAWN_MAX:
                self.drawn.clear()
            block = _sentence(board, sentence, detail, signs=not options.ascii_only)
            self.drawn[key] = console.render_lines(block, options, pad=False)
        return self.drawn[key]


def _head(board: Board, elapsed: float) -> RenderableType:
    title = Table.grid(expand=True, padding=(0, 1))
    title.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    title.add_column(justify="right", no_wrap=True)
    claims = len(board.claims)
    title.add_row(
        Text(board.title, style="dim"),
        Text.assemble(
            (f"sentences {len(board.sentences)}  ", "dim"),
            (f"claims checked {len(board.verdicts)} of {claims}  ", "dim"),
            (f"{elapsed:5.2f} s", "bold"),
        ),
    )
    return Group(title, Text(board.question, style="bold"), Text())


def _sentence(board: Board, sentence: Path, detail: Detail, *, signs: bool) -> RenderableType:
    text = Text(board.sentences[sentence])
    claims = board.claims_under(sentence)
    if detail is Detail.LINE and claims:
        return _folded(board, sentence, text, len(claims))
    tree = Tree(text, guide_style="dim")
    for claim in claims:
        tree.add(_claim(board, claim, detail, signs=signs))
    return tree


def _folded(board: Board, sentence: Path, text: Text, claims: int) -> RenderableType:
    """A sentence on one line: how it begins, and how many verdicts of each kind."""
    counts = board.counts(sentence)
    found = Text("  ")
    for label, style in STYLES.items():
        if counts[label]:
            found.append(f"{counts[label]} {label} ", style=style)
    if pending := claims - counts.total():
        found.append(f"{pending} open", style="dim")
    row = Table.grid(expand=True)
    row.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    row.add_column(no_wrap=True, justify="right")
    row.add_row(text, found)
    return row


def _claim(board: Board, path: Path, detail: Detail, *, signs: bool) -> RenderableType:
    """What is known of the claim on the left, the claim itself on the right."""
    verdict = board.verdicts.get(path)
    right = [Text(board.claims[path])]
    if verdict is None:
        left = Text("checking" if path in board.evidence else "searching", style="dim")
    else:
        sign = _SIGNS[verdict.label] if signs else ""
        left = Text(sign + verdict.label, style=STYLES[verdict.label])
        if verdict.correction:
            arrow = "→ " if signs else "-> "
            right.append(Text(arrow + verdict.correction, style="italic"))
        if detail is Detail.EVIDENCE and (quoted := _evidence(board, path)):
            right.append(Text(quoted, style="dim", no_wrap=True, overflow="ellipsis"))
    row = Table.grid(padding=(0, 1))
    row.add_column(no_wrap=True, width=_STATE_WIDTH)
    row.add_column(ratio=1)
    row.add_row(left, Group(*right))
    return row


def _evidence(board: Board, path: Path) -> str:
    """The passage that decided a verdict, in one line; empty if none is named."""
    passage = _deciding(board, path)
    return snippet(passage, board.claims[path], _SNIPPET_WIDTH) if passage else ""


def _deciding(board: Board, path: Path) -> str:
    """The passage that a verdict names, out of those that were found; empty if it names none."""
    verdict, given = board.verdicts.get(path), board.evidence.get(path, ())
    number = verdict.passage if verdict is not None else None
    return given[number - 1] if number is not None and 1 <= number <= len(given) else ""


def snippet(passage: str, claim: str, width: int) -> str:
    """The stretch of a passage, at most about `width` characters, that shares most with a claim.

    A site in brackets at the start of the passage is kept in front of it.
    """
    site, _, text = passage.partition("] ") if passage.startswith("[") else ("", "", passage)
    wanted = {word for word in re.findall(r"\w+", claim.casefold()) if len(word) > 3}
    words = [
        (found.start(), found.end(), found.group().casefold() in wanted)
        for found in re.finditer(r"\w+", text)
    ]
    best, best_score = 0, -1
    for index, (start, _, _) in enumerate(words):
        score = 0
        for _, end, hit in words[index:]:
            if end - start > width:
                break
            score += hit
        if score > best_score:
            best, best_score = start, score
    cut = " ".join(text[best : best + width].split())
    if best + width < len(text):
        cut = cut.rsplit(" ", 1)[0] + " …"
    if best:
        cut = "… " + cut
    return f"{site}] {cut}" if site else cut


def plain_line(board: Board, event: Event, at: float) -> str | None:
    """An event that the board has just taken in, as one line; None if it is not worth one."""
    names = {"sentences": "sentence", "claims": "claim", "verdicts": "verdict"}
    if event.output not in names:
        return None
    where = ".".join(str(index + 1) for index in event.path)
    start = f"{at:7.2f} s  {names[event.output] + ' ' + where:<14} "
    if event.withdrawn:
        return start + "withdrawn"
    match event.output:
        case "sentences":
            said = board.sentences[event.path]
        case "claims":
            said = board.claims[event.path]
        case _:
            verdict = board.verdicts[event.path]
            start += f"{verdict.label:<10} "
            said = board.claims.get(event.path, "")
            if verdict.correction:
                said += f" Correction: {verdict.correction}"
    return start + " ".join(said.split()) + ("  (revised)" if event.revised else "")


class Screen:
    """Shows one request from its beginning to its end; used as a context manager.

    Tell it of each event with `see`, and call `draw` now and then: the clock moves also when
    nothing happens. `clock` gives the seconds since the request began. The board is the screen's
    to fill.
    """

    def __init__(self, console: Console, board: Board, clock: Callable[[], float]) -> None:
        self.board = board
        self._console = console
        self._clock = clock
        self._live: Live | None = None
        self._drawn: dict[object, Lines] = {}

    def __enter__(self) -> Screen:
        if is_live(self._console):
            # Drawn from the loop that feeds the board, so never in the middle of a change.
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                get_renderable=lambda: View(self.board, self._clock(), drawn=self._drawn),
            )
            self._live.start(refresh=True)
        else:
            self._console.print(self.board.question, style="bold", highlight=False)
            self._console.print(self.board.title, highlight=False, soft_wrap=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            # The live view was fitted to the window; what stays behind can be scrolled.
            elapsed = self.board.moments.total
            self._console.print(
                View(self.board, self._clock() if elapsed is None else elapsed, fit=False)
            )

    def see(self, event: Event) -> None:
        at = self._clock()
        self.board.see(event, at)
        if self._live is None and (line := plain_line(self.board, event, at)) is not None:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def draw(self) -> None:
        if self._live is not None:
            self._live.refresh()


def is_live(console: Console) -> bool:
    """Whether this is a terminal that can be drawn over."""
    return console.is_terminal and not console.is_dumb_terminal and not console.no_color
