"""An LM stage: prompt, call, and items out of the text while it is written.

Text that does not parse is asked for once more, of another replica if there is one; a stream goes
on after its last complete item.
When an engine of several fails, the next is used. A later attempt of a stream of deltas is cut
where the earlier one was, as far as the characters agree, so equal text keeps its downstream work.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from ..core.calls import Call, Delta, Message, Usage, asked
from ..core.cut import Cutter
from ..core.execution import Invocation
from ..core.scope import PENDING
from ..core.think import ThinkSplitter
from ..engines.protocol import Engine, Keeper, Read, ReadFor, Take
from ..errors import EngineError, ParseError
from ..stages import LM
from ..structs import Reader
from . import prompts, shedding, spending
from .readers import wake

if TYPE_CHECKING:
    from ..engines.ahead import Ahead
    from .driver import Run
    from .units import Unit

PARSE_TRIES = 2
"""How often a text is asked for when it does not parse."""


async def call(
    run: Run,
    unit: Unit,
    invocation: Invocation,
    arguments: dict[str, Any],
    messages: list[Message],
    ahead: Ahead | None = None,
) -> None:
    """Run one attempt of an LM stage from its prompt to its last item. `ahead` knows where the
    beginning of the prompt has been read, if it has.

    This frame waits for the engine's directly: each frame in between would be gone through for
    each piece of text.
    """
    reader = unit.reader
    assert reader is not None, "an LM stage has one"
    if invocation.feeds:
        _have_enough(run, invocation)
        arguments = prompts.arguments_of(arguments)
    template = _call(run, unit, invocation, arguments, messages)
    template.ahead = ahead
    template.priority = run.priority
    template.leads = run.execution.leads(invocation)
    if run.ticket is not None and run.deadline is not None:
        if shedding.too_late(run, invocation) is not None:
            return
        template.rest_s = run.ticket.rest_s
    read = _read_of(run, unit, invocation)
    reading = _Reading(run, unit, invocation, reader)
    for attempt in range(1, PARSE_TRIES + 1):
        try:
            await read(template, reading.begin(), reading)
        except EngineError as failure:
            template.untold = template.untold or failure.usage
            raise
        finally:
            if template.untold is not None:
                run.usage, template.untold = run.usage + template.untold, None
        error = await reading.end()
        if reading.stopped:
            return
        if error is None:
            break
        if attempt == PARSE_TRIES or reading.truncated:
            raise error
        template.messages, template.avoid = reading.again(messages), template.answered_by
    reading.finish()


async def call_growing(
    run: Run, unit: Unit, invocation: Invocation, arguments: dict[str, Any], given: Any
) -> None:
    """Run one attempt of an LM stage that is a generator; `given` is an iterator over the parts of
    its prompt."""
    stage = unit.stage
    assert isinstance(stage, LM)
    parts = prompts.Parts(stage.name)
    ahead = _ahead(run, unit, stage)
    if ahead is None:
        await call(run, unit, invocation, arguments, await prompts.joined(parts, given))
        return

    def so_far() -> Call:
        return _call(run, unit, invocation, {}, parts.messages())

    try:
        messages = await prompts.joined(parts, given, lambda: ahead.grow(parts.size, so_far))
        await call(run, unit, invocation, arguments, messages, ahead)
    finally:
        await ahead.aclose()


def _ahead(run: Run, unit: Unit, stage: LM[Any, Any]) -> Ahead | None:
    """What takes a prompt that grows, where the stage wants that and its engine can; not in a
    request with a token budget, where nothing is sent twice."""
    if not stage.prewarm or run.budget is not None:
        return None
    begin = getattr(run.runtime.engine(unit.engines[0], unit.name), "ahead", None)
    if begin is None:
        return None

    def used(usage: Usage) -> None:
        run.usage = run.usage + usage

    ahead: Ahead = begin(used)
    return ahead


def _have_enough(run: Run, invocation: Invocation) -> None:
    """The prompt is complete: what its function has not read is not waited for while the LM
    writes."""
    run.execution.now = run.loop.time()
    run.execution.have_enough(invocation)
    wake(invocation)
    run.pump()


def _call(
    run: Run,
    unit: Unit,
    invocation: Invocation,
    arguments: dict[str, Any],
    messages: list[Message],
) -> Call:
    if unit.template is None:
        unit.template = _template(run, unit)
    who = (invocation.path, run.id, invocation.attempt, run.deadline)
    return asked(unit.template, messages, arguments, *who)


def _template(run: Run, unit: Unit) -> Call:
    """What all calls of a stage have in common."""
    stage, reader = unit.stage, unit.reader
    assert isinstance(stage, LM) and reader is not None
    return Call(
        messages=[],
        stage=stage.name,
        max_tokens=unit.max_tokens,
        temperature=unit.temperature,
        stop=stage.stop,
        seed=stage.seed,
        schema=reader.schema,
        schema_name=stage.name if reader.schema is not None else "",
        returns=stage.returns,
        extra=stage.extra,
        model=unit.model,
        boundaries=run.runtime.boundaries(stage),
    )


def _read_of(run: Run, unit: Unit, invocation: Invocation) -> ReadFor:
    """How what answers the stage's calls is read: to its end, or until `take` has enough."""
    if len(unit.engines) > 1:
        return partial(_read_one_of, run, unit, invocation)
    return _read_engine(run, unit, invocation, unit.engines[0])


async def _read_one_of(
    run: Run, unit: Unit, invocation: Invocation, template: Call, take: Take, keeper: Keeper
) -> None:
    """Read the first engine that answers; the next one when an engine fails before its first
    piece."""
    for position, name in enumerate(unit.engines):
        read = _read_engine(run, unit, invocation, name)
        try:
            await read(template, take, keeper)
            return
        except EngineError:
            if keeper.given or position == len(unit.engines) - 1:
                raise


def _read_engine(run: Run, unit: Unit, invocation: Invocation, name: str) -> ReadFor:
    read = unit.reads.get(name)
    if read is None:
        engine = run.runtime.engine(name, unit.name)
        read = unit.reads[name] = getattr(engine, "read_for", None) or _plainly(engine)
    return read if run.budget is None else partial(spending.read, run, invocation, read)


def _plainly(engine: Engine) -> ReadFor:
    """How an engine is read that does not look at what a reader keeps."""
    read: Read = getattr(engine, "read", None) or partial(_streamed, engine)
    return lambda template, take, keeper: read(template, take)


async def _streamed(engine: Engine, template: Call, take: Take) -> None:
    async with aclosing(engine.stream(template)) as deltas:
        async for delta in deltas:
            going = take(delta)
            if going is not True and (going is False or not await going):
                return


class _Reading(Keeper):
    """Reads the text of one attempt into items.

    The cutter is given a piece when something may come of it, along with those before it that have
    been kept back: between the ends of two items nearly every token is just put to the others.

    Many wait at once for their next piece, so it is kept small.
    """

    __slots__ = (
        "cutter",
        "failed",
        "fans_out",
        "fed",
        "finish_reason",
        "invocation",
        "pieces",
        "reader",
        "recut",
        "room",
        "run",
        "search",
        "stopped",
        "think",
        "truncated",
        "value",
    )

    def __init__(self, run: Run, unit: Unit, invocation: Invocation, reader: Reader[Any]) -> None:
        super().__init__()
        self.run = run
        self.invocation = invocation
        self.reader = reader
        self.fans_out = unit.fans_out
        self.value: Any = PENDING
        self.stopped = False
        self.failed: Exception | None = None
        self.recut = (
            Recut(_earlier(invocation))
            if unit.fans_out and unit.stage.item_type is str and invocation.attempt > 1
            else None
        )

    def begin(self) -> Take:
        """Start to read an answer of an engine, with what is returned."""
        self.cutter: Cutter[Any] = self.reader.new()
        self.given = []
        self.enough = False
        self.pieces = self.given  # the same without what is thought
        self.fed = 0  # of these the cutter has had so many
        self.think: ThinkSplitter | None = None
        self.finish_reason: str | None = None
        self.search = _search("")  # finds in a piece what is to be looked at
        self.room = sys.maxsize  # so many characters may come before any piece is
        self.truncated = False
        if self.fans_out:
            self._look_out()
        search, keep = self.search, self.given.append
        room = 0  # the first piece is looked at

        def take(text: str) -> bool | Awaitable[bool]:
            """One piece: this runs once a token."""
            nonlocal search, room
            if text.__class__ is not str:
                text = self._note(text)
            room -= len(text)
            if room > 0 and search(text) is None:
                keep(text)
                return True
            going = self._look(text)
            search, room = self.search, self.room
            return going

        return take

    def _look_out(self) -> None:
        """Say which of the pieces to come is to be looked at."""
        marks, room = self.cutter.until()
        self.search = _search(marks)
        self.room = room if self.think is None else 0

    def _look(self, text: str) -> bool | Awaitable[bool]:
        """A piece of which something may come, or the first."""
        if not self.given:
            if (first := self.first) is not None:
                self.first = None
                first()
            if len(text) < self.room and self.search(text) is None:
                self.room -= len(text)
                self.given.append(text)
                return True
        if "<" in text or self.think is not None:
            self._without_thinking(text)
        else:
            self.given.append(text)
        if not self.fans_out:
            self.room = 0
            return True
        try:
            items = self._cut()
            self._look_out()
            if items and not self._give(items):
                return self._wait(items)
        except Exception as error:  # ours, not the engine's: it must not be tried elsewhere
            self.failed = error
            self.enough = True
            return False
        self.enough = self.cutter.error is not None
        return not self.enough

    def _cut(self) -> list[Any]:
        """The items that the pieces complete which the cutter has not had yet."""
        text = "".join(self.pieces[self.fed :])
        self.fed = len(self.pieces)
        return self.cutter.feed(text) if text else []

    async def end(self) -> ParseError | None:
        """The answer is over: read what is left of it. The error says why it cannot be read to its
        end."""
        if self.failed is not None:
            raise self.failed
        if self.stopped:
            return None
        cutter = self.cutter
        self.truncated = self.finish_reason == "length"
        if self.think is not None:
            text, reasoning = self.think.finish()
            if reasoning:
                self._reason(reasoning)
            self.pieces.append(text)
        if cutter.error is None:
            items = self._cut()
            if items and not await self._pass(items):
                return None
        if cutter.error is None:
            items = cutter.finish(self.truncated)
            if items and not await self._pass(items):
                return None
        return cutter.error

    def _note(self, piece: str) -> str:
        """Note what a piece carries besides text. One that carries nothing becomes a string."""
        if piece.__class__ is Delta or not isinstance(piece, Delta):
            return str.__str__(piece)
        if piece.reasoning:
            self._reason(piece.reasoning)
        if piece.finish_reason is not None:
            self.finish_reason = piece.finish_reason
        if piece.usage is not None:
            self.run.usage = self.run.usage + piece.usage
        return piece

    def _without_thinking(self, text: str) -> None:
        if self.think is None:
            self.think = ThinkSplitter()
            self.pieces = list(self.given)
            self.think.feed("".join(self.pieces))  # it has seen this before
        self.given.append(text)
        text, reasoning = self.think.feed(text)
        if reasoning:
            self._reason(reasoning)
        self.pieces.append(text)

    async def _pass(self, items: list[Any]) -> bool:
        """Hand items to the core; False when the attempt is over."""
        if not self.fans_out:
            self.value = items[0]
            return True
        return self._give(items) or await self._wait(items)

    def _give(self, items: list[Any]) -> bool:
        """Hand on items as far as the core takes them; those that it has not taken stay in the
        list. False: wait, then go on."""
        run, invocation = self.run, self.invocation
        execution = run.execution
        if self.recut is not None:
            items[:] = [piece for item in items for piece in self.recut.feed(item)]
        execution.now = run.loop.time()
        for taken, item in enumerate(items, 1):
            go_on = execution.give(invocation, item)
            if execution.actions or execution.ready:
                run.pump()
            if not go_on:
                del items[:taken]
                return False
        return True

    async def _wait(self, items: list[Any]) -> bool:
        """Wait until the core takes more, and give it the rest; False when the attempt is over."""
        run, invocation = self.run, self.invocation
        while await run.gate(invocation):
            if not items:
                return True
            go_on = run.execution.give(invocation, items.pop(0))
            run.pump()
            if go_on and not items:
                return True
        self.stopped = self.enough = True
        return False

    def _reason(self, text: str) -> None:
        run = self.run
        key = (self.invocation.use.name, self.invocation.path)
        run.reasoning.setdefault(key, []).append(text)
        run.progress(self.invocation, "reasoning", text)

    def again(self, messages: list[Message]) -> list[Message]:
        """The prompt of the second try: go on after the last complete item, or answer anew."""
        wanted = self.reader.expected
        text = "".join(self.pieces)
        kept = text[: self.cutter.settled] if self.fans_out else ""
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
            {"role": "assistant", "content": text},
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


@cache
def _search(marks: str) -> Callable[[str], re.Match[str] | None]:
    """Finds one of some characters, or the beginning of a tag around reasoning. (There are a few
    sets of them, which cutters know.)"""
    return re.compile(f"[<{re.escape(marks)}]").search


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
