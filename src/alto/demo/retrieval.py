"""Search over the demo's passages: BM25, by the library bm25s.

`Passages` is a class stage: an instance is ready when it is made and then answers many claims,
from several threads if need be (a query only reads). Making an index takes about a second, so
instances over the shipped passages share one.

Always true:
    R1  results come best first, ties in the order of the passages
    R2  a passage that shares no word with the query is no result
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from types import ModuleType
from typing import Any

from ..errors import ConfigError
from .data import Claim, Passage, passages

# The usual parameters of BM25 for passages of about a hundred words.
_K1 = 1.2
_B = 0.75

# What a verdict is given to read, about 500 words. Ten passages would find one claim in ten more.
EVIDENCE_PASSAGES = 5


class Passages:
    """The passages of the demo, or others, to be searched.

    Called with a claim it is the stage `search`: the texts of the passages that fit best.
    """

    def __init__(self, contents: Sequence[Passage] | None = None) -> None:
        self._index = _Index(contents) if contents is not None else _shared_index()

    def __call__(self, claim: Claim) -> list[str]:
        return [str(passage) for passage in self.search(claim.text, EVIDENCE_PASSAGES)]

    def search(self, query: str, k: int = EVIDENCE_PASSAGES) -> list[Passage]:
        """The `k` passages that fit best, fewer if fewer share a word with the query."""
        return self._index.search(query, k)


class _Index:
    def __init__(self, contents: Sequence[Passage]) -> None:
        self._bm25s = _library()
        self._contents = tuple(contents)
        self._ranking: Any = self._bm25s.BM25(k1=_K1, b=_B)
        words = self._bm25s.tokenize(
            [passage.text for passage in self._contents], stopwords="en", show_progress=False
        )
        self._ranking.index(words, show_progress=False)

    def search(self, query: str, k: int) -> list[Passage]:
        (words,) = self._bm25s.tokenize(
            [query], stopwords="en", return_ids=False, show_progress=False
        )
        if not words:
            return []
        # The library's own top-k leaves the order of ties open, so only its scores are asked for.
        scores = self._ranking.get_scores(words)
        best = (-scores).argsort(kind="stable")[:k]
        return [self._contents[index] for index in best if scores[index] > 0]


_made: list[_Index] = []
_making = Lock()


def _shared_index() -> _Index:
    """The index over the shipped passages, made by whoever comes first."""
    with _making:
        if not _made:
            _made.append(_Index(passages()))
        return _made[0]


def _library() -> ModuleType:
    try:
        import bm25s
    except ImportError as error:
        raise ConfigError(
            "The demo searches its passages with the library bm25s, which cannot be imported "
            f"({error}). Install it with: pip install 'alto[demo]'"
        ) from error
    module: ModuleType = bm25s
    return module
