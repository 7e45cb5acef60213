"""FacTool's shape: an answer is written, cut into claims, and each claim is asked for and judged.

    answer ─▶ extract ─▶ ask ─▶ search          the graph of examples/factcheck.py, with texts of
                 │                  │           recorded lengths
                 └────── verify ◀───┘
                            │
                          report

FacTool extracts from the whole response; here, in every contender alike, each sentence is a call,
which is the stronger form for a system without streaming too, as the calls run side by side.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from alto import Call, Pipeline, Sentence, Stream, lm, pipeline, stage

from . import texts
from .settings import TABLE

NAME = "factool"
LM_STAGES = ("answer", "extract", "ask", "verify")
PREFIX: dict[str, int] = TABLE["factool"]["prefix"]
SUFFIX: dict[str, int] = TABLE["factool"]["suffix"]
SEARCH_S: float = TABLE["factool"]["search"]["seconds"]


class Claim(msgspec.Struct):
    text: str


class Query(msgspec.Struct):
    text: str


class Verdict(msgspec.Struct):
    reasoning: str
    factual: bool


def build(engines: Mapping[str, str]) -> Pipeline[[str], dict[str, Any]]:
    """The pipeline, with the engine that each LM stage uses."""

    @lm(engine=engines["answer"], returns=Stream[Sentence])
    def answer(turn: str) -> str:
        return texts.prompt("answer", PREFIX["answer"], turn)

    @lm(engine=engines["extract"], returns=Stream[Claim])
    def extract(turn: str, sentence: Sentence) -> str:
        return texts.prompt("extract", PREFIX["extract"], turn, sentence)

    @lm(engine=engines["ask"], returns=Stream[Query])
    def ask(claim: Claim) -> str:
        return texts.prompt("ask", PREFIX["ask"], claim.text)

    @stage
    async def search(query: Query) -> str:
        await asyncio.sleep(SEARCH_S)
        return snippets()[texts.name_of(query.text)]

    @lm(engine=engines["verify"], returns=Verdict)
    def verify(claim: Claim, evidence: list[str]) -> str:
        found = " ".join(evidence)
        return texts.prompt("verify", PREFIX["verify"], claim.text, found, suffix=SUFFIX["verify"])

    @stage
    async def report(verdicts: list[Verdict]) -> bool:
        return all(verdict.factual for verdict in verdicts)

    @pipeline
    def factool(turn: str) -> dict[str, Any]:
        claims = extract(turn, answer(turn))
        verdicts = verify(claims, search(ask(claims)))
        return {"verdicts": verdicts, "report": report(verdicts)}

    return factool


def records() -> list[texts.Record]:
    """What requests are drawn from."""
    return list(texts.records())


def respond(call: Call) -> str:
    """What the LM writes, found by the name of what it is asked about."""
    about = call.arguments
    match call.stage:
        case "answer":
            return answers()["answer", texts.name_of(about["turn"])]
        case "extract":
            return answers()["extract", texts.name_of(about["sentence"])]
        case stage_name:
            return answers()[stage_name, texts.name_of(about["claim"].text)]


@cache
def answers() -> dict[tuple[str, str], str]:
    """Every LM text, by stage and by name of what it is about."""
    found: dict[tuple[str, str], str] = {}
    for record in texts.records():
        found["answer", record.name] = record.answer()
        for name, claims in zip(record.sentence_names(), record.claims, strict=True):
            items = [{"text": texts.named(each.name, each.tokens)} for each in claims]
            found["extract", name.capitalize()] = json.dumps(items)
            for each in claims:
                queries = [
                    {"text": texts.named(f"{each.name}q{texts.LETTERS[at]}", tokens)}
                    for at, tokens in enumerate(each.queries)
                ]
                found["ask", each.name] = json.dumps(queries)
                reasoning = texts.words(each.verdict - VERDICT_FORM)
                found["verify", each.name] = json.dumps(
                    {"reasoning": reasoning, "factual": each.true}
                )
    return found


VERDICT_FORM = 15
"""Tokens of the JSON around the reasoning."""


@cache
def snippets() -> dict[str, str]:
    """What is found for each query: an equal share of the claim's snippets."""
    found: dict[str, str] = {}
    for record in texts.records():
        for claims in record.claims:
            for each in claims:
                share = texts.words(each.evidence // len(each.queries))
                for at in range(len(each.queries)):
                    found[f"{each.name}q{texts.LETTERS[at]}"] = share
    return found
