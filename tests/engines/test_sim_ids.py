"""Ids of simulated tokens: every text and every chat comes back from its numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alto.engines.sim_ids import BEGIN, END, chat_ids, chat_of, ids_of, text_of
from alto.engines.tokens import render, tokenize

texts = st.text(st.characters(codec="utf-8"), max_size=60)


@given(texts, st.integers(1, 12))
def test_a_text_comes_back(text: str, piece: int) -> None:
    ids = ids_of(text, piece)
    assert text_of(ids) == text
    assert all(BEGIN < number < 1 << 63 for number in ids)


def test_a_token_of_english_is_one_id() -> None:
    text = "Penicillin was discovered in 1928, by chance! " * 30
    assert len(ids_of(text, 7)) == len(tokenize(text, 7))
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "It was"}]
    for open_end in (False, True):
        ids = chat_ids(messages, 7, open_end=open_end)
        assert ids is not None
        assert len(ids) == len(render(messages, open_end=open_end))


chats = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), texts), min_size=1)


@given(chats, texts)
def test_a_chat_comes_back_with_what_was_written(chat: list[tuple[str, str]], written: str) -> None:
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in chat]
    ids = chat_ids(messages, 7)
    assert ids is not None
    assert chat_of(ids) == (messages, False)
    assert chat_of([*ids, *ids_of(written, 7)]) == (
        ([*messages, {"role": "assistant", "content": written}], True)
        if written
        else (messages, False)
    )
    if written:
        begun = [*messages, {"role": "assistant", "content": written}]
        assert chat_ids(begun, 7, open_end=True) == [*ids, *ids_of(written, 7)]


def test_parts_that_are_no_text_have_no_ids() -> None:
    image = {"type": "image_url", "image_url": {"url": "x"}}
    assert chat_ids([{"role": "user", "content": [image]}], 7) is None
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat_ids([{"role": "user", "content": parts}], 7) is not None


@pytest.mark.parametrize(
    "ids", [[], [0], [5], [-3], [1 << 70], [BEGIN], [BEGIN, BEGIN], [END], [*ids_of("hi", 7)],
            [BEGIN, *ids_of("user\nhi", 7), END, *ids_of("\n", 7)]],
)  # fmt: skip
def test_other_numbers_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match=r"id of no token|they do not|a message has"):
        chat_of(ids)
