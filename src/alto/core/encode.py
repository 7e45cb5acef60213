"""Calls that are answered with numbers: embeddings and reranking. Plain values, no I/O.

They are `Call`s, so a pool queues, places, retries and hedges them like any other, by the size of
what is to be read. Their answer is one `Delta` without text, `Embedded` or `Scored`, that carries
the numbers beside the finish reason and the usage.

A call that waits for a replica with room may still take in more inputs. Whoever sends it says
`seal()` first; from then on its inputs stay as they are, on every replica that they go to.

Always true:
    V1  after `seal()` the inputs of a call do not change
    V2  an answer has one vector, or one score, for each input, in the order of the inputs
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..errors import EngineError
from .calls import Delta, Measured, Message, Usage

Vector = list[float]


@dataclass(slots=True, kw_only=True)
class EncodeCall(Measured):
    """What embedding and reranking have in common; see `Call` for the other fields."""

    messages: list[Message] = field(default_factory=list)
    """None: the inputs stand in fields of their own."""
    sealed: bool = False

    def seal(self) -> None:
        """The inputs are final: an engine is about to read them."""
        self.sealed = True


@dataclass(slots=True, kw_only=True)
class EmbedCall(EncodeCall):
    """Turn each of the inputs into a vector, of so many `dimensions` if the model can choose."""

    inputs: list[str]
    dimensions: int | None = None

    def __post_init__(self) -> None:
        self.prompt.size = sum(map(bytes_of, self.inputs))

    def add(self, text: str, size: int) -> None:
        """One more input, of so many bytes."""
        assert not self.sealed, "V1"
        self.inputs.append(text)
        self.prompt.size += size


@dataclass(slots=True, kw_only=True)
class RerankCall(EncodeCall):
    """Say how well each of the documents answers the query. `top_n`: only of the best so many."""

    query: str
    documents: Sequence[str]
    top_n: int | None = None

    def __post_init__(self) -> None:
        pairs = bytes_of(self.query) * len(self.documents)
        self.prompt.size = pairs + sum(map(bytes_of, self.documents))


class Embedded(Delta):
    """The answer to an `EmbedCall`: its only delta."""

    vectors: Sequence[Vector]

    @classmethod
    def of(cls, vectors: Sequence[Vector], usage: Usage | None) -> Embedded:
        made = cls(finish_reason="stop", usage=usage)
        made.vectors = vectors
        return made


class Scored(Delta):
    """The answer to a `RerankCall`: its only delta. `scores` is by the place of the document; with
    `top_n` it may have only the best."""

    scores: dict[int, float]

    @classmethod
    def of(cls, scores: dict[int, float], usage: Usage | None) -> Scored:
        made = cls(finish_reason="stop", usage=usage)
        made.scores = scores
        return made


class BadAnswer(EngineError):
    """A server answered an `EncodeCall`, but not with what was asked for: too few vectors, numbers
    that are none. Another server may do better, and so may a part of the inputs."""


class Vectors(list[Vector]):
    """What embedding gives: a vector for each text, in order. `usage` is what it cost."""

    def __init__(self, vectors: Iterable[Vector] = (), usage: Usage | None = None) -> None:
        super().__init__(vectors)
        self.usage = usage or Usage()


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document that was scored: its place in the list that was given, its score (more is better;
    the scale is the model's) and its text."""

    index: int
    score: float
    document: str


class Ranking(list[Ranked]):
    """What reranking gives: the best document first. `usage` is what it cost."""

    def __init__(self, ranked: Iterable[Ranked] = (), usage: Usage | None = None) -> None:
        super().__init__(ranked)
        self.usage = usage or Usage()


def ranking(documents: Sequence[str], scores: dict[int, float], top_n: int | None) -> list[Ranked]:
    """The best `top_n` documents (None: all that have a score), the best first. Of equal ones the
    earlier comes first."""
    order = sorted(scores, key=lambda index: (-scores[index], index))
    return [Ranked(index, scores[index], documents[index]) for index in order[:top_n]]


def shares(total: int, sizes: Sequence[int]) -> list[int]:
    """A whole number divided in proportion, without a rest: who pays for what of a batch."""
    whole = sum(sizes)
    if not whole:
        return [total if at == 0 else 0 for at in range(len(sizes))]
    parts = []
    given = seen = 0
    for size in sizes:
        seen += size
        until = total * seen // whole
        parts.append(until - given)
        given = until
    return parts


def bytes_of(text: str) -> int:
    """The length of a text as a pool measures it."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
