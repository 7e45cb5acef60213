"""The record behind the demo: claims are found wherever an answer is cut; nothing is invented."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from alto.core.sentences import Sentences
from alto.demo.data import (
    Claim,
    Question,
    find_question,
    passages,
    questions,
    recorded_text,
)
from alto.errors import EngineError

EVERY_QUESTION = pytest.mark.parametrize("question", questions(), ids=lambda q: q.id)


def letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text)


def claims_of(sentence: str) -> list[str]:
    return [claim["text"] for claim in json.loads(recorded_text("extract", {"sentence": sentence}))]


def test_what_is_shipped() -> None:
    claims = [claim for question in questions() for claim in question.claims]
    assert len(questions()) == 17
    assert Counter(claim.label for claim in claims) == {
        "SUPPORTED": 99,
        "REFUTED": 38,
        "UNKNOWN": 7,
    }
    assert len(passages()) == 4386
    known = {passage.id for passage in passages()}
    assert all(claim.stances.keys() <= known for claim in claims)


@EVERY_QUESTION
def test_an_answer_consists_of_its_sentences(question: Question) -> None:
    assert letters(question.answer) == "".join(letters(text) for text, _ in question.sentences)


@EVERY_QUESTION
def test_a_claim_is_judged_once(question: Question) -> None:
    everything = Counter(claim.text for asked in questions() for claim in asked.claims)
    assert all(everything[claim.text] == 1 for claim in question.claims)


@EVERY_QUESTION
def test_the_recorded_sentences_give_their_claims(question: Question) -> None:
    for text, claims in question.sentences:
        assert claims_of(text) == [claim.text for claim in claims]


@EVERY_QUESTION
def test_every_claim_comes_out_once_wherever_the_answer_is_cut(question: Question) -> None:
    words = question.answer.split()
    expected = [claim.text for claim in question.claims]
    for cut in range(3, len(words) - 2):
        parts = " ".join(words[:cut]), " ".join(words[cut:])
        assert [claim for part in parts for claim in claims_of(part)] == expected
    assert claims_of(question.answer) == expected


@EVERY_QUESTION
def test_every_claim_comes_out_once_when_the_answer_is_cut_as_it_streams(
    question: Question,
) -> None:
    cutter = Sentences()
    sentences = [item for letter in question.answer for item in cutter.feed(letter)]
    sentences += cutter.finish()
    expected = [claim.text for claim in question.claims]
    assert [claim for sentence in sentences for claim in claims_of(sentence)] == expected


def test_a_sentence_may_be_quoted_spaced_and_spelled_in_capitals() -> None:
    text, claims = questions()[0].sentences[0]
    changed = f"  “{text.upper()}”\n"
    assert claims_of(changed) == [claim.text for claim in claims]


def test_punctuation_makes_no_claim() -> None:
    assert claims_of("...") == []


@pytest.mark.parametrize(
    "asked",
    ["1", "What U.S. state produces the most peaches?", "what us state produces the most PEACHES"],
)
def test_a_question_is_found_by_number_or_text(asked: str) -> None:
    assert find_question(asked) is questions()[0]
    assert recorded_text("answer", {"question": asked}) == questions()[0].answer


def test_a_verdict_names_the_passage_that_decided_it_and_the_correction() -> None:
    claim = questions()[0].claims[1]
    by_id = {passage.id: str(passage) for passage in passages()}
    refuting = next(id for id, stance in claim.stances.items() if stance == "refute")
    other = next(id for id, stance in claim.stances.items() if stance == "irrelevant")
    arguments = {"claim": Claim(claim.text), "evidence": [by_id[other], by_id[refuting]]}
    assert json.loads(recorded_text("verify", arguments)) == {
        "label": "REFUTED",
        "passage": 2,
        "correction": "Georgia is the third largest producer of peaches in the United States.",
    }


def test_a_verdict_without_a_deciding_passage_names_none() -> None:
    claim = questions()[0].claims[0]
    for given in (Claim(claim.text), {"text": claim.text}, claim.text):
        text = recorded_text("verify", {"claim": given, "evidence": ["anything"]})
        assert json.loads(text) == {"label": "SUPPORTED", "passage": None, "correction": ""}


@pytest.mark.parametrize(
    ("stage", "arguments", "named"),
    [
        ("answer", {"question": "Who produces peaches?"}, "produces the most peaches"),
        ("answer", {"question": "99"}, "'99'"),
        ("extract", {"sentence": "The moon is made of cheese."}, "made of cheese"),
        ("verify", {"claim": Claim("Pigs fly."), "evidence": []}, "Pigs fly."),
        ("draft", {}, "'draft'"),
    ],
)
def test_what_nobody_recorded_is_an_error_that_says_what_to_do(
    stage: str, arguments: dict[str, object], named: str
) -> None:
    with pytest.raises(EngineError) as raised:
        recorded_text(stage, arguments)
    assert named in str(raised.value)
    assert "--engine URL" in str(raised.value)
    assert not raised.value.retryable
