"""The board keeps the latest state of a request by path, and the moments that count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from alto.demo.board import Board, Moments, Path, verdict_of
from alto.demo.data import Claim, Verdict


@dataclass(frozen=True)
class Seen:
    output: str
    path: Path
    value: Any = None
    revised: bool = False
    withdrawn: bool = False


def board_of(*events: Seen) -> Board:
    """A board that saw one event a second."""
    board = Board("Who?")
    for at, event in enumerate(events, start=1):
        board.see(event, float(at))
    return board


def grown() -> Board:
    return board_of(
        Seen("sentences", (0,), "A and B."),
        Seen("claims", (0, 0), Claim("A.")),
        Seen("evidence", (0, 0), ["a"]),
        Seen("sentences", (1,), "C."),
        Seen("claims", (1, 0), {"text": "C."}),
        Seen("verdicts", (0, 0), Verdict("SUPPORTED", 1)),
        Seen("claims", (0, 1), "B."),
        Seen("verdicts", (1, 0), "REFUTED"),
    )


def test_claims_stand_under_their_sentence_in_order() -> None:
    board = grown()
    assert board.claims_under((0,)) == [(0, 0), (0, 1)]
    assert [board.claims[path] for path in board.claims_under((1,))] == ["C."]


def test_verdicts_are_counted_in_all_and_under_a_sentence() -> None:
    board = grown()
    assert board.counts() == {"SUPPORTED": 1, "REFUTED": 1}
    assert board.counts((0,)) == {"SUPPORTED": 1}


def test_the_moments_that_count() -> None:
    board = grown()
    board.end(9.5)
    assert board.moments == Moments(
        first_sentence=1.0, answer=4.0, first_verdict=6.0, last_verdict=8.0, total=9.5
    )


def test_a_revision_replaces_what_it_revises() -> None:
    board = grown()
    board.see(Seen("sentences", (1,), "D.", revised=True), 9.0)
    board.see(Seen("verdicts", (0, 0), "UNKNOWN", revised=True), 10.0)
    assert board.sentences[(1,)] == "D."
    assert board.counts() == {"UNKNOWN": 1, "REFUTED": 1}
    assert (board.moments.first_verdict, board.moments.last_verdict) == (6.0, 10.0)


@pytest.mark.parametrize(
    ("output", "path", "left"),
    [
        ("sentences", (0,), ([(1,)], [(1, 0)], [], [(1, 0)])),
        ("claims", (0, 0), ([(0,), (1,)], [(1, 0), (0, 1)], [], [(1, 0)])),
        ("evidence", (0, 0), ([(0,), (1,)], [(0, 0), (1, 0), (0, 1)], [], [(1, 0)])),
        ("verdicts", (1, 0), ([(0,), (1,)], [(0, 0), (1, 0), (0, 1)], [(0, 0)], [(0, 0)])),
        ("verdicts", (7, 7), ([(0,), (1,)], [(0, 0), (1, 0), (0, 1)], [(0, 0)], None)),
    ],
)
def test_a_withdrawal_takes_what_stands_below(
    output: str, path: Path, left: tuple[list[Path] | None, ...]
) -> None:
    board = grown()
    board.see(Seen(output, path, withdrawn=True), 9.0)
    kept = (board.sentences, board.claims, board.evidence, board.verdicts)
    assert [list(items) for items in kept] == [
        paths if paths is not None else list(grown().verdicts) for paths in left
    ]


def test_the_report_is_kept_and_other_outputs_are_passed_over() -> None:
    board = board_of(Seen("report", (), {"claims": 3}), Seen("progress", (), 0.5))
    assert board.report == {"claims": 3}
    assert board.moments == Moments()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("REFUTED", Verdict("REFUTED")),
        ("gibberish", Verdict("UNKNOWN")),
        ({"label": "SUPPORTED", "passage": 3}, Verdict("SUPPORTED", 3)),
        (Verdict("REFUTED", 1, "No."), Verdict("REFUTED", 1, "No.")),
    ],
)
def test_a_verdict_may_be_a_label_json_or_the_struct(value: Any, expected: Verdict) -> None:
    assert verdict_of(value) == expected
