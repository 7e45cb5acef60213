"""What simulated servers answer to embedding and rerank calls: made-up numbers that make sense.

A vector counts the character trigrams of a text's words, each hashed to a place and a sign, scaled
to length 1. Texts with words in common, or words alike, are near each other by the cosine; others
are nearly orthogonal. A score is the part of the query's words that the document has, with a little
of that cosine so that alike words count too. A user's own functions may take the place of both.

Always true:
    E1  equal texts have equal vectors and scores, in any process
    E2  a made-up vector has length 1
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import mul
from zlib import crc32

from ..core.calls import Delta, Usage
from ..core.encode import EmbedCall, Embedded, EncodeCall, RerankCall, Scored, Vector
from ..errors import AltoError, EngineError
from .tokens import tokenize

Embed = Callable[[str], Sequence[float]]
"""Gives the vector of a text."""

Score = Callable[[str, str], float]
"""Says how well a document (second) answers a query (first); more is better."""

PAIR_TOKENS = 3
"""What a reranking model reads beside the query and the document: begin, between, end."""

_WORD = re.compile(r"\w+")


class Encoder:
    """Answers `EncodeCall`s. `dimensions` is the length of made-up vectors."""

    def __init__(
        self, dimensions: int, embed: Embed | None = None, score: Score | None = None
    ) -> None:
        self.dimensions = dimensions
        self._embed = embed or (lambda text: hashed(text, dimensions))
        self._score = score or overlap

    def inputs(self, call: EncodeCall, piece: int) -> list[list[str]]:
        """The tokens of each sequence that a server reads for the call."""
        if isinstance(call, EmbedCall):
            return [tokenize(text, piece) for text in call.inputs]
        assert isinstance(call, RerankCall)
        query = tokenize(call.query, piece)
        marks = ["<|pair|>"] * PAIR_TOKENS
        return [marks + query + tokenize(document, piece) for document in call.documents]

    def answer(self, call: EncodeCall, usage: Usage, name: str) -> Delta:
        """The whole answer. `name` is the server's, for errors."""
        try:
            if isinstance(call, EmbedCall):
                return Embedded.of([self._vector(call, text, name) for text in call.inputs], usage)
            assert isinstance(call, RerankCall)
            scores = [float(self._score(call.query, each)) for each in call.documents]
        except AltoError:
            raise
        except Exception as error:
            raise EngineError(
                f"replica {name}: embed() or score() raised {type(error).__name__}: {error}",
                engine=name,
                retryable=False,
            ) from error
        best = sorted(range(len(scores)), key=lambda at: (-scores[at], at))[: call.top_n]
        return Scored.of({at: scores[at] for at in best}, usage)

    def _vector(self, call: EmbedCall, text: str, name: str) -> Vector:
        vector = [float(each) for each in self._embed(text)]
        if call.dimensions is None:
            return vector
        if call.dimensions > len(vector):
            raise EngineError(
                f"replica {name}: {call.dimensions} dimensions were asked for, its vectors have "
                f"{len(vector)}: ask for fewer, or set dimensions of the simulated engine",
                engine=name,
                status=400,
                retryable=False,
            )
        return unit(vector[: call.dimensions])


def hashed(text: str, dimensions: int) -> Vector:
    """The made-up vector of a text."""
    vector = [0.0] * dimensions
    for word in _WORD.findall(text.lower()) or [text]:
        for mark in _trigrams(word):
            vector[(mark >> 1) % dimensions] += 1.0 if mark & 1 else -1.0
    return unit(vector)


def unit(vector: Vector) -> Vector:
    """A vector scaled to length 1; one of zeros becomes the first axis."""
    length = math.sqrt(math.fsum(each * each for each in vector))
    if not length:
        return [1.0, *vector[1:]]
    return [each / length for each in vector]


def overlap(query: str, document: str) -> float:
    """The made-up score, from 0 to 1."""
    asked = set(_WORD.findall(query.lower()))
    found = asked.intersection(_WORD.findall(document.lower()))
    alike: float = sum(map(mul, hashed(query, 256), hashed(document, 256)))
    return 0.8 * len(found) / max(1, len(asked)) + 0.2 * max(0.0, alike)


@lru_cache(maxsize=8192)
def _trigrams(word: str) -> tuple[int, ...]:
    marked = f"^{word}$".encode("utf-8", "surrogatepass")
    return tuple(crc32(marked[at : at + 3]) for at in range(max(1, len(marked) - 2)))
