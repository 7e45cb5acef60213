"""What the terminal shows: rendered at a fixed width, without a terminal."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from alto.demo.board import Board, Path
from alto.demo.data import Claim, Verdict
from alto.demo.view import Lines, Screen, View, is_live, plain_line, snippet

GEORGIA = "Georgia grows the most peaches and is called the Peach State."
EVIDENCE = "[example.org] Botany aside, California leads the nation in peaches, by far."


@dataclass(frozen=True)
class Seen:
    output: str
    path: Path
    value: Any = None
    revised: bool = False
    withdrawn: bool = False


EVENTS = [
    Seen("sentences", (0,), GEORGIA),
    Seen("claims", (0, 0), Claim("Georgia grows the most peaches.")),
    Seen("evidence", (0, 0), ["[example.org] Sheep.", EVIDENCE]),
    Seen("claims", (0, 1), Claim("Georgia is called the Peach State.")),
    Seen("sentences", (1,), "Its summers are warm."),
    Seen("verdicts", (0, 0), Verdict("REFUTED", 2, "California grows the most peaches.")),
    Seen("evidence", (0, 1), ["[example.org] The Peach State."]),
    Seen("claims", (1, 0), Claim("Georgia's summers are warm.")),
]


def grown() -> Board:
    board = Board("Who grows the most peaches?", title="recorded")
    for at, event in enumerate(EVENTS, start=1):
        board.see(event, float(at))
    return board


def lines(view: View, *, height: int = 50, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    console = Console(
        file=file, width=80, height=height, color_system=None, record=True, _environ={}
    )
    console.print(view)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_claims_stand_under_their_sentence_with_their_verdicts() -> None:
    assert lines(View(grown(), 8.25)) == [
        "recorded" + "sentences 2  claims checked 1 of 3   8.25 s".rjust(72),
        "Who grows the most peaches?",
        "",
        GEORGIA,
        "├── ✗ REFUTED    Georgia grows the most peaches.",
        "│                → California grows the most peaches.",
        "│                [example.org] Botany aside, California leads the nation in pea…",
        "└── checking     Georgia is called the Peach State.",
        "Its summers are warm.",
        "└── searching    Georgia's summers are warm.",
    ]


def test_a_terminal_without_unicode_gets_ascii() -> None:
    shown = lines(View(grown(), 8.25), encoding="ascii")
    assert shown[4:6] == [
        "+-- REFUTED      Georgia grows the most peaches.",
        "|                -> California grows the most peaches.",
    ]


@pytest.mark.parametrize(
    ("height", "below_the_question"),
    [
        (11, 7),  # all of it fits
        (10, 6),  # the evidence goes
        (9, 3),  # the first sentence is folded
        (7, 3),
        (6, 2),  # both are
        (2, 2),  # never fewer than a few lines, however low the window
    ],
)
def test_detail_goes_from_the_top_when_the_window_is_low(
    height: int, below_the_question: int
) -> None:
    shown = lines(View(grown(), 8.25), height=height)
    assert len(shown) - 3 == below_the_question
    assert len(shown) < max(height, 6)
    assert "warm" in shown[-1]


def test_a_folded_sentence_says_how_its_claims_stand() -> None:
    assert lines(View(grown(), 8.25), height=6)[3:] == [
        "Georgia grows the most peaches and is called the Peach State.   1 REFUTED 1 open",
        "Its summers are warm." + "1 open".rjust(59),
    ]


def test_what_does_not_fit_even_folded_scrolls_off_the_top() -> None:
    board = Board("Why?")
    for index in range(20):
        board.see(Seen("sentences", (index,), f"Sentence {index}."), 1.0)
    shown = lines(View(board, 1.0), height=10)
    assert len(shown) == 9
    assert shown[3:5] == ["⋮ 15 lines above", "Sentence 15."]
    assert shown[-1] == "Sentence 19."
    assert len(lines(View(board, 1.0, fit=False), height=10)) == 23


def test_what_was_kept_from_earlier_frames_is_never_shown_when_it_has_changed() -> None:
    board, drawn = Board("Who?"), dict[object, Lines]()
    changes = [
        *EVENTS,
        Seen("verdicts", (0, 0), Verdict("SUPPORTED", 1), revised=True),
        Seen("evidence", (0, 0), ["[example.org] Peaches again."], revised=True),
        Seen("claims", (0, 1), withdrawn=True),
        Seen("sentences", (0,), "Georgia, perhaps.", revised=True),
    ]
    for event in changes:
        board.see(event, 1.0)
        for height in (6, 9, 50):
            kept = lines(View(board, 1.0, drawn=drawn), height=height)
            assert kept == lines(View(board, 1.0), height=height)


@pytest.mark.parametrize(
    ("passage", "claim", "width", "expected"),
    [
        ("[a.org] Short.", "Anything.", 40, "[a.org] Short."),
        ("No site here.", "Anything.", 40, "No site here."),
        (
            "[a.org] First some talk of other things. Peaches grow in Georgia. And then more talk.",
            "Georgia grows peaches",
            30,
            "[a.org] … Peaches grow in Georgia. And …",
        ),
        ("[a.org] !!!", "Georgia", 30, "[a.org] !!!"),
    ],
)
def test_a_snippet_is_where_the_passage_speaks_of_the_claim(
    passage: str, claim: str, width: int, expected: str
) -> None:
    assert snippet(passage, claim, width) == expected


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (EVENTS[4], "   1.50 s  sentence 2     Its summers are warm."),
        (EVENTS[3], "   1.50 s  claim 1.2      Georgia is called the Peach State."),
        (
            EVENTS[5],
            "   1.50 s  verdict 1.1    REFUTED    Georgia grows the most peaches."
            " Correction: California grows the most peaches.",
        ),
        (
            Seen("sentences", (1,), "Its summers\nare hot.", revised=True),
            "   1.50 s  sentence 2     Its summers are hot.  (revised)",
        ),
        (Seen("claims", (0, 1), withdrawn=True), "   1.50 s  claim 1.2      withdrawn"),
        (EVENTS[2], None),
    ],
)
def test_without_a_terminal_an_event_is_a_line(event: Seen, expected: str | None) -> None:
    board = grown()
    board.see(event, 1.5)
    assert plain_line(board, event, 1.5) == expected


def console(environ: dict[str, str], *, terminal: bool) -> Console:
    return Console(
        file=io.StringIO(), width=80, height=24, force_terminal=terminal, _environ=environ
    )


@pytest.mark.parametrize(
    ("environ", "terminal", "live"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
    ],
)
def test_the_tree_is_live_only_where_it_can_be_drawn_over(
    environ: dict[str, str], terminal: bool, live: bool
) -> None:
    assert is_live(console(environ, terminal=terminal)) is live


def show(on: Console) -> str:
    with Screen(on, Board("Who?", title="recorded"), clock=lambda: 2.0) as screen:
        for event in EVENTS:
            screen.see(event)
            screen.draw()
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def test_a_screen_without_a_terminal_prints_lines_and_no_escapes() -> None:
    shown = show(console({}, terminal=False))
    assert "\x1b" not in shown
    assert shown.splitlines()[:3] == ["Who?", "recorded", f"   2.00 s  sentence 1     {GEORGIA}"]
    assert len(shown.splitlines()) == 2 + 6


def test_a_live_screen_leaves_the_whole_tree_and_the_cursor_behind() -> None:
    shown = show(console({"TERM": "xterm"}, terminal=True))
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1
    assert "Botany aside" in shown.rpartition("\x1b[?25h")[2]


def test_a_screen_that_is_interrupted_gives_the_cursor_back() -> None:
    on = console({"TERM": "xterm"}, terminal=True)
    screen = Screen(on, Board("Who?"), clock=lambda: 2.0)

    def interrupted() -> None:
        with screen:
            screen.see(EVENTS[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert isinstance(on.file, io.StringIO)
    assert "\x1b[?25h" in on.file.getvalue()
