"""The text before a prompt's first argument, from the definition of the stage alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from alto import Stream, lm
from alto.templates import prefix_of


@dataclass
class Claim:
    text: str
    title: str


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def an_item(question: str) -> str:
    return f"Answer this.\nQuestion: {question}\nBe brief."


def a_field(claim: Claim, *, year: int) -> str:
    return f"Check this: {claim.title.strip():>20} of {year:04d}"


def a_list(evidence: list[str]) -> str:
    return "Evidence:\n" + "\n".join(evidence) + "\nThat is all."


def a_loop(claims: list[Claim]) -> str:
    return "Claims:\n" + "".join(f"{claim.text}\n" for claim in claims)


def as_json(claim: Claim) -> str:
    return "Claim: " + json.dumps(claim) + " (JSON)"


def by_percent(question: str) -> str:
    return "Question: %s!" % question  # noqa: UP031


def changed_afterwards(question: str) -> str:
    return f"  question: {question}".strip().upper()


def messages(question: str, claim: Claim) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, *user(f"Question: {question}")]


def no_arguments() -> str:
    return "Always the same."


def parts(question: str, evidence: Stream[str]) -> Iterator[Any]:
    yield {"role": "system", "content": "Be brief."}
    yield "Evidence:\n"
    yield from evidence
    yield "Answer."


@pytest.mark.parametrize(
    ("function", "prefix"),
    [
        (an_item, user("Answer this.\nQuestion: ")),
        (a_field, user("Check this: ")),
        (a_list, user("Evidence:\n")),
        (a_loop, user("Claims:\n")),
        (as_json, user('Claim: "')),
        (by_percent, user("Question: ")),
        (changed_afterwards, user("QUESTION: ")),
        (messages, [{"role": "system", "content": "Be brief."}, *user("Question: ")]),
        (no_arguments, user("Always the same.")),
        (parts, [{"role": "system", "content": "Be brief."}, *user("Evidence:\n")]),
    ],
)
def test_what_stands_before_the_first_argument_is_known(
    function: Callable[..., Any], prefix: list[dict[str, str]]
) -> None:
    assert prefix_of(lm(returns=str)(function)) == prefix


def a_condition(question: str) -> str:
    return "Short: " if question else "Long: "


def a_comparison(claim: Claim) -> str:
    return f"Check {claim.text}" if claim.title == "x" else "Check nothing"


def a_length(evidence: list[str]) -> str:
    return f"There are {len(evidence)} pieces."


def a_lookup(question: str) -> str:
    return {"a": "A"}[question]


def an_error(question: str) -> str:
    raise OSError("not for you")


def no_end(claim: Any) -> str:
    text = "A"
    while claim is not None:
        claim = claim.parent
    return text


def any_number(*questions: str) -> str:
    return "Questions: " + "".join(questions)


def another_kind(question: str) -> Any:
    return 7


async def asynchronous(question: str) -> str:
    raise AssertionError("it may do anything, so it is not called")


async def asynchronous_parts(question: str) -> AsyncIterator[str]:
    raise AssertionError("it may do anything, so it is not called")
    yield question


@pytest.mark.parametrize(
    "function",
    [
        a_condition,
        a_comparison,
        a_length,
        a_lookup,
        an_error,
        no_end,
        any_number,
        another_kind,
        asynchronous,
        asynchronous_parts,
    ],
)
def test_what_needs_a_value_leaves_it_unknown(function: Callable[..., Any]) -> None:
    assert prefix_of(lm(returns=str)(function)) == []


def test_of_a_generator_what_it_gave_before_is_known() -> None:
    def growing(question: str, evidence: list[str]) -> Iterator[str]:
        yield "Evidence: "
        yield f"{len(evidence)} pieces"

    assert prefix_of(lm(returns=str)(growing)) == user("Evidence: ")
