"""An LM stage: prompt, call, and items out of the text while it is written.

Text that does not parse is asked for once more; a stream goes on after its last complete item.
When an engine of several fails, the next is used. A later attempt of a stream of deltas is cut
where the earlier one was, as far as the characters agree, so equal text keeps its downstream work.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ..core.calls import Call, Delta, Message
from ..core.execution import Invocation, State
from ..core.scope import PENDING
from ..core.think import ThinkSplitter
from ..errors import EngineError, ParseError, StageError
from ..stages import LM
from ..structs import Reader

if TYPE_CHECKING:
    from .driver import Run
    from .units import Unit

PARSE_TRIES = 2
"""How often a text is asked for when it does not parse."""


async def call(run: Run, unit: Unit, invocation: Invocation, arguments: dict[str, Any]) -> None:
    """Run one attempt of an LM stage from its prompt to its last item."""
    stage = unit.stage
    assert isinstance(stage, LM)
    messages = await prompt(stage, arguments)
    reader = run.runtime.reader(stage)
    template = _call(run, stage, invocation, arguments, messages, reader)
    reading = _Reading(run, unit, invocation, reader)
    for attempt in range(1, PARSE_TRIES + 1):
        error = await reading.read(_with_engines(run, stage, template))
        if reading.stopped:
            return
        if error is None:
            break
        if attempt == PARSE_TRIES or reading.truncated:
            raise error
        template.messages = reading.again(messages)
    reading.finish()


async def prompt(stage: LM[Any, Any], arguments: dict[str, Any]) -> list[Message]:
    """Call the user's function; its string or messages as messages."""
    given: Any = stage.function(**arguments)
    if inspect.isawaitable(given):
        given = await given
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if (
        isinstance(given, list)
        and given
        and all(isinstance(m, dict) and "role" in m for m in given)
    ):
        return list(given)
    raise StageError(
        f"stage {stage.name}: its function returned {type(given).__name__} {str(given)[:80]!r}, "
        "expected the prompt: a string, or a list of chat messages with role and content.",
        stage=stage.name,
    )


def _call(
    run: Run,
    stage: LM[Any, Any],
    invocation: Invocation,
    arguments: dict[str, Any],
    messages: list[Message],
    reader: Reader[Any],
) -> Call:
    return Call(
        messages=messages,
        stage=stage.name,
        arguments=arguments,
        path=invocation.path,
        request=run.id,
        attempt=invocation.attempt,
        max_tokens=stage.max_tokens,
        temperature=stage.temperature,
        stop=stage.stop,
        seed=stage.seed,
        schema=reader.schema,
        schema_name=stage.name if reader.schema is not None else "",
        returns=stage.returns,
        extra=stage.extra,
        deadline=run.deadline,
        model=stage.model,
        boundaries=run.runtime.boundaries(stage),
    )


async def _with_engines(
    run: Run, stage: LM[Any, Any], template: Call
) -> AsyncGenerator[Delta, None]:
    """The deltas of the first engine that answers; the next one when an engine fails at once."""
    for position, name in enumerate(stage.engines):
        engine = run.runtime.engine(name, stage.name)
        begun = False
        try:
            async with aclosing(engine.stream(template)) as deltas:
                async for delta in deltas:
                    begun = True
                    yield delta
            return
        except EngineError:
            if begun or position == len(stage.engines) - 1:
                raise


class _Reading:
    """Reads the text of one attempt into items. After an error `kept` is what has been read of it,
    up to the end of the last item."""

    def __init__(self, run: Run, unit: Unit, invocation: Invocation, reader: Reader[Any]) -> None:
        self.run = run
        self.invocation = invocation
        self.reader = reader
        self.fans_out = unit.fans_out
        self.value: Any = PENDING
        self.text = ""
        self.kept = ""
        self.truncated = False
        self.stopped = False
        self.key = (invocation.use.name, invocation.path)
        self.recut = (
            Recut(_earlier(invocation))
            if unit.fans_out and unit.stage.item_type is str and invocation.attempt > 1
            else None
        )

    async def read(self, deltas: AsyncGenerator[Delta, None]) -> ParseError | None:
        """One answer of an engine. The error says why it cannot be read to its end."""
        cutter = self.reader.new()
        think = ThinkSplitter()
        pieces: list[str] = []
        finish: str | None = None
        async with aclosing(deltas):
            async for delta in deltas:
                text, reasoning = think.feed(delta.text) if delta else ("", "")
                if delta.reasoning or reasoning:
                    self._reason(delta.reasoning + reasoning)
                if text:
                    pieces.append(text)
                    if not await self._pass(cutter.feed(text)):
                        return None
                if delta.finish_reason is not None:
                    finish = delta.finish_reason
                if delta.usage is not None:
                    self.run.usage = self.run.usage + delta.usage
                if cutter.error is not None:
                    break
        text, reasoning = think.finish()
        if reasoning:
            self._reason(reasoning)
        if text and cutter.error is None:
            pieces.append(text)
            if not await self._pass(cutter.feed(text)):
                return None
        self.text = "".join(pieces)
        self.truncated = finish == "length"
        if cutter.error is None and not await self._pass(cutter.finish(self.truncated)):
            return None
        self.kept = self.text[: cutter.settled] if self.fans_out else ""
        return cutter.error

    async def _pass(self, items: list[Any]) -> bool:
        """Hand items to the core; False when the attempt is over."""
        if self.invocation.state is not State.RUNNING:
            self.stopped = True
            return False
        if not items:
            return True
        if not self.fans_out:
            self.value = items[0]
            return True
        if self.recut is not None:
            items = [piece for item in items for piece in self.recut.feed(item)]
        return await self._give(items)

    async def _give(self, items: list[Any]) -> bool:
        run, invocation = self.run, self.invocation
        for item in items:
            run.execution.now = run.loop.time()
            go_on = run.execution.give(invocation, item)
            if run.execution.actions or run.execution.ready:
                run.pump()
            if not go_on and not await run.gate(invocation):
                self.stopped = True
                return False
        return True

    def _reason(self, text: str) -> None:
        run = self.run
        run.reasoning[self.key] = run.reasoning.get(self.key, "") + text
        run.progress(self.invocation, "reasoning", text)

    def again(self, messages: list[Message]) -> list[Message]:
        """The prompt of the second try: go on after the last complete item, or answer anew."""
        wanted = self.reader.expected
        kept, self.kept = self.kept, ""
        if kept:
            ask = (
                f"That broke off or was not readable after this point. Expected: {wanted}. Give "
                "only what is still missing, in the same form."
            )
            return [
                *messages,
                {"role": "assistant", "content": kept},
                {"role": "user", "content": ask},
            ]
        ask = f"That could not be read. Answer again with nothing but {wanted}."
        return [
            *messages,
            {"role": "assistant", "content": self.text},
            {"role": "user", "content": ask},
        ]

    def finish(self) -> None:
        """The text has been read: tell the core."""
        run, invocation = self.run, self.invocation
        run.execution.now = run.loop.time()
        if not self.fans_out:
            value = "" if self.value is PENDING else self.value
            run.execution.done(invocation, value)
        else:
            if self.recut is not None:
                for item in self.recut.finish():
                    run.execution.give(invocation, item)
            run.execution.close(invocation)
        run.pump()


def _earlier(invocation: Invocation) -> Iterator[str]:
    """The deltas that an earlier attempt gave at this place, in order."""
    scope = invocation.scope
    if scope is None:
        return
    slot = invocation.use.out.slot
    for child in list(scope.children):
        if child is None or not isinstance(child.vals[slot], str):
            return
        yield child.vals[slot]


class Recut:
    """Cuts new text at the boundaries of old pieces for as long as the characters are the same."""

    def __init__(self, old: Iterator[str]) -> None:
        self._old = old
        self._next = next(old, None)
        self._held = ""

    def feed(self, text: str) -> list[str]:
        """New text; the pieces that it completes."""
        self._held += text
        pieces = []
        while self._next is not None and self._held:
            if self._held.startswith(self._next):
                pieces.append(self._next)
                self._held = self._held[len(self._next) :]
                self._next = next(self._old, None)
            elif self._next.startswith(self._held):
                return pieces
            else:
                self._next = None
        if self._next is None and self._held:
            pieces.append(self._held)
            self._held = ""
        return pieces

    def finish(self) -> list[str]:
        """What is left when the text ends inside an old piece."""
        held, self._held = self._held, ""
        return [held] if held else []


class EngineHandle:
    """`alto.engine(name)`: free calls of an engine from inside a stage.

    They go through the same scheduler as LM stages, carry the caller's ancestry, and obey its
    deadline and cancellation. `async for delta in engine.stream(messages)`; a delta is a string
    with `reasoning`, `tool_calls`, `finish_reason` and `usage`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    async def stream(
        self, messages: str | list[Message], **options: Any
    ) -> AsyncGenerator[Delta, None]:
        """One call. Options: max_tokens, temperature, stop, seed, tools, model; others go into the
        request's body."""
        from .current import running

        here = running.get()
        if here is None:
            raise RuntimeError(
                f"alto.engine({self.name!r}).stream() was called outside a stage. To call an "
                "engine without a pipeline use Runtime.engine(name).stream(Call(messages=...))."
            )
        run, invocation = here
        engine = run.runtime.engine(self.name, invocation.use.name)
        call = free_call(messages, options)
        call.stage = invocation.use.name
        call.path = invocation.path
        call.request = run.id
        call.attempt = invocation.attempt
        call.deadline = run.deadline
        async with aclosing(engine.stream(call)) as deltas:
            async for delta in deltas:
                if delta.usage is not None:
                    run.usage = run.usage + delta.usage
                yield delta

    async def complete(self, messages: str | list[Message], **options: Any) -> str:
        """The whole text of one call."""
        async with aclosing(self.stream(messages, **options)) as deltas:
            return "".join([delta async for delta in deltas])

    def __repr__(self) -> str:
        return f"<engine {self.name}>"


def free_call(messages: str | list[Message], options: dict[str, Any]) -> Call:
    """A `Call` from messages and OpenAI-named options."""
    named = {}
    for name in ("max_tokens", "temperature", "seed", "tools", "model"):
        if options.get(name) is not None:
            named[name] = options.pop(name)
        options.pop(name, None)
    stop = options.pop("stop", ())
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return Call(
        messages=messages,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        extra=options,
        **named,
    )
