"""What a text has cost of which no server told."""

from __future__ import annotations

import pytest

from alto.core.calls import Delta, TokenIds, Usage
from alto.core.resume import chars_of, spent

END = Delta(finish_reason="stop")


@pytest.mark.parametrize(
    ("why", "given", "tokens"),
    [
        ("nothing came", [], 0),
        ("the end is no token", [END], 0),
        ("its characters make more tokens than there are pieces", ["a" * 40, "b" * 40, END], 20),
        ("each piece is a token at least", ["a", "b", "c", "d", END], 4),
        ("an empty piece is none", ["a", "", "", "b", END], 2),
        ("what is thought counts", [Delta("", "hm" * 20), "a" * 40, END], 20),
        ("a piece of thought is a token at least", [Delta("", "h"), Delta("", "m"), "a", END], 3),
        ("text and thought in one piece are one", [Delta("a", "h"), Delta("b", "m"), END], 2),
    ],
)
def test_an_answer_has_tokens_by_its_characters_and_by_its_pieces(
    why: str, given: list[str], tokens: int
) -> None:
    assert spent(given, chars_of(given), 12.4, 0.25) == Usage(12, tokens, calls=1), why


@pytest.mark.parametrize("tokens", [0.0, 0.4, 0.5, 0.6, 1.4, 1.5, 2.5, 2.500001, 3.5, 1e9 + 0.5])
def test_an_estimate_is_rounded_as_python_does(tokens: float) -> None:
    assert spent([], 0, tokens, 0.25) == Usage(round(tokens), 0, calls=1)
    assert spent([], 2, 0.0, tokens / 2) == Usage(0, round(tokens), calls=1)


def test_what_was_told_goes_before_what_is_known_and_that_before_estimates() -> None:
    told = Delta(usage=Usage(7, 5, calls=1))
    ids = TokenIds((1, 2, 3), (4, 5))
    assert spent(["a", told, Delta(usage=Usage())], 1, 12.4, 0.25, ids) == Usage(7, 5, calls=1)
    assert spent(["a", Delta(usage=Usage())], 1, 12.4, 0.25, ids) == Usage(3, 2, calls=1)


def test_the_characters_of_a_text_are_those_of_its_pieces() -> None:
    assert chars_of([]) == 0
    assert chars_of(["ab", "", Delta("ç"), END]) == 3
