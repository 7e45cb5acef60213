"""`embed` and `rerank` for engines: what a pool of servers can be asked besides text.

An engine has one verb, `stream(call)`. This turns lists of texts into the calls that fit into one
request each, has them streamed, and puts the answers together. Embedding is batched over callers
(`micro_batch.py`); reranking is not, as a request has one query, but long lists of documents are
sent in parts.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any, TypeVar, overload

from ..core.calls import Call, Delta, Usage, fields_of, mistake
from ..core.encode import (
    BadAnswer,
    EmbedCall,
    Ranking,
    RerankCall,
    Scored,
    Vector,
    Vectors,
    ranking,
)
from ..core.prefix import Prompt
from ..errors import AltoError, DeadlineExceeded, EngineError
from .batch_options import BatchOptions
from .micro_batch import TOO_MUCH, Batcher, only

RERANK_PARTS_MAX = 8
"""Requests of one `rerank` that are under way at once."""

T = TypeVar("T")


class Encodes:
    """An engine that embeds and reranks too, by way of its `stream`."""

    name: str
    batch_options = BatchOptions()
    """How large requests get. Set before the first call."""
    _batcher: Batcher | None = None

    @abstractmethod
    def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        """See `Engine.stream`."""

    @overload
    async def embed(self, texts: str, **options: Any) -> Vector: ...
    @overload
    async def embed(self, texts: Sequence[str], **options: Any) -> Vectors: ...

    async def embed(self, texts: str | Sequence[str], **options: Any) -> Vector | Vectors:
        """The vector of a text, or the vectors of several in order, `.usage` with them.

        Options: model, dimensions, deadline (in the loop's time); others go into the request's
        body. Raises `EngineError` (its message names the text at fault), `DeadlineExceeded` and
        `Overloaded`.
        """
        vectors = await self.vectors(embed_call(texts, options))
        return vectors[0] if isinstance(texts, str) else vectors

    async def rerank(
        self, query: str, documents: Sequence[str], top_n: int | None = None, **options: Any
    ) -> Ranking:
        """The documents by how well they answer the query, the best first: `Ranked` items with
        `index`, `score` and `document`. `top_n`: the best so many.

        Options and errors are those of `embed`, without dimensions.
        """
        return await self.ranking(rerank_call(query, documents, top_n, options))

    async def vectors(self, call: EmbedCall) -> Vectors:
        """`embed` for a call that says who asks."""
        if self._batcher is None:
            self._batcher = Batcher(self.name, self.stream, self.batch_options)
        return await self._batcher.vectors(call)

    async def ranking(self, call: RerankCall) -> Ranking:
        """`rerank` for a call that says who asks."""
        documents = call.documents
        if not documents:
            return Ranking()
        size = self.batch_options.rerank_batch
        starts = range(0, len(documents), size)
        room = asyncio.Semaphore(RERANK_PARTS_MAX)

        async def part(start: int) -> tuple[dict[int, float], Usage]:
            async with room:
                return await self._scores(call, start, min(start + size, len(documents)))

        try:
            async with asyncio.timeout_at(call.deadline):
                parts = await _together([part(start) for start in starts])
        except TimeoutError as error:
            if isinstance(error, DeadlineExceeded):
                raise
            raise DeadlineExceeded(
                f"engine {self.name}: the deadline passed while {len(documents)} documents of "
                f"stage {call.stage or '-'} were reranked. Give requests more time, or the engine "
                "more replicas."
            ) from None
        scores: dict[int, float] = {}
        paid = Usage()
        for told, usage in parts:
            scores.update(told)
            paid += usage
        paid.calls = 1
        return Ranking(ranking(documents, scores, call.top_n), paid)

    async def close_batches(self) -> None:
        """Callers of `embed` that wait get an error."""
        if self._batcher is not None:
            await self._batcher.aclose()

    # --- One rerank request, or its halves

    async def _scores(
        self, call: RerankCall, start: int, end: int
    ) -> tuple[dict[int, float], Usage]:
        """Scores of a part of the documents, by their place among all. A part that is refused is
        halved, as it may be too much for one request; a single document that is refused fails."""
        documents = call.documents[start:end]
        top_n = None if call.top_n is None else min(call.top_n, len(documents))
        part = replace(
            call,
            documents=documents,
            top_n=top_n,
            prompt=Prompt(),
            stage=f"{call.stage}/rerank" if call.stage else "rerank",
        )
        try:
            answer = await self._ask(part)
        except EngineError as error:
            if error.status not in TOO_MUCH or len(documents) < 2:
                raise
            middle = (start + end) // 2
            halves = ((start, middle), (middle, end))
            (one, paid), (other, more) = await _together(
                [self._scores(call, begin, until) for begin, until in halves]
            )
            return one | other, paid + more
        scores = {start + at: score for at, score in answer.scores.items()}
        return scores, answer.usage or Usage()

    async def _ask(self, call: RerankCall) -> Scored:
        wanted = "scores: it does not rerank. Name an engine that serves a reranking model."
        answer = await only(Scored, self.stream(call), self.name, wanted)
        least = len(call.documents) if call.top_n is None else call.top_n
        if len(answer.scores) < least or not answer.scores.keys() <= set(
            range(len(call.documents))
        ):
            raise BadAnswer(
                f"engine {self.name} gave scores for documents {sorted(answer.scores)[:20]} of "
                f"{len(call.documents)}; expected {least}, each by the place of its document",
                engine=self.name,
            )
        return answer


def embed_call(texts: str | Sequence[str], options: dict[str, Any]) -> EmbedCall:
    """An `EmbedCall` from what a user gives. Raises `TypeError` or `ValueError`."""
    named = _named(options, "model", "dimensions", "deadline")
    dimensions = named.get("dimensions")
    if dimensions is not None and (not isinstance(dimensions, int) or dimensions < 1):
        raise ValueError(f"embed: dimensions is {dimensions!r}, expected a whole number above 0")
    inputs = [texts] if isinstance(texts, str) else _strings(texts, "embed", "text")
    return EmbedCall(inputs=inputs, extra=_extra("embed", options, named, ("input",)), **named)


def rerank_call(
    query: str, documents: Sequence[str], top_n: int | None, options: dict[str, Any]
) -> RerankCall:
    """A `RerankCall` from what a user gives. Raises `TypeError` or `ValueError`."""
    if not isinstance(query, str):
        raise TypeError(f"rerank: the query is {type(query).__name__}, expected a string")
    if top_n is not None and (not isinstance(top_n, int) or top_n < 1):
        raise ValueError(f"rerank: top_n is {top_n!r}, expected a whole number above 0, or None")
    if isinstance(documents, str):
        raise TypeError("rerank: documents is one string, expected a list of strings")
    texts = _strings(documents, "rerank", "document")
    named = _named(options, "model", "deadline")
    extra = _extra("rerank", options, named, ("query", "documents", "texts"))
    return RerankCall(query=query, documents=texts, top_n=top_n, extra=extra, **named)


def _extra(
    verb: str, options: dict[str, Any], named: dict[str, Any], ours: tuple[str, ...]
) -> dict[str, Any]:
    """The other fields of the request's body. Raises `ValueError` for one that is written here: it
    would have other texts answered than were given."""
    wrong = mistake({"model": named.get("model"), "extra": options.get("extra")})
    if wrong is not None:
        raise ValueError(f"{verb}: {wrong}")
    fields = fields_of(options)
    for name in ours:
        if name in fields:
            raise ValueError(
                f"{verb}: {name} is {str(fields[name])[:80]!r}; ALTO writes this field of the "
                "request's body itself. Leave it out."
            )
    return fields


def _named(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options.pop(name) for name in names if name in options}


def _strings(texts: Sequence[str], verb: str, noun: str) -> list[str]:
    try:
        strings = list(texts)
    except TypeError:
        raise TypeError(f"{verb}: got {type(texts).__name__}, expected a list of strings") from None
    for at, text in enumerate(strings):
        if not isinstance(text, str):
            raise TypeError(
                f"{verb}: {noun} {at + 1} of {len(strings)} is {type(text).__name__} "
                f"({str(text)[:60]!r}), expected a string. Give the text of the item."
            )
    return strings


async def _together(work: Sequence[Any]) -> list[Any]:
    """Run coroutines side by side; the first error ends the others and is raised as it is."""
    if len(work) == 1:
        return [await work[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except* AltoError as several:
        raise several.exceptions[0] from None
    return [task.result() for task in tasks]
