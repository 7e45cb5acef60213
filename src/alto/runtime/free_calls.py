"""`alto.engine(name)`: calls of an engine that a stage makes by itself: loops, tools, agents,
retrieval.

They go through the same scheduler as LM stages, carry the caller's ancestry, and obey its deadline
and cancellation. In an async stage the deltas are read with `async for`; in a blocking one with
`for`: then a task on the loop reads the engine and hands the deltas to the thread. What comes in
one piece, vectors and rankings, is awaited, or waited for with `.result()`.

Always true:
    E1  a call ends when its reader leaves it, and when the attempt that made it is over
    E2  in a thread the end of the attempt is `Stopped`, which unwinds the user's code
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..core.calls import Call, Delta, Message, fields_of, is_message, mistake
from ..core.encode import EmbedCall, Ranking, RerankCall, Vector, Vectors
from ..core.execution import Invocation
from ..engines.encodes import embed_call, rerank_call
from ..engines.pieces import delta_of
from ..engines.protocol import VectorEngine
from ..errors import EngineError
from . import shedding, spending
from .current import running
from .replies import Reply, start
from .threads import Stopped, answer_of, tell

if TYPE_CHECKING:
    from .driver import Run

AnyCall = TypeVar("AnyCall", bound=Call)


class EngineHandle:
    """`alto.engine(name)`: free calls of an engine from inside a stage.

    They go through the same scheduler as LM stages, carry the caller's ancestry, and obey its
    deadline and cancellation. `async for delta in engine.stream(messages)`, or `for` in a blocking
    stage; a delta is a string with `reasoning`, `tool_calls`, `finish_reason` and `usage`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def stream(self, messages: str | list[Message], **options: Any) -> Deltas:
        """One call. Options: max_tokens, temperature, stop, seed, tools, model; others go into the
        request's body."""
        here = self._here("stream", "stream(Call(messages=...))")
        return Deltas(self.name, *here, free_call(self.name, messages, options))

    async def complete(self, messages: str | list[Message], **options: Any) -> str:
        """The whole text of one call. In a blocking stage: `"".join(engine.stream(...))`."""
        async with aclosing(self.stream(messages, **options)) as deltas:
            return "".join([delta async for delta in deltas])

    @overload
    def embed(self, texts: str, **options: Any) -> Reply[Vector]: ...
    @overload
    def embed(self, texts: Sequence[str], **options: Any) -> Reply[Vectors]: ...

    def embed(self, texts: str | Sequence[str], **options: Any) -> Reply[Any]:
        """The vector of a text, or the vectors of several in order: `await engine.embed(texts)`,
        or `engine.embed(texts).result()` in a blocking stage.

        Texts that other invocations and requests embed at about the same time share requests to
        the engine. Options: model, dimensions; others go into the request's body.
        """
        run, invocation = self._here("embed", "embed(texts)")
        call = _asked_by(run, invocation, embed_call(texts, options))
        asking = self._embed(run, call, alone=isinstance(texts, str))
        return Reply(f"engine({self.name!r}).embed()", run, invocation, asking)

    def rerank(
        self, query: str, documents: Sequence[str], top_n: int | None = None, **options: Any
    ) -> Reply[Ranking]:
        """The documents by how well they answer the query, the best first: items with `index`,
        `score` and `document`. `await` it, or `.result()` in a blocking stage.

        `top_n`: only the best so many. Options: model; others go into the request's body.
        """
        run, invocation = self._here("rerank", "rerank(query, documents)")
        call = _asked_by(run, invocation, rerank_call(query, documents, top_n, options))
        asking = self._rerank(run, call)
        return Reply(f"engine({self.name!r}).rerank()", run, invocation, asking)

    async def _embed(self, run: Run, call: EmbedCall, *, alone: bool) -> Any:
        vectors = await self._opened(run, call, "embed").vectors(call)
        run.usage = run.usage + vectors.usage
        return vectors[0] if alone else vectors

    async def _rerank(self, run: Run, call: RerankCall) -> Ranking:
        ranking = await self._opened(run, call, "rerank").ranking(call)
        run.usage = run.usage + ranking.usage
        return ranking

    def _opened(self, run: Run, call: Call, verb: str) -> VectorEngine:
        engine = run.runtime.engine(self.name, call.stage)
        if not isinstance(engine, VectorEngine):
            raise EngineError(
                f"stage {call.stage}: engine {self.name!r} is a {type(engine).__name__}, which "
                f"cannot {verb}. Use alto.OpenAI or alto.Simulated, or give the class the methods "
                "of alto.engines.protocol.VectorEngine.",
                engine=self.name,
                retryable=False,
            )
        return engine

    def _here(self, verb: str, instead: str) -> tuple[Run, Invocation]:
        here = running.get()
        if here is None:
            raise RuntimeError(
                f"alto.engine({self.name!r}).{verb}() was called outside a stage. To call an "
                f"engine without a pipeline use Runtime.engine(name).{instead}."
            )
        return here.run, here

    def __repr__(self) -> str:
        return f"<engine {self.name}>"


class Deltas:
    """The answer to one call, read once: `async for` on the loop, `for` in a thread."""

    def __init__(self, engine: str, run: Run, invocation: Invocation, call: Call) -> None:
        self._engine = engine
        self._run = run
        self._invocation = invocation
        self._call = _asked_by(run, invocation, call)
        self._items = _read(engine, run, invocation, self._call)

    def __aiter__(self) -> AsyncGenerator[Delta, None]:
        return self._items

    async def __anext__(self) -> Delta:
        return await anext(self._items)

    async def aclose(self) -> None:
        """End the call."""
        await self._items.aclose()

    def __iter__(self) -> Iterator[Delta]:
        run = self._run
        if threading.get_ident() == run.thread:
            raise TypeError(
                f"stage {self._call.stage}: on the event loop the deltas of engine "
                f"{self._engine!r} are read with 'async for'; 'for' is for blocking stages, which "
                "run in threads (on virtual time they do not)."
            )
        return self._in_thread()

    def _in_thread(self) -> Iterator[Delta]:
        run = self._run
        pieces: queue.SimpleQueue[Delta | BaseException | None] = queue.SimpleQueue()
        context = copy_context()
        tasks: list[asyncio.Task[None]] = []

        def begin() -> None:
            task = start(run, self._invocation, self._hand_over(pieces), context, ended)
            if task is None:
                pieces.put(Stopped())
            else:
                tasks.append(task)

        def ended(task: asyncio.Task[None]) -> None:  # also of one that never took a step
            pieces.put(Stopped() if task.cancelled() else task.exception())

        def end() -> None:
            for task in tasks:
                task.cancel()

        if not tell(run.loop, begin):
            raise Stopped
        try:
            while (piece := answer_of(run.loop, pieces)) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            tell(run.loop, end)

    async def _hand_over(self, pieces: queue.SimpleQueue[Delta | BaseException | None]) -> None:
        async with aclosing(self._items):
            async for delta in self._items:
                pieces.put(delta)


async def _read(
    name: str, run: Run, invocation: Invocation, call: Call
) -> AsyncGenerator[Delta, None]:
    """The pieces of an answer. No object that refers to this refers back: where a stage leaves its
    loop early nothing else has it, and the call ends there and then."""
    engine = run.runtime.engine(name, call.stage)
    if run.ticket is not None and run.deadline is not None:
        refusal = shedding.too_late(run, invocation)
        if refusal is not None:
            raise refusal
        call.rest_s = run.ticket.rest_s
    if run.budget is None:
        stream = engine.stream(call)
    else:
        stream = spending.stream(run, invocation, name, engine, call)
    run.set_aside().calling.append(invocation)
    try:
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                delta = delta_of(name, piece)
                if delta.usage is not None:
                    run.usage = run.usage + delta.usage
                yield delta
    except EngineError as failure:
        call.untold = call.untold or failure.usage
        raise
    finally:
        run.aside.calling.remove(invocation)
        if call.untold is not None:
            run.usage = run.usage + call.untold


def _asked_by(run: Run, invocation: Invocation, call: AnyCall) -> AnyCall:
    """The call, with the ancestry and the deadline of the invocation that makes it."""
    call.stage = invocation.use.name
    call.path = invocation.path
    call.request = run.id
    call.attempt = invocation.attempt
    call.deadline = run.deadline
    call.priority = run.priority
    call.leads = run.execution.leads(invocation)
    call.queued = run
    return call


def free_call(engine: str, messages: str | list[Message], options: dict[str, Any]) -> Call:
    """A `Call` from messages and OpenAI-named options."""
    wrong = mistake(options)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    elif not (isinstance(messages, list) and messages and all(map(is_message, messages))):
        wrong = (
            f"messages is {repr(messages)[:80]}, expected a text, or a list of chat messages "
            "with role and content."
        )
    if wrong is not None:
        raise EngineError(f"engine({engine!r}): {wrong}", engine=engine, retryable=False)
    named = {}
    for name in ("max_tokens", "temperature", "seed", "tools", "model"):
        value = options.pop(name, None)
        if value is not None:
            named[name] = value
    stop = options.pop("stop", ())
    return Call(
        messages=messages,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        extra=fields_of(options),
        **named,
    )
