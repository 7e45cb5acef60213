"""Check a chatbot's answer claim by claim while it is being written (the shape of FacTool).

    answer ─▶ extract ─▶ ask ─▶ search          each claim is turned into two queries, each query
                 │                  │            finds passages, and the passages of a claim meet
                 └────── verify ◀───┘            again at its verdict; nobody writes a key or a join
                            │
                          report

Run it with a simulated LM, which shows the timing, or with a real one:

    python examples/factcheck.py
    python examples/factcheck.py --engine URL --model NAME "..."
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

import alto
from alto import Sentence, Stream, lm, pipeline, stage
from alto.demo.retrieval import Passages


class Claim(BaseModel):
    text: str


class Query(BaseModel):
    text: str


class Verdict(BaseModel):
    reasoning: str
    factual: bool


@dataclass
class Report:
    question: str
    claims: int
    false: list[str]


@lm(engine="chat", max_tokens=300, returns=Stream[Sentence])
def answer(question: str) -> str:
    return f"Answer in a few sentences.\nQuestion: {question}"


@lm(engine="chat", temperature=0, returns=Stream[Claim])
def extract(sentence: Sentence) -> str:
    return (
        "List the factual claims of the sentence. Each must be understandable alone. Give a JSON "
        f'array of {{"text": ...}}; an empty array if there is none.\nSentence: {sentence}'
    )


@lm(engine="chat", temperature=0, returns=Stream[Query])
def ask(claim: Claim) -> str:
    return (
        "Write two search queries that would show whether the claim is true. Give a JSON array of "
        f'{{"text": ...}}.\nClaim: {claim.text}'
    )


@stage
class Search:
    """BM25 over the passages that come with ALTO's demo; the index is built once."""

    def __init__(self, passages: int = 3) -> None:
        self.index = Passages()
        self.passages = passages

    def __call__(self, query: Query) -> list[str]:
        return [passage.text for passage in self.index.search(query.text, self.passages)]


@lm(engine="chat", temperature=0, max_tokens=200, returns=Verdict)
def verify(claim: Claim, evidence: list[list[str]]) -> str:
    """Runs once per claim. `evidence` is a list over what `Search` gives (a list per query), so it
    gathers the passages of all of this claim's queries."""
    passages = "\n".join(f"- {text}" for found in evidence for text in found)
    return (
        'Is the claim supported by the passages? Give JSON {"reasoning": ..., "factual": ...}.\n'
        f"Passages:\n{passages}\nClaim: {claim.text}"
    )


@stage
async def report(question: str, claims: list[Claim], verdicts: list[Verdict]) -> Report:
    """Once per question, over everything under it."""
    false = [c.text for c, v in zip(claims, verdicts, strict=True) if not v.factual]
    return Report(question, len(claims), false)


@pipeline
def factcheck(question: str) -> dict[str, Any]:
    sentences = answer(question)
    claims = extract(sentences)
    evidence = Search(ask(claims))
    verdicts = verify(claims, evidence)
    return {
        "sentences": sentences,
        "claims": claims,
        "verdicts": verdicts,
        "report": report(question, claims, verdicts),
    }


async def main(question: str, engine: str | None, model: str) -> None:
    chat = alto.OpenAI(url=engine, model=model) if engine else alto.Simulated()
    async with alto.Runtime(alto.Config(engines={"chat": chat})) as runtime:
        start = asyncio.get_running_loop().time()
        async for event in runtime.stream(factcheck, question):
            at = asyncio.get_running_loop().time() - start
            print(f"{at:6.2f} s  {event.output:9} {'.'.join(map(str, event.path)):5} {event.value}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check an answer while it is written.")
    parser.add_argument("question", nargs="?", default="Who discovered penicillin?")
    parser.add_argument("--engine", help="an OpenAI-compatible server, .../v1")
    parser.add_argument("--model", default="default")
    given = parser.parse_args()
    asyncio.run(main(given.question, given.engine, given.model))
