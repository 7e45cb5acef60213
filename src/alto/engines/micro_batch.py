"""Embedding texts of many callers with few requests.

Texts for the same model that come within `embed_max_wait` share a request, whichever invocation or
pipeline they are of. A batch that waits for a replica with room goes on taking texts in until it is
full or sent, so the busier the replicas, the fuller the batches. A caller with more texts than fit
into one batch has several under way.

If a server refuses a batch, or answers it with nonsense, the batch is halved until the texts at
fault are alone, so that they do not fail their neighbours. A server that takes both halves of what
it refused is not sent so many at once again.

Always true:
    B1  every text that was taken in is answered once, in the order of its caller, or its caller
        has an error
    B2  a text whose caller has gone is not sent; what is under way is cancelled when none of its
        callers is there any more
    B3  a caller has at most `CALLER_BATCHES_MAX` batches' worth of texts here
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from contextlib import aclosing
from contextvars import Context
from typing import Literal, TypeVar

import msgspec

from ..core.calls import Call, Delta, Usage
from ..core.encode import BadAnswer, EmbedCall, Embedded, Vector, Vectors, bytes_of, shares
from ..core.prefix import TOKENS_PER_BYTE
from ..errors import AltoError, DeadlineExceeded, EngineError
from .batch_options import BatchOptions

CALLER_BATCHES_MAX = 8
"""How many full batches of one caller are under way at once; the rest of its texts wait with it, so
that one who brings a library does not keep the others waiting."""

TOO_MUCH = (400, 413, 422)
"""Statuses with which servers refuse a request for what is in it, or for how much."""

Stream = Callable[[Call], AsyncGenerator[Delta, None]]
Answer = TypeVar("Answer", bound=Delta)


async def only(
    kind: type[Answer], deltas: AsyncGenerator[Delta, None], engine: str, wanted: str
) -> Answer:
    """The one delta of a kind that an engine gives; one that answers with text has none."""
    answer: Answer | None = None
    async with aclosing(deltas):
        async for delta in deltas:
            if isinstance(delta, kind):
                answer = delta
    if answer is None:
        raise EngineError(
            f"engine {engine} answered with text, expected {wanted}",
            engine=engine,
            retryable=False,
        )
    return answer


class _Caller:
    """One `embed`: texts, what is known of their vectors, and who waits for them."""

    __slots__ = ("batches", "call", "done", "given", "key", "left", "length", "paid", "vectors")

    def __init__(self, call: EmbedCall, key: Hashable, done: asyncio.Future[None]) -> None:
        self.call = call
        self.key = key
        self.done = done
        """Set when all vectors are there or one cannot be had; cancelled with its caller."""
        self.vectors: list[Vector | None] = [None] * len(call.inputs)
        self.left = len(call.inputs)
        self.length: int | None = None
        """Numbers in a vector."""
        self.given = 0
        """So many texts have gone into batches."""
        self.paid = Usage(calls=1)
        self.batches: dict[_Batch, None] = {}
        """In order: a set has another one each time, and then not even the clock of a simulation
        would make two runs the same."""

    @property
    def gone(self) -> bool:
        return self.done.done()

    def fail(self, error: AltoError, at: int | None = None) -> None:
        if self.gone:
            return
        if at is not None and isinstance(error, EngineError) and len(self.vectors) > 1:
            text = self.call.inputs[at]
            shown = text if len(text) <= 60 else text[:57] + "..."
            self.done.set_exception(
                _again(error, f"text {at + 1} of {len(self.vectors)} ({shown!r}): {error}")
            )
        else:
            self.done.set_exception(_again(error, str(error)))
        self.done.exception()  # its caller may have gone in this moment


Item = tuple[_Caller, int]
"""One text: whose, and which of theirs."""


class _Batch:
    """Texts that go into one request, if the server takes them so."""

    __slots__ = ("call", "items", "key", "task", "timer")

    def __init__(self, key: Hashable, first: EmbedCall) -> None:
        self.key = key
        self.items: list[Item] = []
        self.call = _alike(first, [])
        self.timer: asyncio.Handle | None = None
        self.task: asyncio.Task[None] | None = None

    def has_room(self, size: int, deadline: float | None, most: int, bytes_max: float) -> bool:
        call = self.call
        if call.sealed or len(self.items) >= most:
            return False
        if self.items and call.prompt.size + size > bytes_max:
            return False
        # The pool has been told a deadline; those who join later must not need more time.
        fixed = self.task is not None and call.deadline is not None
        return not fixed or (deadline is not None and deadline <= (call.deadline or 0.0))

    def add(self, caller: _Caller, at: int, size: int) -> None:
        deadline, until = caller.call.deadline, self.call.deadline
        if not self.items:
            self.call.deadline = deadline
        elif self.task is None:
            self.call.deadline = None if deadline is None or until is None else max(deadline, until)
        if self.task is None:
            self.call.priority = max(self.call.priority, caller.call.priority)
        self.items.append((caller, at))
        self.call.add(caller.call.inputs[at], size)
        caller.batches[self] = None

    def drop_the_gone(self) -> None:
        """Leave out what is not wanted any more, unless the texts are on their way."""
        if not self.call.sealed:
            self.items[:] = _wanted(self.items)
            self.call.inputs[:] = _texts(self.items)
            self.call.prompt.size = sum(map(bytes_of, self.call.inputs))


class Batcher:
    """Embeds through one engine, `stream` being how that is called."""

    def __init__(self, name: str, stream: Stream, options: BatchOptions) -> None:
        self._name = name
        self._stream = stream
        self._options = options
        self.texts_max = options.embed_batch
        """Texts in one request: as configured, or fewer where a server was seen to refuse that."""
        self._open: dict[Hashable, _Batch] = {}
        """By model and options: the batch that takes texts in. It has room and is not sealed, as
        far as is known."""
        self._batches: set[_Batch] = set()
        """All that have a task."""
        self._closed = False

    async def vectors(self, call: EmbedCall) -> Vectors:
        """A vector for each input of the call. Raises `EngineError` for a text that cannot be
        embedded, `DeadlineExceeded`, `Overloaded`."""
        if not call.inputs:
            return Vectors()
        loop = asyncio.get_running_loop()
        if call.deadline is not None and call.deadline <= loop.time():
            raise self._too_late(call)
        caller = _Caller(call, _key(call), loop.create_future())
        self._feed(caller)
        try:
            async with asyncio.timeout_at(call.deadline):
                await caller.done
        except TimeoutError:
            raise self._too_late(call) from None
        finally:
            self._leave(caller)
        return Vectors((v for v in caller.vectors if v is not None), caller.paid)

    async def aclose(self) -> None:
        """Callers that wait get an error; nothing is left running."""
        self._closed = True
        tasks = [batch.task for batch in self._batches if batch.task is not None]
        for batch in (*self._open.values(), *self._batches):
            if batch.timer is not None:
                batch.timer.cancel()
            for caller, _ in batch.items:
                caller.fail(self._closed_error())
        self._open.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- Into batches

    def _feed(self, caller: _Caller) -> None:
        """Give the next texts of a caller to batches, as many as it may have under way."""
        if self._closed:
            caller.fail(self._closed_error())
            return
        texts = caller.call.inputs
        answered = len(texts) - caller.left
        until = min(len(texts), answered + CALLER_BATCHES_MAX * self.texts_max)
        while caller.given < until:
            at = caller.given
            size = bytes_of(texts[at])
            batch = self._batch_for(caller, size)
            batch.add(caller, at, size)
            caller.given += 1
            if len(batch.items) >= self.texts_max:
                self._retire(batch)

    def _batch_for(self, caller: _Caller, size: int) -> _Batch:
        batch = self._open.get(caller.key)
        if batch is not None:
            bytes_max = self._options.embed_tokens / TOKENS_PER_BYTE
            if batch.has_room(size, caller.call.deadline, self.texts_max, bytes_max):
                return batch
            self._retire(batch)
        batch = self._open[caller.key] = _Batch(caller.key, caller.call)
        loop = asyncio.get_running_loop()
        batch.timer = loop.call_later(self._options.embed_max_wait_s, self._submit, batch)
        return batch

    def _retire(self, batch: _Batch) -> None:
        """No more texts for this one; off it goes, if it has not gone before."""
        if self._open.get(batch.key) is batch:
            del self._open[batch.key]
        self._submit(batch)

    def _submit(self, batch: _Batch) -> None:
        """Hand the batch to the pool. While it waits there it stays open."""
        if batch.timer is not None:
            batch.timer.cancel()
            batch.timer = None
        if batch.task is None and batch.items:
            loop = asyncio.get_running_loop()
            # Of no invocation's context: it is the work of several.
            batch.task = loop.create_task(self._run(batch), context=Context())
            batch.task.add_done_callback(lambda _: self._over(batch))
            self._batches.add(batch)

    def _leave(self, caller: _Caller) -> None:
        """A caller goes, answered or not."""
        caller.done.cancel()
        for batch in caller.batches:
            batch.drop_the_gone()
            if _wanted(batch.items):
                continue
            if batch.task is not None:
                batch.task.cancel()
            elif batch.timer is not None:
                batch.timer.cancel()
            if self._open.get(batch.key) is batch:
                del self._open[batch.key]

    # --- To the engine and back

    async def _run(self, batch: _Batch) -> None:
        try:
            error = await self._try(batch.items, batch.call)
            if error is not None:
                await self._divide(batch.items, error)
        except Exception as error:
            failure = EngineError(
                f"engine {self._name}: embedding {len(batch.items)} texts raised "
                f"{type(error).__name__}: {error}; expected nothing but an AltoError. This is a "
                "fault of the engine's class, not of the texts.",
                engine=self._name,
                retryable=False,
            )
            failure.__cause__ = error
            for caller, _ in batch.items:
                caller.fail(failure)

    def _over(self, batch: _Batch) -> None:
        # Not in the task itself: one that is cancelled before its first step has no `finally`.
        self._batches.discard(batch)
        if self._open.get(batch.key) is batch:
            del self._open[batch.key]
        for caller, _ in batch.items:
            caller.batches.pop(batch, None)

    async def _try(self, items: list[Item], call: EmbedCall) -> AltoError | None:
        """One request for these texts. What is said against it is returned."""
        try:
            answer = await self._ask(call)
        except AltoError as error:
            return error
        # A batch that took texts in while it waited has more items than at the start.
        self._settle(items, answer)
        return None

    async def _ask(self, call: EmbedCall) -> Embedded:
        wanted = "vectors: it does not embed. Name an engine that serves an embedding model."
        answer = await only(Embedded, self._stream(call), self._name, wanted)
        if len(answer.vectors) != len(call.inputs):
            raise BadAnswer(
                f"engine {self._name} gave {len(answer.vectors)} vectors for {len(call.inputs)} "
                "texts; expected one for each",
                engine=self._name,
            )
        return answer

    def _settle(self, items: Sequence[Item], answer: Embedded) -> None:
        usage = answer.usage or Usage()
        sizes = [bytes_of(caller.call.inputs[at]) for caller, at in items]
        read = shares(usage.prompt_tokens, sizes)
        cached = shares(usage.cached_tokens, sizes)
        callers: dict[_Caller, None] = {}
        for number, (caller, at) in enumerate(items):
            vector = caller.vectors[at] = answer.vectors[number]
            caller.left -= 1
            if caller.length is None:
                caller.length = len(vector)
            elif caller.length != len(vector):
                caller.fail(self._unequal(caller.length, len(vector)))
            caller.paid.prompt_tokens += read[number]
            caller.paid.cached_tokens += cached[number]
            callers[caller] = None
        for caller in callers:
            if caller.gone:
                continue
            if caller.left:
                self._feed(caller)
            else:
                caller.done.set_result(None)

    async def _divide(self, asked: list[Item], error: AltoError) -> None:
        """The request for these texts failed. Try them in halves, if that can help."""
        blame = _blame(error)
        if blame is None or len(asked) < 2:
            for caller, at in asked:
                caller.fail(error, at if blame else None)
            return
        items = _wanted(asked)  # if it is only one now, those at fault may have gone
        middle = len(items) // 2
        halves = (items[:middle], items[middle:])
        errors = await asyncio.gather(*(self._try_half(half) for half in halves))
        if errors == [None, None]:
            if blame == "inputs" and all(halves):
                self.texts_max = max(1, min(self.texts_max, len(halves[1])))
            return
        # Both halves, and not refused for what is in them: it is the server after all.
        hopeless = blame == "anything" and None not in errors
        for half, why in zip(halves, errors, strict=True):
            if why is None:
                continue
            if not hopeless:
                await self._divide(half, why)
                continue
            for caller, _ in half:
                caller.fail(why)

    async def _try_half(self, items: list[Item]) -> AltoError | None:
        """One request for a part of what was refused, less what is not wanted any more."""
        items[:] = _wanted(items)
        if not items:
            return None
        call = _alike(items[0][0].call, _texts(items))
        call.priority = max(caller.call.priority for caller, _ in items)
        deadlines = [caller.call.deadline for caller, _ in items]
        if None not in deadlines:
            call.deadline = max(at for at in deadlines if at is not None)
        return await self._try(items, call)

    # --- What callers are told

    def _unequal(self, one: int, other: int) -> EngineError:
        return EngineError(
            f"engine {self._name} gave vectors of {one} and of {other} numbers for texts of one "
            "call; expected one length. Do all its servers serve the same model?",
            engine=self._name,
            retryable=False,
        )

    def _too_late(self, call: EmbedCall) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"engine {self._name}: the deadline passed while {len(call.inputs)} texts of stage "
            f"{call.stage or '-'} were embedded. Give requests more time, or the engine more "
            "replicas."
        )

    def _closed_error(self) -> EngineError:
        return EngineError(
            f"engine {self._name} is closed; open it again through its configuration.",
            engine=self._name,
            retryable=False,
        )


def _blame(error: AltoError) -> Literal["inputs", "anything"] | None:
    """Where the fault lies: in the texts, or in anything, the texts included. None: elsewhere."""
    if not isinstance(error, EngineError):
        return None
    if error.status in TOO_MUCH:
        return "inputs"
    nonsense = isinstance(error, BadAnswer) or isinstance(error.__cause__, BadAnswer)
    return "anything" if nonsense or error.status == 500 else None


def _wanted(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if not item[0].gone]


def _texts(items: Sequence[Item]) -> list[str]:
    return [caller.call.inputs[at] for caller, at in items]


def _alike(call: EmbedCall, inputs: list[str]) -> EmbedCall:
    """A request that asks for the same, for other inputs, on behalf of the same stage.

    The pool learns what a stage's texts are like, so its embedding has a name of its own there.
    """
    return EmbedCall(
        inputs=inputs,
        dimensions=call.dimensions,
        model=call.model,
        extra=call.extra,
        stage=f"{call.stage}/embed" if call.stage else "embed",
        request=call.request,
        priority=call.priority,
    )


def _key(call: EmbedCall) -> Hashable:
    """What two callers must have in common to share a request."""
    if not call.extra:
        return (call.model, call.dimensions)
    try:
        extra = msgspec.json.encode(call.extra, order="deterministic")
    except (TypeError, ValueError, OverflowError):
        return object()  # shared with nobody; the engine will say what is wrong with it
    return (call.model, call.dimensions, extra)


def _again(error: AltoError, message: str) -> AltoError:
    """The same error for another caller: an exception that two tasks raise mixes their tracks."""
    same = copy.copy(error)
    same.args = (message,)
    same.__cause__ = error
    return same
