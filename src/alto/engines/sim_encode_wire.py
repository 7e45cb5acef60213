"""`/v1/embeddings` and `/rerank` as a server speaks them, in the shapes that vLLM has. No I/O.

A body that cannot be served is a `BadRequest`, as for chat completions (`sim_wire.py`).
"""

from __future__ import annotations

import base64
import struct
from typing import Any

from ..core.calls import Delta, Usage
from ..core.encode import EmbedCall, Embedded, RerankCall, Scored, Vector
from .sim_wire import BadRequest, Json, check_model, integer, shown


def read_embeddings(body: Any, model: str, request_id: str) -> EmbedCall:
    """The body of `POST /v1/embeddings`."""
    fields = check_model(body, model)
    given = fields.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise BadRequest(
            f"input is {shown(given)}, expected a string or a list of strings", param="input"
        )
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadRequest(
                f"input[{at}] is {shown(text)}, expected a string: token ids are not served",
                param="input",
            )
    if fields.get("encoding_format") not in (None, "float", "base64"):
        raise BadRequest(
            f"encoding_format is {shown(fields['encoding_format'])}, expected float or base64",
            param="encoding_format",
        )
    dimensions = integer(fields, "dimensions", 1)
    return EmbedCall(inputs=texts, dimensions=dimensions, request=request_id)


def embeddings_body(body: Json, model: str, request_id: str, answer: Delta) -> Json:
    """The answer to an embedding request."""
    assert isinstance(answer, Embedded)
    encoded = body.get("encoding_format") == "base64"
    return {
        "id": f"embd-{request_id}",
        "object": "list",
        "model": model,
        "data": [
            {
                "object": "embedding",
                "index": at,
                "embedding": _base64(vector) if encoded else vector,
            }
            for at, vector in enumerate(answer.vectors)
        ],
        "usage": _usage(answer),
    }


def read_rerank(body: Any, model: str, request_id: str) -> RerankCall:
    """The body of `POST /v1/rerank`."""
    fields = check_model(body, model)
    query, documents = fields.get("query"), fields.get("documents")
    if not isinstance(query, str):
        raise BadRequest(f"query is {shown(query)}, expected a string", param="query")
    if not isinstance(documents, list) or not documents:
        raise BadRequest(
            f"documents is {shown(documents)}, expected a list of strings", param="documents"
        )
    for at, document in enumerate(documents):
        if not isinstance(document, str):
            raise BadRequest(
                f"documents[{at}] is {shown(document)}, expected a string", param="documents"
            )
    top_n = integer(fields, "top_n", 0) or None
    return RerankCall(query=query, documents=documents, top_n=top_n, request=request_id)


def rerank_body(body: Json, model: str, request_id: str, answer: Delta) -> Json:
    """The answer to a rerank request: the best first."""
    assert isinstance(answer, Scored)
    best = sorted(answer.scores, key=lambda at: (-answer.scores[at], at))
    return {
        "id": f"rerank-{request_id}",
        "model": model,
        "usage": _usage(answer),
        "results": [
            {
                "index": at,
                "document": {"text": body["documents"][at]},
                "relevance_score": answer.scores[at],
            }
            for at in best
        ],
    }


def _usage(answer: Delta) -> Json:
    usage = answer.usage or Usage()
    return {
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": usage.prompt_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _base64(vector: Vector) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
