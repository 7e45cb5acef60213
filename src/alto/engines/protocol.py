"""The seam between ALTO and whatever writes text: one streaming call.

An `EngineSpec` is a value in a configuration: cheap, comparable, opens nothing. `open(name)` is
called once inside a running event loop and gives the live `Engine`.

What an engine promises:
    - `stream(call)` is an async generator of `Delta`s. The last delta that it yields carries
      `finish_reason`, and `usage` when it is known. Empty deltas are allowed.
    - Closing the generator (`aclose()`, or cancelling the task that reads it) stops the work at
      once and frees what it holds: a connection, a slot in a batch.
    - Failure is an `EngineError` (or `DeadlineExceeded`); nothing else escapes but cancellation.
    - Time is the running loop's `time()`, so that an engine in this process also runs on virtual
      time.
    - A call that says `prewarm` may be answered with anything: only its prompt is to be read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..core.calls import Call, Delta
from ..core.encode import EmbedCall, Ranking, RerankCall, Vectors
from .asked import Asked
from .keeper import Keeper

if TYPE_CHECKING:
    from .pool import Pool

Take = Callable[[str], "bool | Awaitable[bool]"]
"""Takes one piece of text and must not raise: a `Delta`, or a plain string where that is all there
is to it. It answers True for more, False for enough, or something to wait for before more can be
taken, with the same answer."""

Read = Callable[[Call, Take], Awaitable[None]]
"""Answers one call as `stream` does, but hands each piece to `Take`. Returns when the text has
ended, or when `Take` has enough."""


Ask = Callable[[Call, Take, Keeper], Asked]
"""As `Read`, for a reader that keeps what it takes, and that waits by itself. An engine may have it
as `ask`."""


@runtime_checkable
class Engine(Protocol):
    """A live engine."""

    name: str

    def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        """Answer one call, piece by piece."""
        ...

    async def aclose(self) -> None:
        """Close every connection and cancel what still runs."""
        ...


@runtime_checkable
class VectorEngine(Engine, Protocol):
    """An engine that embeds and reranks too, as `alto.OpenAI` and `alto.Simulated` open them.

    `Encodes` (engines/encodes.py) has both for a class whose `stream` answers `EmbedCall` and
    `RerankCall` (core/encode.py), with batches over callers, and `embed` and `rerank` for use
    without a pipeline.
    """

    async def vectors(self, call: EmbedCall) -> Vectors:
        """A vector for each input, in order."""
        ...

    async def ranking(self, call: RerankCall) -> Ranking:
        """The documents by their scores, the best first."""
        ...


@runtime_checkable
class Replica(Protocol):
    """One LM server behind an engine: the same streaming call, without a choice of where.

    `Pool` (engines/pool.py) makes an `Engine` of several replicas.

    A replica may have a second method, `async def read(self, call, take) -> None` (see `Read`),
    which spares the way through a generator for each piece. Where all replicas of a pool have it,
    the pool reads the beginning of an answer by it. `stream` is needed all the same: the rest of a
    text that broke off is read by it, and hedged calls are.
    """

    name: str

    def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        """Answer one call here."""
        ...

    async def aclose(self) -> None:
        """Close every connection and cancel what still runs."""
        ...


@runtime_checkable
class EngineSpec(Protocol):
    """An engine as a configuration names it."""

    def open(self, name: str) -> Engine:
        """Start the engine under the name that stages use. Called inside the running loop."""
        ...


@runtime_checkable
class PooledSpec(EngineSpec, Protocol):
    """An engine whose replicas can be opened once and shared by several pools in one process."""

    def open_replicas(self, name: str) -> Sequence[Replica]:
        """The replicas alone, without a pool before them."""
        ...

    def pool(self, name: str, replicas: Sequence[Replica], place: int = 0, of: int = 1) -> Pool:
        """A pool before open replicas: at `place`, from 0, of so many that share them. They draw
        different lots, and each has its part of the limits per minute.
        """
        ...
