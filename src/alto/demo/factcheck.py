"""The pipeline of the demo: a chatbot answers, and every claim that it makes is checked.

    question ─▶ answer ─▶ extract ─▶ search ─▶ verify ─▶ tally
                 sentences   claims    evidence   verdicts   one report

What goes over an arrow is a stream: the claims of the first sentence are looked up while the
second sentence is being written. The stages do not know; each is an ordinary function.
"""

from __future__ import annotations

from typing import Any

from ..annotations import Stream
from ..core.texts import Sentence
from ..pipeline import pipeline
from ..stages import lm, stage
from .data import Claim, Verdict
from .retrieval import Passages

ENGINE = "chat"
STAGES = ("answer", "extract", "search", "verify", "tally")

# What every call of a stage shares stands first, so that an engine reads it once and keeps it.
_EXTRACT = """\
List the factual claims that a sentence makes. A claim is one statement that can be looked up by
itself: name what pronouns stand for, and split what is joined by "and". Opinions, advice and
questions are no claims. Write a JSON array of objects with the one field "text", in the order of
the sentence, and an empty array if it claims nothing.

Sentence: The tower, built in 1889 by Gustave Eiffel's company, is 330 metres tall and beautiful.
Claims: [{"text": "The Eiffel Tower was built in 1889."}, {"text": "The Eiffel Tower was built by \
Gustave Eiffel's company."}, {"text": "The Eiffel Tower is 330 metres tall."}]
"""

_VERIFY = """\
Judge a claim by numbered passages alone. Write a JSON object with the fields "label", "passage"
and "correction":
- "label" is "SUPPORTED" if a passage says the same, "REFUTED" if a passage contradicts it, and
  "UNKNOWN" if none does either;
- "passage" is the number of the passage that decides, or null;
- "correction" is the claim put right if it is refuted, else "".
"""


@lm(engine=ENGINE, max_tokens=400, returns=Stream[Sentence])
def answer(question: str) -> str:
    return f"Answer in one paragraph of three to five sentences.\nQuestion: {question}\nAnswer:"


@lm(engine=ENGINE, max_tokens=600, temperature=0.0, returns=Stream[Claim])
def extract(sentence: Sentence) -> str:
    return f"{_EXTRACT}\nSentence: {sentence}\nClaims:"


search = stage(name="search", max_concurrency=4)(Passages)


@lm(engine=ENGINE, max_tokens=200, temperature=0.0, returns=Verdict)
def verify(claim: Claim, evidence: list[str]) -> str:
    passages = "\n".join(f"{number}. {text}" for number, text in enumerate(evidence, start=1))
    return f"{_VERIFY}\nPassages:\n{passages}\n\nClaim: {claim.text}\nVerdict:"


@stage
async def tally(verdicts: Stream[Verdict]) -> dict[str, int]:
    """How many claims were found right, wrong, and neither."""
    counts = {"SUPPORTED": 0, "REFUTED": 0, "UNKNOWN": 0}
    async for verdict in verdicts:
        counts[verdict.label] += 1
    return counts


@pipeline
def factcheck(question: str) -> Any:
    sentences = answer(question)
    claims: Any = extract(sentences)
    evidence: Any = search(claims)
    verdicts: Any = verify(claims, evidence)
    return {
        "sentences": sentences,
        "claims": claims,
        "evidence": evidence,
        "verdicts": verdicts,
        "report": tally(verdicts),
    }


@stage
async def complete(items: Stream[Any]) -> int:
    """There is a number once there is every item: what a barrier waits for."""
    return len([item async for item in items])


@stage
async def hold(item: Any, everything: int) -> Any:
    """The item as it is, but not before everything is there."""
    return item


@pipeline
def factcheck_by_stages(question: str) -> Any:
    """The same with a barrier after each stage: none begins before the one before has ended.

    Within a stage all calls still run at once, and outputs are shown as they come, so this is
    the fastest that can be had without streaming from stage to stage.
    """
    sentences: Any = answer(question)
    claims: Any = extract(hold(sentences, complete(sentences)))
    evidence: Any = search(hold(claims, complete(claims)))
    verdicts: Any = verify(claims, hold(evidence, complete(evidence)))
    return {
        "sentences": sentences,
        "claims": claims,
        "evidence": evidence,
        "verdicts": verdicts,
        "report": tally(verdicts),
    }
