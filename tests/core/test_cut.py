"""Lines, paragraphs, deltas and whole texts."""

from __future__ import annotations

import pytest
from cuts import cut, error_of, everywhere, given_after

from alto.core import cut as module
from alto.core.calls import Delta
from alto.core.cut import Deltas, Lines, Paragraphs, Whole, shorten
from alto.core.texts import Line, Paragraph, Sentence

TEXTS = [
    "",
    "\n",
    "one",
    "one\n",
    "\n\n one\ntwo \r\n \r\n\nthree\n\n\nfour\n",
    "  \n\t\n one\n  two\n\nthree  ",
    "一\n\n二\n三",
]


@pytest.mark.parametrize("text", TEXTS)
def test_lines_are_those_of_the_text_that_are_not_blank(text: str) -> None:
    items, settled, error = everywhere(Lines, text)
    assert items == [line.strip() for line in text.split("\n") if line.strip()]
    assert error is None
    assert settled <= len(text)


def test_paragraphs_keep_their_line_breaks() -> None:
    items, settled, _ = everywhere(Paragraphs, "\n\n a\nb \r\n \r\n\nc\n\n\nd\n")
    assert items == ["a\nb", "c", "d"]
    assert settled == len("\n\n a\nb \r\n \r\n\nc\n\n\nd\n")


@pytest.mark.parametrize("text", TEXTS)
def test_paragraphs_do_not_depend_on_the_pieces(text: str) -> None:
    items, _, _ = everywhere(Paragraphs, text)
    assert "".join("".join(items).split()) == "".join(text.split())


def test_items_have_their_types() -> None:
    assert {type(item) for item in cut(Lines, ["a\nb"])[0]} == {Line}
    assert {type(item) for item in cut(Paragraphs, ["a\n\nb"])[0]} == {Paragraph}
    assert all(issubclass(kind, str) for kind in (Line, Paragraph, Sentence))
    assert not hasattr(Sentence("a"), "__dict__")


def test_a_line_comes_with_its_line_break_and_a_paragraph_with_the_blank_line() -> None:
    assert given_after(Lines, "ab\ncd") == [(3, "ab"), (6, "cd")]
    assert given_after(Paragraphs, "ab\n\ncd") == [(4, "ab"), (7, "cd")]


def test_deltas_are_plain_strings_and_keep_white_space() -> None:
    cutter = Deltas()
    given = cutter.feed(Delta(" a", finish_reason="stop"))
    assert given == [" a"]
    assert type(given[0]) is str
    assert cutter.feed("") == []
    assert cutter.feed("\n") == ["\n"]
    assert cutter.finish(truncated=True) == []
    assert cutter.settled == 3


def test_a_whole_text_is_one_item_even_if_it_is_empty_or_cut_off() -> None:
    assert everywhere(Whole, " a\n") == ([" a\n"], 3, None)
    assert everywhere(Whole, "") == ([""], 0, None)
    assert everywhere(Whole, "a", truncated=True) == (["a"], 1, None)


@pytest.mark.parametrize("new", [Lines, Paragraphs])
def test_a_text_that_is_cut_off_keeps_what_was_complete(new: type[Lines]) -> None:
    items, settled, error = everywhere(new, "a\n\nb", truncated=True)
    assert items == ["a"]
    assert settled <= 3
    assert error is not None
    assert "cut off" in error
    assert "'b'" in error


@pytest.mark.parametrize("new", [Lines, Paragraphs, Whole])
def test_an_item_longer_than_the_limit_is_refused(
    new: type[Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_CHARS_MAX", 10)
    cutter = new()
    assert cutter.feed("a" * 10) == []
    assert cutter.error is None
    cutter.feed("a")
    assert cutter.error is not None
    assert "10 characters" in str(cutter.error)
    assert cutter.error.text == "a" * 11
    assert cutter.feed("\n\nb\n\n") == []
    assert cutter.finish() == []


def test_errors_show_the_text_with_its_middle_left_out() -> None:
    assert shorten("short") == "'short'"
    long = shorten("a" * 300 + "b" * 300)
    assert long.startswith("'aaa")
    assert long.endswith("bbb'")
    assert "200 characters left out" in long
    assert "cut off" in error_of(Lines, "x", truncated=True)
