"""One simulated LM server on the running loop's time.

The model (`model.py`) knows when each token is written; this shell keeps one timer on the loop,
plays the model to it, and wakes the readers. It runs on real time and on virtual time alike. The
whole answer is known before its first token; it is handed out no sooner than the model writes it.

Always true:
    R1  a reader is never given a token before its time
    R2  a stream that is closed, cancelled or broken frees its slot and its blocks at once
    R3  the joined deltas are the answer, cut at `max_tokens` and before a stop string
"""

from __future__ import annotations

import asyncio
import json
import math
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from ..core.calls import Call, Delta, Usage
from ..core.encode import EmbedCall, EncodeCall
from ..errors import AltoError, EngineError
from .batch import Generation
from .measures import Measures
from .model import BatchingServer
from .sim_encode import Encoder
from .tokens import PIECE_LETTERS, BlockKeys, content_text, prompt_text, render, tokenize
from .tool_calls import is_whole


@dataclass(frozen=True, slots=True)
class Answer:
    """What a simulated engine says: its text, the thinking before it, kept apart, and the calls of
    tools after it, whole, as a message of the OpenAI API has them."""

    text: str
    reasoning: str = ""
    tool_calls: Sequence[Mapping[str, Any]] = ()


DIMENSIONS = 256
"""The length of made-up vectors."""

Respond = Callable[[Call], "str | Answer"]
"""Writes the whole answer to a call at once."""


class SimReplica:
    """A `Replica` (see `protocol.py`) whose time comes from a `BatchingServer`.

    Of a call's `extra` it knows what vLLM does by these names: `continue_final_message` (the last
    message is the beginning of the answer) and `ignore_eos` (write on up to `max_tokens`); and
    `raw_prompt`, a prompt without chat template. Texts to be embedded or scored are read as prompts
    are, in the same batch.
    """

    def __init__(
        self,
        name: str,
        server: BatchingServer,
        respond: Respond,
        *,
        piece: int = PIECE_LETTERS,
        encoder: Encoder | None = None,
    ) -> None:
        self.name = name
        self._server = server
        self._respond = respond
        self._piece = piece
        self._encoder = encoder or Encoder(DIMENSIONS)
        self._readers: dict[Generation, asyncio.Future[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # ------------------------------------------------------------------ what can be observed

    @property
    def measures(self) -> Measures:
        """Totals since the start."""
        return self._server.measures

    @property
    def running(self) -> int:
        """Calls in the batch."""
        return self._server.running

    @property
    def waiting(self) -> int:
        """Calls in the server's own queue."""
        return self._server.waiting

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache that calls hold now, 0 to 1."""
        return self._server.kv_usage(asyncio.get_running_loop().time())

    @property
    def prefix_hit_rate(self) -> float:
        """Prompt tokens found in the prefix cache, of all; 0 while there were none."""
        return self.measures.prefix_hit_rate

    @property
    def block_tokens(self) -> int:
        return self._server.limits.block_tokens

    @property
    def kv_blocks(self) -> int:
        return self._server.limits.kv_blocks

    @property
    def shares(self) -> bool:
        """Whether prefixes are cached."""
        return self._server.limits.sharing

    # ------------------------------------------------------------------ calls

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        """Answer one call; see `Engine.stream` for what the deltas promise."""
        if self._closed:
            raise EngineError(f"replica {self.name} is closed", engine=self.name, retryable=False)
        if isinstance(call, EncodeCall):
            yield await self._encode(call)
            return
        script = self._script(call)
        tokens, thinking = script.tokens, script.thinking
        generation = script.generation
        loop = asyncio.get_running_loop()
        self._server.submit(generation, loop.time())
        self._arm(loop)
        self._idle.clear()
        given = 0
        try:
            while True:
                woken = self._readers[generation] = loop.create_future()
                if not generation.done and generation.written == given:
                    await woken  # not when more was written while a slow reader was away
                if self._closed:
                    raise self._closed_error()
                if generation.done:
                    break
                written = generation.written
                yield _delta(tokens, thinking, given, written)
                given = written
        finally:
            del self._readers[generation]
            if not generation.done:
                self._server.cancel(generation, loop.time())
                self._arm(loop)
            if not self._readers:
                self._idle.set()
        reasons = self.measures.finish_reasons
        reasons[script.finish_reason] = reasons.get(script.finish_reason, 0) + 1
        usage = Usage(
            prompt_tokens=script.prompt_tokens,
            completion_tokens=script.written,
            cached_tokens=generation.cached_tokens,
            reasoning_tokens=min(thinking, len(tokens)),
            calls=1,
        )
        rest = _delta(tokens, thinking, given, len(tokens))
        calls = [{"index": at, **each} for at, each in enumerate(script.tool_calls)]
        yield Delta(rest, rest.reasoning, calls, script.finish_reason, usage)

    async def _encode(self, call: EncodeCall) -> Delta:
        """Read all the inputs of a call; the answer is there when the last of them is read."""
        call.seal()
        texts = self._encoder.inputs(call, self._piece)
        reads = [
            Generation(len(text), 1, BlockKeys(text, (), self.block_tokens), marks=(), pooled=True)
            for text in texts
        ]
        usage = Usage(prompt_tokens=sum(map(len, texts)), calls=1)
        answer = self._encoder.answer(call, usage, self.name)
        loop = asyncio.get_running_loop()
        self._idle.clear()
        try:
            for read in reads:
                self._server.submit(read, loop.time())
                self._readers[read] = loop.create_future()
            self._arm(loop)
            for read in reads:
                if not read.done:
                    await self._readers[read]
                if self._closed:
                    raise self._closed_error()
        finally:
            for read in reads:
                if self._readers.pop(read, None) is not None and not read.done:
                    self._server.cancel(read, loop.time())
            self._arm(loop)
            if not self._readers:
                self._idle.set()
        usage.cached_tokens = sum(read.cached_tokens for read in reads)
        if isinstance(call, EmbedCall):
            self.measures.embedded += len(reads)
        else:
            self.measures.reranked += len(reads)
        return answer

    def _closed_error(self) -> EngineError:
        return EngineError(
            f"replica {self.name} was closed while it answered", engine=self.name, retryable=False
        )

    async def idle(self) -> None:
        """Return when no call is under way."""
        await self._idle.wait()

    async def aclose(self) -> None:
        """Stop the timer; calls under way fail."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for woken in self._readers.values():
            if not woken.done():
                woken.set_result(None)

    def _script(self, call: Call) -> _Script:
        """Everything about a call that is known before its first token."""
        if call.max_tokens is not None and call.max_tokens < 1:
            raise EngineError(
                f"max_tokens is {call.max_tokens}, expected at least 1: give a positive number, "
                "or leave it out to let the answer end by itself",
                engine=self.name,
                status=400,
                retryable=False,
            )
        open_end = bool(call.extra.get("continue_final_message")) and bool(call.messages)
        if call.extra.get("raw_prompt"):
            prompt = tokenize(prompt_text(call.messages), self._piece)
        else:
            prompt = render(call.messages, call.tools, piece=self._piece, open_end=open_end)
        answer = self._answer(call, open_end)
        thoughts = tokenize(answer.reasoning, self._piece)
        text = _before_stop(answer.text, call.stop)
        tokens = thoughts + tokenize(text, self._piece)
        tool_calls = answer.tool_calls
        aside = tokenize(json.dumps(tool_calls, default=str), self._piece) if tool_calls else []
        finish_reason = "tool_calls" if tool_calls else "stop"
        if call.max_tokens is not None and len(tokens) + len(aside) > call.max_tokens:
            aside, tool_calls = aside[: max(0, call.max_tokens - len(tokens))], ()
            del tokens[call.max_tokens :]
            finish_reason = "length"
        elif call.max_tokens is not None and call.extra.get("ignore_eos") and not tool_calls:
            tokens += [" and"] * (call.max_tokens - len(tokens))
            finish_reason = "length"
        written = len(tokens) + len(aside)
        generation = Generation(
            prompt_tokens=len(prompt),
            output_tokens=written,
            keys=BlockKeys(prompt, tokens + aside, self.block_tokens),
            marks=_marks(call, text, tokens, len(thoughts)),
        )
        return _Script(
            tokens, len(thoughts), finish_reason, len(prompt), generation, tool_calls, written
        )

    def _answer(self, call: Call, open_end: bool) -> Answer:
        if call.prewarm:
            return Answer(".")
        asked = self._whole(call) if open_end else call
        try:
            said = self._respond(asked)
        except AltoError:
            raise
        except Exception as error:
            raise EngineError(
                f"replica {self.name}: respond() raised {type(error).__name__}: {error} for a "
                f"call of stage {call.stage!r} at path {call.path}",
                engine=self.name,
                retryable=False,
            ) from error
        answer = Answer(said) if isinstance(said, str) else said
        if not isinstance(answer, Answer):
            raise EngineError(
                f"replica {self.name}: respond() returned {type(said).__name__} for a call of "
                f"stage {call.stage!r}, expected a str or an alto.engines.simulated.Answer",
                engine=self.name,
                retryable=False,
            )
        if not all(map(is_whole, answer.tool_calls)):
            raise EngineError(
                f"replica {self.name}: respond() returned tool_calls {answer.tool_calls!r} for a "
                f"call of stage {call.stage!r}, expected each with a function that has a name and "
                "its arguments as a text of JSON",
                engine=self.name,
                retryable=False,
            )
        if open_end:
            begun = content_text(call.messages[-1].get("content"))
            if answer.text.startswith(begun):
                return Answer(answer.text[len(begun) :], tool_calls=answer.tool_calls)
        return answer

    def _whole(self, call: Call) -> Call:
        """The call that the one with an answer begun goes on from."""
        begun = tokenize(content_text(call.messages[-1].get("content")), self._piece)
        tokens = None if call.max_tokens is None else call.max_tokens + len(begun)
        return replace(call, messages=call.messages[:-1], max_tokens=tokens)

    # ------------------------------------------------------------------ the timer

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        at = self._server.wake_at()
        timer = self._timer
        if at is None or self._closed:
            return
        if timer is not None:
            if timer.when() <= at:
                return  # it fires early, finds nothing to do, and is set anew
            timer.cancel()
        when = at if at != -math.inf else loop.time()
        self._timer = loop.call_at(when, self._tick, loop, when)

    def _tick(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        self._timer = None
        # A loop may fire a timer a clock tick early; the model's time is the timer's.
        for generation in self._server.advance(max(when, loop.time())):
            woken = self._readers.get(generation)
            if woken is not None and not woken.done():
                woken.set_result(None)
        self._arm(loop)


@dataclass(slots=True)
class _Script:
    tokens: list[str]
    thinking: int
    """Of these, how many are reasoning: the first ones."""
    finish_reason: str
    prompt_tokens: int
    generation: Generation
    tool_calls: Sequence[Mapping[str, Any]]
    """Given whole at the end."""
    written: int
    """Tokens of all that is said, those of tool calls included, which come last."""


def _delta(tokens: Sequence[str], thinking: int, begin: int, end: int) -> Delta:
    if begin >= thinking:
        return Delta("".join(tokens[begin:end]))
    return Delta(
        "".join(tokens[thinking:end]), reasoning="".join(tokens[begin : min(end, thinking)])
    )


def _before_stop(text: str, stops: Sequence[str]) -> str:
    found = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


def _marks(call: Call, text: str, tokens: Sequence[str], thinking: int) -> Sequence[int] | None:
    """The token counts that bring the text to the boundaries its reader named."""
    if call.boundaries is None:
        return None
    ends = list(accumulate(map(len, tokens[thinking:])))
    counts = {bisect_left(ends, at) + 1 + thinking for at in call.boundaries(text) if at > 0}
    return sorted(counts)
