"""WikiChat's shape (v1.0, early_combine): two branches, seven LM stages, a reply from what is left.

    turn ─┬▶ query ─▶ retrieve ─▶ summarize ─────────────┐
          │                                              ├─ merge ─▶ facts ─▶ draft ─▶ refine
          └▶ generate ─▶ split ─▶ evidence ─▶ verify ────┘

The graph of examples/wikichat.py with texts of recorded lengths. The free answer is split sentence
by sentence, in every contender alike. How many passages a turn looks at (3, 6 or 9) is recorded:
WikiChat takes them in threes until three are relevant. A passage that is not gives no fact, and a
claim that is not supported neither. Records that would break WikiChat's own limits on what its
stages write are left out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

import alto
from alto import Call, Pipeline, Sentence, Stream, lm, pipeline, stage

from . import texts
from .settings import TABLE

NAME = "wikichat"
LM_STAGES = ("query", "summarize", "generate", "split", "verify", "draft", "refine")
PREFIX: dict[str, int] = TABLE["wikichat"]["prefix"]
OUTPUT: dict[str, int] = TABLE["wikichat"]["output"]
SEARCH_S: float = TABLE["wikichat"]["search"]["seconds"]
FACTS: int = TABLE["wikichat"]["counts"]["facts"]
MAX = {"generate": 250, "split": 300, "verify": 200, "draft": 250, "refine": 300}
"""WikiChat's own limits for what these stages write."""
NOTHING = " None"
RELEVANT, OTHER = "yes", "no"
"""How passages begin that have something to say, and others."""


class Claim(msgspec.Struct):
    text: str


def build(engines: Mapping[str, str]) -> Pipeline[[str], dict[str, Any]]:
    """The pipeline, with the engine that each LM stage uses."""

    @lm(engine=engines["query"], returns=str)
    def query(turn: str) -> str:
        return texts.prompt("query", PREFIX["query"], turn)

    @stage
    async def retrieve(turn: str, query: str) -> Stream[str]:
        await asyncio.sleep(SEARCH_S)
        return Stream.of(*passages()[texts.name_of(turn)])

    @lm(engine=engines["summarize"], returns=str)
    def summarize(turn: str, passage: str) -> str:
        return texts.prompt("summarize", PREFIX["summarize"], turn, passage)

    @lm(engine=engines["generate"], returns=Stream[Sentence])
    def generate(turn: str) -> str:
        return texts.prompt("generate", PREFIX["generate"], turn)

    @lm(engine=engines["split"], returns=Stream[Claim])
    def split(turn: str, sentence: Sentence) -> str:
        return texts.prompt("split", PREFIX["split"], turn, sentence)

    @stage
    async def evidence(claim: Claim) -> str:
        await asyncio.sleep(SEARCH_S)
        return found()[texts.name_of(claim.text)]

    @lm(engine=engines["verify"], returns=str)
    def verify(claim: Claim, evidence: str) -> str:
        return texts.prompt("verify", PREFIX["verify"], claim.text, evidence)

    @stage
    async def supported(claim: Claim, verdict: str) -> str:
        return claim.text if texts.name_of(claim.text) in true_claims() else NOTHING

    @stage
    async def facts(known: Stream[str]) -> list[str]:
        kept: list[str] = []
        async for fact in known:
            kept.append(fact)
            if len(kept) == FACTS:
                break
        return kept

    @lm(engine=engines["draft"], returns=str)
    def draft(turn: str, facts: list[str]) -> str:
        return texts.prompt("draft", PREFIX["draft"], turn, *facts)

    @lm(engine=engines["refine"], returns=str)
    def refine(turn: str, reply: str) -> str:
        return texts.prompt("refine", PREFIX["refine"], turn, reply)

    @pipeline
    def wikichat(turn: str) -> dict[str, Any]:
        bullets = summarize(turn, retrieve(turn, query(turn)))
        claims = split(turn, generate(turn))
        verdicts = verify(claims, evidence(claims))
        told = alto.merge(bullets, supported(claims, verdicts))
        known = facts(told.where(lambda fact: fact != NOTHING))
        return {"verdicts": verdicts, "reply": refine(turn, draft(turn, known))}

    return wikichat


@cache
def records() -> list[texts.Record]:
    """What requests are drawn from."""
    return [
        record
        for record in texts.records()
        if sum(record.sentences) <= MAX["generate"]
        and sum(each.tokens for claims in record.claims for each in claims) <= MAX["split"]
    ]


@cache
def true_claims() -> frozenset[str]:
    """The claims that are found to be supported."""
    return frozenset(
        each.name
        for record in records()
        for claims in record.claims
        for each in claims
        if each.true
    )


def respond(call: Call) -> str:
    """What the LM writes, found by the name of what it is asked about."""
    about = call.arguments
    match call.stage:
        case "split":
            return answers()["split", texts.name_of(about["sentence"])]
        case "verify":
            return answers()["verify", texts.name_of(about["claim"].text)]
        case "summarize":
            name = texts.name_of(about["passage"])
            return texts.words(OUTPUT["summary"]) if name == RELEVANT else NOTHING
        case stage_name:
            return answers()[stage_name, texts.name_of(about["turn"])]


@cache
def answers() -> dict[tuple[str, str], str]:
    """Every LM text but the summaries, by stage and by name of what it is about."""
    told: dict[tuple[str, str], str] = {}
    for record in records():
        answer = record.answer()
        length = sum(record.sentences)
        told["generate", record.name] = answer
        told["query", record.name] = texts.words(OUTPUT["query"])
        told["draft", record.name] = texts.words(min(length, MAX["draft"]))
        told["refine", record.name] = texts.words(min(OUTPUT["feedback"] + length, MAX["refine"]))
        for name, claims in zip(record.sentence_names(), record.claims, strict=True):
            items = [{"text": texts.named(each.name, each.tokens)} for each in claims]
            told["split", name.capitalize()] = json.dumps(items)
            for each in claims:
                told["verify", each.name] = texts.words(min(each.verdict, MAX["verify"]))
    return told


@cache
def passages() -> dict[str, list[str]]:
    """What is retrieved for each turn."""
    return {
        record.name: [
            texts.named(RELEVANT if is_relevant else OTHER, tokens)
            for tokens, is_relevant in zip(record.passages, record.relevant, strict=True)
        ]
        for record in records()
    }


@cache
def found() -> dict[str, str]:
    """The first passages of each claim."""
    return {
        each.name: texts.words(each.first)
        for record in records()
        for claims in record.claims
        for each in claims
    }
