"""Calls for numbers, as values: who pays what, who is first, how large a prompt is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from alto.core.calls import Call
from alto.core.encode import EmbedCall, Ranked, RerankCall, ranking, shares
from alto.core.prefix import Prompt
from alto.core.prompt import read


@given(some.integers(0, 10**6), some.lists(some.integers(0, 10**4), min_size=1, max_size=20))
def test_shares_add_up_and_are_in_proportion(total: int, sizes: list[int]) -> None:
    parts = shares(total, sizes)
    assert sum(parts) == total
    assert min(parts) >= 0
    if sum(sizes):
        exact = [total * size / sum(sizes) for size in sizes]
        assert all(abs(part - want) <= 1 for part, want in zip(parts, exact, strict=True))


def test_the_best_come_first_and_equal_ones_keep_their_order() -> None:
    found = ranking(["a", "b", "c", "d"], {0: 0.5, 1: 0.9, 2: 0.5, 3: 0.1}, 3)
    assert found == [Ranked(1, 0.9, "b"), Ranked(0, 0.5, "a"), Ranked(2, 0.5, "c")]
    assert [each.index for each in ranking(["a", "b"], {1: 1.0, 0: 2.0}, None)] == [0, 1]


def test_a_call_knows_its_size_while_it_grows() -> None:
    call = EmbedCall(inputs=["abc", "äb"])
    prompt = read(call)
    assert prompt == Prompt((), 6)
    call.add("12345", 5)
    assert prompt.size == 11, "the pool holds the same prompt"
    assert read(RerankCall(query="abc", documents=["12", "3"])).size == 9
    assert read(Call(messages=[])).size == 0


def test_a_sealed_call_takes_nothing_in() -> None:
    call = EmbedCall(inputs=["a"])
    call.seal()
    with pytest.raises(AssertionError):
        call.add("b", 1)
