"""Texts of exactly so many tokens, one for every text of every record.

Nobody reads the words, only their number counts; but prompts must begin alike where they would in
earnest and differ where they would. So a text begins with a code that names what it is a text of,
and goes on with the same words for all. What the LM answers is found by the code in what it is
asked about: `respond` is a look-up, and equal answers are cut into items once.

Always true:
    - a text of n tokens is n tokens to the simulated engine
    - prompts of two requests differ from the first token after the stage's prefix
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import alto

from .settings import HERE

_TEXT = (
    "the first report of that year was read in London by a student who had kept the notes of an "
    "older friend and found in them a plain table of numbers with no name or date on any page "
)
_WORDS = _TEXT.split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@cache
def words(count: int) -> str:
    """So many tokens, each a word with the space before it."""
    return "".join(" " + _WORDS[at % len(_WORDS)] for at in range(count))


def code(kind: str, *numbers: int) -> str:
    """One token that names a text: a letter for its kind and two for each number."""
    pairs = (LETTERS[number // 26 % 26] + LETTERS[number % 26] for number in numbers)
    return kind + "".join(pairs)


def named(name: str, tokens: int) -> str:
    """A text of so many tokens that begins with its name."""
    return name + words(tokens - 1)


def name_of(text: str) -> str:
    """The name that a text begins with."""
    return text.partition(" ")[0]


@cache
def fixed(stage: str, tokens: int) -> str:
    """The fixed part of a stage's prompts."""
    return named(code(stage[0].upper(), sum(map(ord, stage))), tokens) if tokens else ""


def prompt(stage: str, prefix: int, *parts: str, suffix: int = 0) -> str:
    """A prompt: what all prompts of the stage begin with, what is this request's, what ends all."""
    request = int(alto.current().request.rpartition("-")[2])
    salt = code("z", request // 676, request % 676)
    return f"{fixed(stage, prefix)} {salt} {' '.join(parts)}{words(suffix)}"


@dataclass(frozen=True, slots=True)
class Claim:
    """Lengths in tokens of what is written about one claim."""

    name: str
    tokens: int
    true: bool
    queries: tuple[int, ...]
    evidence: int
    """All that is found for it."""
    first: int
    """The first two passages of that."""
    verdict: int


@dataclass(frozen=True, slots=True)
class Record:
    """Lengths in tokens of one question, its answer, and what is found for it."""

    name: str
    source: str
    question: int
    sentences: tuple[int, ...]
    passages: tuple[int, ...]
    relevant: tuple[bool, ...]
    """Which of the passages have something to say."""
    claims: tuple[tuple[Claim, ...], ...]
    """Those of each sentence."""

    def turn(self) -> str:
        """The question as a text: the input of a request."""
        return named(self.name, self.question)

    def sentence_names(self) -> Iterator[str]:
        for number in range(len(self.sentences)):
            yield self.name + code("S", number).capitalize()

    def answer(self) -> str:
        """The chatbot's answer."""
        return " ".join(
            name.capitalize() + words(max(1, tokens - 2)) + "."
            for name, tokens in zip(self.sentence_names(), self.sentences, strict=True)
        )


def _counts(cell: str) -> tuple[int, ...]:
    return tuple(map(int, cell.split()))


@cache
def records() -> tuple[Record, ...]:
    """Every record of the two tables."""
    with (HERE / "claims.csv").open(encoding="utf-8", newline="") as file:
        claims: dict[tuple[int, int], list[Claim]] = {}
        for number, row in enumerate(csv.DictReader(file)):
            place = int(row["record"]), int(row["sentence"])
            claims.setdefault(place, []).append(
                Claim(
                    code("c", number // 676, number % 676),
                    int(row["claim"]),
                    row["true"] == "1",
                    _counts(row["queries"]),
                    int(row["evidence"]),
                    int(row["first"]),
                    int(row["verdict"]),
                )
            )
    with (HERE / "records.csv").open(encoding="utf-8", newline="") as file:
        found = []
        for row in csv.DictReader(file):
            number, sentences = int(row["record"]), _counts(row["sentences"])
            found.append(
                Record(
                    code("q", number),
                    row["source"],
                    int(row["question"]),
                    sentences,
                    _counts(row["passages"]),
                    tuple(flag == "1" for flag in row["relevant"]),
                    tuple(tuple(claims.get((number, at), ())) for at in range(len(sentences))),
                )
            )
    return tuple(found)
