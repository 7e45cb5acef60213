"""Timelines: lanes, bars and the summary of two runs, as values."""

from __future__ import annotations

import io
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from alto.demo.board import Board, Moments
from alto.demo.data import Verdict
from alto.demo.summary import Bars, busy_cells, summary, verdict_counts
from alto.demo.timeline import LANES_MAX, Run, Span, lanes_of, stages_of, svg

STREAMING = Run(
    "streaming",
    [
        Span("answer", (), 0.0, 2.0),
        Span("verify", (0, 0), 1.0, 1.5),
        Span("verify", (1, 0), 2.0, 2.5),
    ],
)
BARRIER = Run(
    "stage by stage",
    [
        Span("answer", (), 0.0, 2.0),
        Span("verify", (0, 0), 2.5, 3.5),
        Span("verify", (1, 0), 2.5, 4.0),
    ],
)


def text(renderable: RenderableType, width: int = 60) -> list[str]:
    console = Console(width=width, color_system=None, record=True, file=io.StringIO(), _environ={})
    console.print(renderable)
    return [line.rstrip() for line in console.export_text().splitlines()]


SPANS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 5)).map(
        lambda pair: Span("s", (), float(pair[0]), float(sum(pair)))
    )
)


@given(SPANS)
def test_spans_of_a_lane_do_not_overlap_and_none_is_lost(spans: list[Span]) -> None:
    lanes = lanes_of(spans)
    for lane in lanes:
        assert all(left.end <= right.start for left, right in pairwise(lane))
    assert sorted(span.start for lane in lanes for span in lane) == sorted(s.start for s in spans)
    at_once = max((sum(s.start <= t < s.end for s in spans) for t in range(26)), default=0)
    assert len(lanes) >= at_once


def test_stages_come_in_the_order_in_which_they_first_began() -> None:
    assert stages_of([BARRIER, STREAMING]) == ["answer", "verify"]


def test_stages_may_be_given_in_another_order() -> None:
    assert text(Bars([STREAMING], ["verify", "answer"]))[1].startswith("  verify")


def texts(picture: str) -> list[str]:
    root = ElementTree.fromstring(picture)
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_picture_names_its_runs_stages_and_verdicts() -> None:
    picture = svg("One <request>", "A & B", [STREAMING, BARRIER])
    shown = texts(picture)
    assert shown[:2] == ["One <request>", "A & B"]
    assert shown.count("answer") == shown.count("verify") == 2
    assert "first verdict 1.50 s" in shown
    assert "last verdict 2.50 s" in shown
    assert "verdicts 3.50 to 4.00 s" in shown
    assert "4 s" in shown
    assert picture.count("<title>") == 6
    assert picture == svg("One <request>", "A & B", [STREAMING, BARRIER])


def test_a_picture_of_many_bars_at_once_keeps_its_shape() -> None:
    many = Run("many", [Span("verify", (index,), 0.0, 1.0) for index in range(50)])
    root = ElementTree.fromstring(svg("Many", "", [many]))
    bars = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("class") is None]
    assert len(bars) == 50
    assert len({bar.get("y") for bar in bars}) == LANES_MAX


def test_a_picture_of_nothing_is_still_one() -> None:
    assert texts(svg("Nothing", "", [Run("empty", [])]))[0] == "Nothing"


@pytest.mark.parametrize(
    ("spans", "cells"),
    [
        ([], "...."),
        ([(0.0, 4.0)], "####"),
        ([(0.0, 1.0), (2.5, 2.6)], "#.#."),
        ([(1.9, 2.1)], ".##."),
        ([(4.0, 4.0)], "...#"),
        ([(2.0, 2.0)], "..#."),
    ],
)
def test_a_cell_is_filled_where_the_stage_was_at_work(
    spans: list[tuple[float, float]], cells: str
) -> None:
    busy = busy_cells([Span("s", (), *span) for span in spans], 4.0, 4)
    assert "".join(".#"[cell] for cell in busy) == cells


def test_bars_of_both_runs_are_on_one_scale() -> None:
    assert text(Bars([STREAMING, BARRIER])) == [
        "streaming",
        "  answer  " + "━" * 25 + "·" * 24,
        "  verify  " + "·" * 12 + "━" * 7 + "·" * 5 + "━" * 7 + "·" * 18,
        "stage by stage",
        "  answer  " + "━" * 25 + "·" * 24,
        "  verify  " + "·" * 30 + "━" * 19,
        "          0 s" + "4.00 s".rjust(46),
    ]


def test_the_summary_sets_streaming_beside_a_barrier() -> None:
    streaming = Moments(0.4, 2.2, 1.0, 2.5, 2.5)
    barrier = Moments(0.4, 2.0, 3.5, 4.0, 4.0)
    assert [line.split() for line in text(summary(streaming, barrier), width=80)] == [
        ["streaming", "stage", "by", "stage"],
        ["answer", "written", "2.20", "s", "2.00", "s", "1.1", "times", "later"],
        ["first", "verdict", "1.00", "s", "3.50", "s", "3.5", "times", "sooner"],
        ["last", "verdict", "2.50", "s", "4.00", "s", "1.6", "times", "sooner"],
    ]


def test_the_summary_of_one_run_compares_nothing() -> None:
    shown = text(summary(Moments(answer=0.4, total=1.0)))
    assert [line.split() for line in shown] == [
        ["streaming"],
        ["answer", "written", "0.40", "s"],
        ["first", "verdict", "never"],
        ["last", "verdict", "never"],
    ]


def test_a_run_that_was_no_sooner_says_so() -> None:
    moments = Moments(1.0, 1.0, 1.0, 1.0, 1.0)
    assert text(summary(moments, moments), width=80)[1].endswith("at the same time")


def test_verdicts_are_counted_in_words() -> None:
    board = Board("Who?")
    board.claims = {(0, 0): "A.", (0, 1): "B.", (0, 2): "C."}
    board.verdicts = {(0, 0): Verdict("REFUTED"), (0, 1): Verdict("SUPPORTED")}
    assert verdict_counts(board).plain == "3 claims: 1 SUPPORTED, 1 REFUTED"
