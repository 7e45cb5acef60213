"""What the demo knows: real questions, a chatbot's real answers, and people's verdicts on them.

`recorded_text(stage, arguments)` plays every language model of the demo from the record: the
answer as it was given, the claims that a sentence of it makes, and the verdict that annotators
reached on a claim. Nothing here is made up; what nobody recorded is an error. The sources and
their licences are in `data/README.md`.

The record knows sentences as its authors cut them, and a cutter may cut elsewhere. So claims are
found by place, not by text: a sentence is looked up in the answer by its letters and digits, and
is given the claims of every recorded sentence that *ends* inside it.

Always true:
    D1  however an answer is cut into pieces of three words or more, its claims come out once each
        and in the recorded order
    D2  the same arguments give the same text
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from itertools import accumulate
from typing import Any, Literal
from urllib.parse import urlsplit

from ..errors import EngineError

Label = Literal["SUPPORTED", "REFUTED", "UNKNOWN"]

# What an annotator may have found in a passage that leads to a label, the strongest first.
_DECIDING: Mapping[str, tuple[str, ...]] = {
    "SUPPORTED": ("completely-support", "partially-support"),
    "REFUTED": ("refute",),
    "UNKNOWN": (),
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement of fact that can be checked by itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence says of a claim.

    `passage` is the number (from 1) of the passage that decided it, if one of those given did;
    `correction` is the claim put right, empty if nothing is known to be wrong.
    """

    label: Label
    passage: int | None = None
    correction: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a web page. `str()` gives it as a model reads it: where from, then the text."""

    id: str
    url: str
    text: str

    @property
    def host(self) -> str:
        """The site that it was quoted from."""
        return (urlsplit(self.url).hostname or self.url).removeprefix("www.")

    def __str__(self) -> str:
        return f"[{self.host}] {self.text}"


@dataclass(frozen=True, slots=True)
class RecordedClaim:
    """A claim, the annotators' verdict, and what they read in each passage (by its id)."""

    text: str
    label: Label
    correction: str
    stances: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the answer that `model` gave, and the claims in it by sentence."""

    id: str
    text: str
    answer: str
    model: str
    sentences: tuple[tuple[str, tuple[RecordedClaim, ...]], ...]

    @property
    def claims(self) -> tuple[RecordedClaim, ...]:
        return tuple(claim for _, claims in self.sentences for claim in claims)


def _rows(name: str) -> Iterator[dict[str, Any]]:
    packed = files(__package__).joinpath("data", name).read_bytes()
    return map(json.loads, gzip.decompress(packed).splitlines())


@cache
def questions() -> tuple[Question, ...]:
    """Every recorded question; the first is the one shown when nobody asks for another."""
    return tuple(
        Question(
            id=row["id"],
            text=row["question"],
            answer=row["answer"],
            model=row["model"],
            sentences=tuple(
                (sentence["text"], tuple(RecordedClaim(**claim) for claim in sentence["claims"]))
                for sentence in row["sentences"]
            ),
        )
        for row in _rows("questions.jsonl.gz")
    )


@cache
def passages() -> tuple[Passage, ...]:
    """Every passage that can be found: what the annotators read, and distractors."""
    return tuple(Passage(**row) for row in _rows("passages.jsonl.gz"))


def find_question(text: str) -> Question:
    """The recorded question that is meant: its number (from 1), or its text but for case and
    punctuation."""
    if text.isdecimal() and 1 <= int(text) <= len(questions()):
        return questions()[int(text) - 1]
    wanted = _letters(text)
    by_letters = {_letters(question.text): question for question in questions()}
    if wanted in by_letters:
        return by_letters[wanted]
    near = get_close_matches(wanted, by_letters, n=1, cutoff=0.0)
    raise _unrecorded(
        f"no answer to {text!r} is recorded; the nearest of the {len(by_letters)} recorded "
        f"questions is {by_letters[near[0]].text!r}"
    )


def recorded_text(stage: str, arguments: Mapping[str, Any]) -> str:
    """What the language model behind a stage of the demo wrote, given the stage's arguments."""
    match stage:
        case "answer":
            return find_question(str(arguments["question"])).answer
        case "extract":
            claims = _claims_in(str(arguments["sentence"]))
            return _json([{"text": claim.text} for claim in claims])
        case "verify":
            return _verdict(text_of(arguments["claim"]), arguments["evidence"])
    raise _unrecorded(f"stage {stage!r} is not recorded, only answer, extract and verify are")


def _unrecorded(what: str) -> EngineError:
    return EngineError(
        f"The demo plays recorded answers: {what}. Ask a recorded question (alto demo --list), "
        "or let a live model answer: alto demo --engine URL --model NAME QUESTION.",
        engine="recorded",
        retryable=False,
    )


def _letters(text: str) -> str:
    """Letters and digits only: what stays the same under cutting, quoting and spacing."""
    return re.sub(r"[\W_]+", "", text).casefold()


def text_of(claim: Any) -> str:
    """The text of a claim, whatever kind of struct it is."""
    if isinstance(claim, Mapping):
        return str(claim["text"])
    return str(getattr(claim, "text", claim))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer by its letters, where the record cuts it (nought and its length included), and
    the claims between two cuts."""

    letters: str
    cuts: tuple[int, ...]
    claims: tuple[tuple[RecordedClaim, ...], ...]

    def between(self, start: int, stop: int) -> tuple[RecordedClaim, ...]:
        """The claims of the recorded sentences that end in `letters[start:stop]`."""
        return tuple(
            claim
            for end, claims in zip(self.cuts[1:], self.claims, strict=True)
            if start < end <= stop
            for claim in claims
        )


@cache
def _answers() -> tuple[_Answer, ...]:
    """The shipped answers consist of their recorded sentences (a test looks), so the cuts are
    sums of lengths."""
    return tuple(
        _Answer(
            letters=_letters(question.answer),
            cuts=tuple(
                accumulate((len(_letters(text)) for text, _ in question.sentences), initial=0)
            ),
            claims=tuple(claims for _, claims in question.sentences),
        )
        for question in questions()
    )


def _claims_in(sentence: str) -> tuple[RecordedClaim, ...]:
    """The claims made by a piece of an answer, wherever it was cut.

    A piece of a few letters may stand in several places: the one whose ends are ends of recorded
    sentences is meant, else the first.
    """
    wanted = _letters(sentence)
    if not wanted:
        return ()
    places = [
        (answer, start, start + len(wanted))
        for answer in _answers()
        for start in _occurrences(wanted, answer.letters)
    ]
    if not places:
        raise _unrecorded(f"no recorded answer contains the sentence {sentence!r}")
    answer, start, stop = max(
        places, key=lambda place: (place[1] in place[0].cuts) + (place[2] in place[0].cuts)
    )
    return answer.between(start, stop)


def _occurrences(wanted: str, text: str) -> Iterator[int]:
    start = text.find(wanted)
    while start >= 0:
        yield start
        start = text.find(wanted, start + 1)


@cache
def _claims() -> Mapping[str, RecordedClaim]:
    return {_letters(claim.text): claim for question in questions() for claim in question.claims}


@cache
def _passage_ids() -> Mapping[str, str]:
    return {str(passage): passage.id for passage in passages()}


def _verdict(claim: str, evidence: Sequence[Any]) -> str:
    recorded = _claims().get(_letters(claim))
    if recorded is None:
        raise _unrecorded(f"nobody judged the claim {claim!r}")
    given = [recorded.stances.get(_passage_ids().get(str(text), ""), "") for text in evidence]
    deciding = next((s for s in _DECIDING[recorded.label] if s in given), None)
    return _json(
        {
            "label": recorded.label,
            "passage": None if deciding is None else given.index(deciding) + 1,
            "correction": recorded.correction,
        }
    )
