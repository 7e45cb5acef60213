"""A grounded chatbot with two branches that run side by side (the shape of WikiChat).

    turn ─┬▶ search_query ─▶ retrieve ─▶ summarize ─────────┐
          │                                                 ├ merge ─▶ first_ten ─▶ draft ─▶ refine
          └▶ generate ─▶ split ─▶ evidence ─▶ verify ─ where┘

The left branch asks Wikipedia what it knows; the right one lets the LM answer freely, splits that
into claims and keeps the supported ones. `merge` puts the search results first and the claims after
them, whatever order they are finished in. `first_ten` returns as soon as it has ten, and everything
that was still under way for the rest is cancelled.

    python examples/wikichat.py                                    simulated LM: shows the timing
    python examples/wikichat.py --engine URL --model NAME "..."    a real one
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any, Literal

from pydantic import BaseModel

import alto
from alto import Line, Stream, lm, pipeline, stage
from alto.demo.retrieval import Passages

Judgement = Literal["SUPPORTS", "REFUTES", "NOT ENOUGH INFO"]


class Claim(BaseModel):
    text: str


class Checked(BaseModel):
    claim: Claim
    judgement: str


@stage
class Wikipedia:
    """Passages for a query, as a stream: each can be read before the last is found."""

    def __init__(self, passages: int = 3) -> None:
        self.index = Passages()
        self.passages = passages

    def __call__(self, query: str) -> Stream[str]:
        return Stream.of(*[p.text for p in self.index.search(query, self.passages)])


@stage
class Evidence:
    """Passages for a claim, all at once."""

    def __init__(self, passages: int = 2) -> None:
        self.index = Passages()
        self.passages = passages

    def __call__(self, claim: Claim) -> list[str]:
        return [passage.text for passage in self.index.search(claim.text, self.passages)]


@lm(engine="chat", max_tokens=50, returns=str)
def search_query(turn: str) -> str:
    return f"Write one Wikipedia search query that helps to answer.\nUser: {turn}\nQuery:"


@lm(engine="chat", max_tokens=200, returns=Stream[Line])
def summarize(turn: str, passage: str) -> str:
    return (
        "List what of the passage helps to answer the user, one fact a line. Write nothing if "
        f"nothing does.\nUser: {turn}\nPassage: {passage}"
    )


@lm(engine="chat", max_tokens=250, returns=str)
def generate(turn: str) -> str:
    return f"Answer the user from what you know.\nUser: {turn}"


@lm(engine="chat", max_tokens=300, returns=Stream[Claim])
def split(free_answer: str) -> str:
    return (
        "Split the answer into claims that can be understood alone. Give a JSON array of "
        f'{{"text": ...}}.\nAnswer: {free_answer}'
    )


@lm(engine="chat", max_tokens=200, returns=Judgement)
def verify(claim: Claim, evidence: list[str]) -> str:
    passages = "\n".join(evidence)
    return (
        "Does the evidence support the claim? Answer SUPPORTS, REFUTES or NOT ENOUGH INFO.\n"
        f"Evidence: {passages}\nClaim: {claim.text}"
    )


@stage
async def checked(claim: Claim, judgement: Judgement) -> Checked:
    return Checked(claim=claim, judgement=judgement)


@stage
async def text_of(item: Checked) -> str:
    return item.claim.text


@stage
async def first_ten(facts: Stream[str]) -> list[str]:
    """In order: search results before claims. Returning early cancels what is left."""
    kept: list[str] = []
    async for fact in facts:
        if fact not in kept:
            kept.append(fact)
        if len(kept) == 10:
            break
    return kept


@lm(engine="chat", max_tokens=250, returns=Stream[str])
def draft(turn: str, facts: list[str]) -> str:
    known = "\n".join(f"[{number}] {fact}" for number, fact in enumerate(facts, 1))
    return f"Answer the user with these facts only, and cite them.\nFacts:\n{known}\nUser: {turn}"


@lm(engine="chat", max_tokens=300, returns=Stream[str])
def refine(turn: str, reply: list[str]) -> str:
    return f"Improve the reply without adding facts.\nUser: {turn}\nReply: {''.join(reply)}"


@pipeline
def wikichat(turn: str) -> dict[str, Any]:
    bullets = summarize(turn, Wikipedia(search_query(turn)))
    claims = split(generate(turn))
    judged = checked(claims, verify(claims, Evidence(claims)))
    supported = text_of(judged.where(lambda item: item.judgement == "SUPPORTS"))
    facts = first_ten(alto.merge(bullets, supported))
    return {"facts": facts, "reply": refine(turn, draft(turn, facts))}


async def main(turn: str, engine: str | None, model: str) -> None:
    chat = alto.OpenAI(url=engine, model=model) if engine else alto.Simulated()
    async with alto.Runtime(alto.Config(engines={"chat": chat})) as runtime:
        async for event in runtime.stream(wikichat, turn):
            if event.output == "reply":
                print(event.value, end="", flush=True)
            else:
                print(f"{event.output}: {event.value}\n")
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A grounded answer from two branches.")
    parser.add_argument("turn", nargs="?", default="Who was the first woman in space?")
    parser.add_argument("--engine", help="an OpenAI-compatible server, .../v1")
    parser.add_argument("--model", default="default")
    given = parser.parse_args()
    asyncio.run(main(given.turn, given.engine, given.model))
