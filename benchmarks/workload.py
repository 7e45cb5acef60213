"""The verification request that every contender serves, and the LM that plays in it.

A request is: an LM writes an answer; each sentence goes to an LM that writes the claims in it, one
JSON object a line; each claim is searched for and then judged by an LM; a tally counts verdicts.
A question has 4 to 8 sentences and a sentence 1 to 3 claims: 19 LM calls on average.

Always true:
    - what a prompt is answered with, and when each word of it comes, follows from the prompt alone,
      so every contender meets the same texts on the same schedule;
    - words come when they are due, whether or not the reader kept up, as from a server: time lost
      by a slow reader is not given back to it by waiting again;
    - nothing here imports a contender or ALTO.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

LABELS = ("SUPPORTED", "REFUTED", "UNKNOWN")
SEARCH_S = 0.010
"""How long one search takes: a call to a retriever on the same network."""

_TEXT = """
the first report of that year was read in London by a student who had kept the notes of an older
friend and found in them a plain table of numbers with no name or date on any page
"""
_WORDS = tuple(_TEXT.split())


def _luck(text: str, salt: str, low: int, high: int) -> int:
    """A whole number in low..high that depends on the text alone (`hash` differs by process)."""
    return low + zlib.crc32(f"{salt}|{text}".encode()) % (high - low + 1)


def _words(seed: str, count: int) -> str:
    start = _luck(seed, "words", 0, len(_WORDS) - 1)
    return " ".join(_WORDS[(start + k) % len(_WORDS)] for k in range(count))


def questions(count: int) -> list[str]:
    """The inputs: short questions, all different."""
    return [f"What is known about matter {number}?" for number in range(count)]


def answer_prompt(question: str) -> str:
    return f"Answer in a few sentences.\nQuestion: {question}"


def extract_prompt(sentence: str) -> str:
    return f"List the factual claims, one JSON object a line.\nText: {sentence}"


def verify_prompt(claim: str, evidence: Sequence[str]) -> str:
    return f"Evidence: {' / '.join(evidence)}\nClaim: {claim}\nVerdict:"


def passages(claim: str) -> list[str]:
    """What is found for a claim."""
    return [f"Passage {number} about {claim}" for number in range(3)]


async def search(claim: str) -> list[str]:
    """The passages for a claim, after the time of one call to a retriever."""
    await asyncio.sleep(SEARCH_S)
    return passages(claim)


def tally(verdicts: Sequence[str]) -> dict[str, int]:
    """How many verdicts of each label."""
    return dict(Counter(verdicts))


def respond(prompt: str) -> str:
    """The text that the LM writes for a prompt of this module."""
    body = prompt.splitlines()
    if body[-1] == "Verdict:":
        return _verdict(body[-2].removeprefix("Claim: "))
    kind, _, subject = body[-1].partition(": ")
    if kind == "Question":
        return " ".join(_sentences(subject))
    if kind == "Text":
        return _claims(subject)
    raise ValueError(
        f"the scheduled LM was asked {prompt!r}; it knows only prompts made by answer_prompt, "
        "extract_prompt and verify_prompt of benchmarks.workload"
    )


# Texts are made once and kept: the probe makes all of them before it measures, so that writing them
# is in nobody's CPU time.


@cache
def _sentences(question: str) -> tuple[str, ...]:
    """An answer's sentences. Each ends in the question's own number: no two answers share one."""
    number = zlib.crc32(question.encode()) % 10_000_019
    count = _luck(question, "sentences", 4, 8)
    words = (_words(f"{question} {k}", _luck(question, f"length {k}", 8, 16)) for k in range(count))
    return tuple(f"Note {k} says {text} in {number}." for k, text in enumerate(words))


@cache
def _claims(sentence: str) -> str:
    """A sentence's claims as JSON, one a line."""
    count = _luck(sentence, "claims", 1, 3)
    words = (_words(f"{sentence} {k}", _luck(sentence, f"claim {k}", 5, 9)) for k in range(count))
    return "".join(f'{{"text": "{text}"}}\n' for text in words)


@cache
def _verdict(claim: str) -> str:
    return LABELS[_luck(claim, "label", 0, len(LABELS) - 1)]


def expected(question: str) -> dict[str, int]:
    """The right tally of a question, computed without any contender. Makes its texts on the way."""
    pieces(" ".join(_sentences(question)))
    verdicts: list[str] = []
    for sentence in _sentences(question):
        pieces(_claims(sentence))
        for line in _claims(sentence).splitlines():
            verdicts.append(_verdict(line[len('{"text": "') : -len('"}')]))
    return tally(verdicts)


def sentences_of(question: str) -> tuple[str, ...]:
    """The sentences of a question's answer, in order."""
    return _sentences(question)


def critical_path(lm: ScheduledLM, question: str) -> float:
    """The least time in which a question can be checked on this LM: the longest chain of "this text
    must be there before that prompt can be written", from the LM's schedule alone.

    A sentence is known by the word after its full stop (or the end), a claim by the end of its
    line, a verdict by its only word.
    """
    answered, latest = answer_prompt(question), 0.0
    read = pieces(" ".join(_sentences(question)))
    at = 0
    for sentence in _sentences(question):
        at += len(sentence.split())
        begun = lm.due(answered, at)
        asked, lines_at = extract_prompt(sentence), 0
        for line in _claims(sentence).splitlines():
            lines_at += len(line.split())
            found = begun + lm.due(asked, lines_at) + SEARCH_S
            latest = max(latest, found + lm.first_s)
    assert at == len(read)
    return latest


class LM(Protocol):
    """What the hand-written version asks of a language model."""

    def stream(self, prompt: str) -> AsyncIterator[str]: ...


@dataclass(frozen=True, slots=True)
class ScheduledLM:
    """A language model in this process that writes one word at a time, by the clock.

    `first_s` is the time to the first word; `gap_s` the mean time between words (each prompt has
    its own pace within a fifth of it, so that requests started together do not stay in step).
    There is no limit on calls at a time. `calls` and `words` are for the tests' accounts.
    """

    first_s: float = 0.150
    gap_s: float = 0.020

    def pace(self, prompt: str) -> float:
        """Seconds between two words of the answer to this prompt."""
        return self.gap_s * _luck(prompt, "pace", 80, 120) / 100

    def due(self, prompt: str, words: int) -> float:
        """Seconds from the prompt to the given number of words of its answer."""
        return self.first_s + self.pace(prompt) * (words - 1)

    async def stream(self, prompt: str) -> AsyncGenerator[str, None]:
        """The answer word by word. Each piece carries the white space after it."""
        time, gap = asyncio.get_running_loop().time, self.pace(prompt)
        due = time() + self.first_s
        for piece in pieces(respond(prompt)):
            await asyncio.sleep(due - time())
            yield piece
            due += gap

    async def complete(self, prompt: str) -> str:
        """The whole answer, read word by word all the same: a contender that cannot pass words on
        pays for reading them like the others, so what it costs beyond that is its own."""
        return "".join([piece async for piece in self.stream(prompt)])


@cache
def pieces(text: str) -> tuple[str, ...]:
    """A text in words, the white space kept at the end of each."""
    found: list[str] = []
    start = 0
    for end in range(1, len(text)):
        if text[end - 1].isspace() and not text[end].isspace():
            found.append(text[start:end])
            start = end
    found.append(text[start:])
    return tuple(found)
