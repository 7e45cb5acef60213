"""`/embeddings` and `/rerank` as servers speak them: calls into bodies, answers into numbers. No
I/O.

Embeddings have one form, OpenAI's. Reranking has two that servers have settled on: `documents` at
`URL/rerank` (Jina, Cohere, vLLM, SGLang, llama.cpp, Infinity), and `texts` at `/rerank` (TEI). The
first is tried first; which of them a server answers to is remembered.

Always true:
    N1  an answer that is taken has a finite number everywhere, vectors of one length, and one
        vector or score for each input (for reranking with `top_n`: at least so many)
    N2  the order in which a server lists its results means nothing: its `index` fields count
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec

from ..core.calls import Usage
from ..core.encode import EmbedCall, Embedded, RerankCall, Scored, Vector
from ..errors import EngineError
from ..openai_api import WireError, is_retryable, message_of, usage_of
from .dialect import json_body

_TOO_LARGE = re.compile(r"(?i)too (large|long|many)|exceed|maximum|batch size|context")
"""How servers that answer 500 say that the input was too much for them."""

JSON_ONLY = {"accept": "application/json"}


class Embeddings:
    """What one server was found to understand of an embedding request: there is one form."""

    noun = "an embedding request"
    headers: Mapping[str, str] = JSON_ONLY

    def __init__(self, url: str, model: str, extra: Mapping[str, Any]) -> None:
        self._target = url_of(url, "/embeddings")
        self._model = model
        self._extra = extra

    def form_for(self, call: EmbedCall) -> None:
        """Nothing to choose."""

    def target(self, form: None) -> str:
        """Where requests go."""
        return self._target

    def body(self, call: EmbedCall, form: None) -> bytes:
        """The request as JSON. Raises `WireError` for values that have no JSON form."""
        fields = {
            "model": call.model or self._model,
            "input": call.inputs,
            "dimensions": call.dimensions,
        }
        return json_body({**fields, **self._extra, **call.extra})

    def simpler(self, call: EmbedCall, form: None, status: int, message: str) -> None:
        """There is no other form."""

    def learned(self, call: EmbedCall, form: None) -> None:
        """Nothing to remember."""


Reranking = Literal["documents", "texts"]


class Rerankings:
    """What one server was found to understand of a rerank request."""

    noun = "a rerank request"
    headers: Mapping[str, str] = JSON_ONLY

    def __init__(self, url: str, model: str, extra: Mapping[str, Any]) -> None:
        root = url_of(url, "").removesuffix("/v1")
        self._targets = {"documents": url_of(url, "/rerank"), "texts": url_of(root, "/rerank")}
        self._model = model
        self._extra = extra
        self._known: Reranking | None = None

    def form_for(self, call: RerankCall) -> Reranking:
        """The form that the server was seen to answer, or the more usual one."""
        return self._known or "documents"

    def target(self, form: Reranking) -> str:
        """Where requests go."""
        return self._targets[form]

    def body(self, call: RerankCall, form: Reranking) -> bytes:
        """The request as JSON. Raises `WireError` for values that have no JSON form."""
        fields: dict[str, Any] = {"query": call.query, form: call.documents}
        if form == "documents":
            fields |= {"model": call.model or self._model, "top_n": call.top_n}
        return json_body({**fields, **self._extra, **call.extra})

    def simpler(
        self, call: RerankCall, form: Reranking, status: int, message: str
    ) -> Reranking | None:
        """The other form, where the refusal may be of this one."""
        if self._known is not None or form == "texts":
            return None
        named = status in (400, 422) and "texts" in message
        return "texts" if named or status in (404, 405) else None

    def learned(self, call: RerankCall, form: Reranking) -> None:
        """The server answered to this form."""
        self._known = form


def url_of(url: str, path: str) -> str:
    """A path below a base URL, whose query stays behind it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path + path))


def too_large(error: EngineError) -> EngineError:
    """A server's 500 that says the input was too much is no fault of the server."""
    if error.status != 500 or not _TOO_LARGE.search(str(error)):
        return error
    return EngineError(str(error), engine=error.engine, status=413, retryable=False)


# ------------------------------------------------------------------------------------- answers


class _Item(msgspec.Struct, gc=False):
    embedding: list[float] | str
    index: int | None = None


class _Embeddings(msgspec.Struct):
    data: list[_Item] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


class _Score(msgspec.Struct, gc=False):
    index: int
    relevance_score: float | None = None
    score: float | None = None


class _Rerankings(msgspec.Struct):
    results: list[_Score] | None = None
    data: list[_Score] | None = None
    usage: dict[str, Any] | None = None
    meta: dict[str, Any] | None = None
    error: Any = None


_EMBEDDINGS = msgspec.json.Decoder(_Embeddings)
_RERANKINGS: msgspec.json.Decoder[list[_Score] | _Rerankings] = msgspec.json.Decoder(
    list[_Score] | _Rerankings
)


def read_embeddings(body: bytes, call: EmbedCall) -> Embedded:
    """The answer to an embedding request. Raises `WireError`."""
    told = _decoded(_EMBEDDINGS, body)
    if told.error:
        raise _told_error(told.error, body)
    items = _in_order(told.data, len(call.inputs))
    vectors = [_vector(item.embedding, at) for at, item in enumerate(items)]
    lengths = sorted({len(vector) for vector in vectors})
    if lengths[0] == 0 or len(lengths) > 1:
        raise WireError(f"the vectors have {lengths} numbers, expected one length above 0")
    if call.dimensions is not None and lengths[0] != call.dimensions:
        raise WireError(
            f"the vectors have {lengths[0]} numbers where {call.dimensions} were asked for: this "
            "server or model does not shorten vectors; leave dimensions out",
            retryable=False,
        )
    return Embedded.of(vectors, usage_of(told.usage or {}))


def _in_order(items: list[_Item] | None, wanted: int) -> Sequence[_Item]:
    if items is None:
        raise WireError("the answer has no 'data', expected a list of embeddings")
    if len(items) != wanted:
        raise WireError(f"{len(items)} vectors came for {wanted} texts, expected one for each")
    indexes = [item.index for item in items]
    if all(index is None for index in indexes):
        return items
    placed = {item.index: item for item in items}
    try:
        return [placed[at] for at in range(wanted)]
    except KeyError:
        raise WireError(
            f"the indexes of the vectors are {indexes[:20]}, expected each of 0 to {wanted - 1}"
        ) from None


def _vector(told: list[float] | str, at: int) -> Vector:
    if isinstance(told, str):
        try:
            data = base64.b64decode(told, validate=True)
            vector = list(struct.unpack(f"<{len(data) // 4}f", data))
        except (binascii.Error, ValueError, struct.error) as error:
            raise WireError(
                f"vector {at} is no list and no base64 of 32-bit numbers: {error}"
            ) from error
    else:
        vector = told
    if not math.isfinite(sum(vector)):
        raise WireError(f"vector {at} has numbers that are not finite")
    return vector


def read_scores(body: bytes, call: RerankCall) -> Scored:
    """The answer to a rerank request. Raises `WireError`."""
    told = _decoded(_RERANKINGS, body)
    if isinstance(told, list):
        return Scored.of(_scores(told, call), Usage(calls=1))
    if told.error:
        raise _told_error(told.error, body)
    results = told.results if told.results is not None else told.data
    if results is None:
        raise WireError("the answer has no 'results', expected a list of scores")
    return Scored.of(_scores(results, call), _rerank_usage(told))


def _scores(results: list[_Score], call: RerankCall) -> dict[int, float]:
    count = len(call.documents)
    scores: dict[int, float] = {}
    for result in results:
        score = result.score if result.relevance_score is None else result.relevance_score
        if not 0 <= result.index < count or result.index in scores:
            raise WireError(
                f"index {result.index} stands among the scores of {count} documents, expected each "
                f"of 0 to {count - 1} once"
            )
        if score is None or not math.isfinite(score):
            raise WireError(f"the score of document {result.index} is {score}")
        scores[result.index] = score
    least = count if call.top_n is None else min(call.top_n, count)
    if len(scores) < least:
        raise WireError(f"{len(scores)} scores came for {count} documents, expected {least}")
    return scores


def _rerank_usage(told: _Rerankings) -> Usage:
    """Servers count what was read as `prompt_tokens`, as `total_tokens`, or in Cohere's `meta`."""
    usage = usage_of(told.usage or {})
    if not usage.prompt_tokens:
        tokens = (told.meta or {}).get("tokens")
        read = tokens.get("input_tokens") if isinstance(tokens, Mapping) else None
        total = (told.usage or {}).get("total_tokens") or read
        usage.prompt_tokens = usage_of({"prompt_tokens": total}).prompt_tokens
    return usage


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        try:
            told = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            told = None
        if isinstance(told, dict) and told.get("error"):
            raise _told_error(told["error"], body) from None
        raise WireError(f"the answer is not of the form expected: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"the answer is not JSON ({error}): {message_of(body[:1000])}") from error


def _told_error(error: object, body: bytes) -> WireError:
    """An error that the server told with a status of success."""
    code = error.get("code") if isinstance(error, Mapping) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else None
    return WireError(
        f"an error in place of an answer: {message_of(body)}",
        status=status,
        retryable=status is None or is_retryable(status),
    )
