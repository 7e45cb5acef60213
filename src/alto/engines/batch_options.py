"""How large the requests of `embed` and `rerank` get: options that every kind of engine has."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import duration, whole


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How large requests get, and how long texts wait for company.

    - `embed_batch`: texts in one embedding request at most (fewer once a server has refused so
      many); `embed_tokens`: tokens in it, estimated; a text that is longer goes alone.
    - `embed_max_wait`: how long a text waits for others before its request goes to the pool:
      seconds, or a text such as "2ms".
    - `rerank_batch`: documents in one rerank request at most.
    """

    embed_batch: int = 64
    embed_tokens: int = 16_384
    embed_max_wait: float | str = 0.002
    rerank_batch: int = 256

    def __post_init__(self) -> None:
        kind = type(self).__name__
        for name in ("embed_batch", "embed_tokens", "rerank_batch"):
            whole(f"{kind}: {name}", getattr(self, name), 1)
        wait = duration(f"{kind}: embed_max_wait", self.embed_max_wait, needed=True)
        object.__setattr__(self, "embed_max_wait", wait)

    @property
    def embed_max_wait_s(self) -> float:
        """`embed_max_wait` in seconds."""
        return float(self.embed_max_wait)
