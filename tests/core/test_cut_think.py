"""Reasoning is taken out of the text, wherever the text is cut."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alto.core.think import ThinkSplitter


def split(pieces: Iterable[str], thinking: bool = False) -> tuple[str, str]:
    splitter = ThinkSplitter(thinking)
    answer = reasoning = ""
    for piece in pieces:
        more, thought = splitter.feed(piece)
        answer, reasoning = answer + more, reasoning + thought
    more, thought = splitter.finish()
    return answer + more, reasoning + thought


CASES = [
    ("plain", "plain", ""),
    ("", "", ""),
    ("  kept", "  kept", ""),
    ("<think>hm</think>\n\nyes", "yes", "hm"),
    ("\n<think>hm</think> yes ", "\nyes ", "hm"),
    ("a <think>b</think> c", "a  c", "b"),
    ("<think>a</think><think>b</think>c", "c", "ab"),
    ("<think>never closed", "", "never closed"),
    ("a < b <thin", "a < b <thin", ""),
    ("<think>a </thin b</think>c", "c", "a </thin b"),
    ("<<think>a<</think>b", "<b", "a<"),
    ("stray</think>tag", "straytag", ""),
    ("<b>x</b>", "<b>x</b>", ""),
]


@pytest.mark.parametrize(("text", "answer", "reasoning"), CASES)
def test_it_is_split_the_same_however_it_comes(text: str, answer: str, reasoning: str) -> None:
    assert split([text]) == (answer, reasoning)
    assert split(text) == (answer, reasoning)
    for at in range(len(text)):
        assert split([text[:at], text[at:]]) == (answer, reasoning)


def test_a_template_may_have_opened_the_tag_in_the_prompt() -> None:
    assert split("hm</think>\nyes", thinking=True) == ("yes", "hm")


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "th", ">", " ", "a", "</"])), st.data()
)
def test_pieces_change_nothing(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    ends = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    pieces = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    assert split(pieces) == split([text])


def test_only_the_start_of_a_tag_is_held_back() -> None:
    splitter = ThinkSplitter()
    assert splitter.feed("a <th") == ("a ", "")
    assert splitter.feed("x") == ("<thx", "")
    assert splitter.feed("<think>deep") == ("", "deep")
