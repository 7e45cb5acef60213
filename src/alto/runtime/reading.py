"""The text of one attempt of an LM stage, read into items: from its asking to its end.

Text that does not parse is asked for once more, of another replica if there is one; a stream goes
on after its last complete item. A later attempt of a stream of deltas is cut where the earlier one
was, as far as the characters agree, so equal text keeps its downstream work (`recut`).

Nothing in here waits. Where that must be, somebody is given what to wait for (`pauses`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from ..core.calls import Call, Delta, Message
from ..core.cut import DULL, Cutter
from ..core.execution import Invocation, State
from ..core.scope import PENDING
from ..core.think import ThinkSplitter
from ..engines.asked import Asked, ended
from ..engines.keeper import Keeper
from ..errors import EngineError
from .asking import asks
from .pauses import give_on, put_on, read_on
from .recut import Recut, earlier

if TYPE_CHECKING:
    from .driver import Run
    from .units import Unit

PARSE_TRIES = 2
"""How often a text is asked for when it does not parse."""

_BOUNDLESS: Final = 1 << 60
"""Room that no text fills; still a number that compiled code need not make an object of."""


class Reading(Keeper):
    """Reads the text of one attempt into items. Whoever has asked for it waits for it as for a call
    (`Asked`): any frame in between would be gone through for each piece of text.

    The cutter is given a piece when something may come of it, along with those before it that have
    been kept back: between the ends of two items nearly every token is just put to the others.

    Many wait at once for their next piece, so it is kept small.
    """

    # What is looked at for each piece stands first, beside what `Keeper` has: in compiled form
    # that is one line of the processor's cache.
    room: int
    search: Callable[[str], re.Match[str] | None]
    cutter: Cutter[Any]
    """It is made when there is something for it: many calls wait long for their first piece."""

    __slots__ = (
        "asked",
        "call",
        "cutter",
        "failed",
        "fans_out",
        "fed",
        "finish_reason",
        "invocation",
        "pieces",
        "recut",
        "room",
        "run",
        "search",
        "stopped",
        "think",
        "tries",
        "unit",
        "value",
        "waits",
    )

    def __init__(self, run: Run, unit: Unit, invocation: Invocation, call: Call) -> None:
        # What `Keeper` sets is set for each try, and so are the others, in `ask`.
        self.run = run
        self.unit = unit
        self.invocation = invocation
        self.call = call
        self.tries = 0  # so often an answer has been asked for
        self.fans_out = unit.fans_out
        self.value: Any = PENDING
        self.stopped = False
        self.failed: Exception | None = None
        self.recut = (
            Recut(earlier(invocation))
            if invocation.attempt > 1 and unit.fans_out and unit.stage.item_type is str
            else None
        )

    def ask(self) -> None:
        """Ask for the text, or for another one in its place."""
        run, unit = self.run, self.unit
        ask = unit.ask
        if ask is None or run.budget is not None:
            ask = asks(run, unit, self.invocation)
        self.tries += 1
        self.first = None
        self.given = []
        self.enough = False
        self.pieces = self.given  # the same without what is thought
        self.fed = 0  # of these the cutter has had so many
        self.think: ThinkSplitter | None = None
        self.finish_reason: object = None
        self.room = 0  # so many characters may come before any piece is: the first one is
        asked = ask(self.call, self.take, self)
        self.asked: Asked | None = asked
        self.waits = asked.waits

    @property
    def truncated(self) -> bool:
        """The engine has stopped for length."""
        return self.finish_reason == "length"

    def take(self, text: str) -> bool | Awaitable[bool]:
        """One piece: this runs once a token."""
        if type(text) is not str:
            text = self._note(text)
        self.room -= len(text)
        # Most pieces are a word with a space or a mark beside it, in which there is nothing to be
        # looked at. That is known in half the time of a search.
        if self.room > 0 and (text.strip(DULL).isalnum() or not text or self.search(text) is None):
            self.given.append(text)
            return True
        return self._look(text)

    def _look(self, text: str) -> bool | Awaitable[bool]:
        """A piece of which something may come, or the first."""
        if not self.given:
            first, self.first = self.first, None
            if first is not None:
                first.began()
            self._make_cutter()
            if self.fans_out:
                self._look_out()
            else:
                self.search = _TAG
                self.room = _BOUNDLESS
            room = self.room - len(text)
            if room > 0 and (text.strip(DULL).isalnum() or self.search(text) is None):
                self.room = room
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
            if items and not self.give(items):
                return give_on(self, items)
        except Exception as error:  # ours, not the engine's: it must not be tried elsewhere
            self.failed = error
            self.enough = True
            return False
        self.enough = self.cutter.error is not None
        return not self.enough

    def _make_cutter(self) -> None:
        reader = self.unit.reader
        assert reader is not None, "an LM stage has one"
        self.cutter = reader.new()

    def _look_out(self) -> None:
        """Say which of the pieces to come is to be looked at."""
        marks, room = self.cutter.until()
        self.search = _SEARCHES.get(marks) or _search(marks)  # finds it
        self.room = room if self.think is None else 0

    def _cut(self) -> list[Any]:
        """The items that the pieces complete which the cutter has not had yet."""
        text = "".join(self.pieces[self.fed :])
        self.fed = len(self.pieces)
        return self.cutter.feed(text) if text else []

    def rest(self) -> list[Any]:
        """The answer is over: the items in what the cutter has not had yet."""
        if not self.given:
            self._make_cutter()
        if self.think is not None:
            text, reasoning = self.think.finish()
            if reasoning:
                self._reason(reasoning)
            self.pieces.append(text)
        return self._cut() if self.cutter.error is None else []

    def last(self) -> list[Any]:
        """The items that are complete only because nothing follows."""
        cutter = self.cutter
        return cutter.finish(self.finish_reason == "length") if cutter.error is None else []

    def _note(self, piece: str) -> str:
        """Note what a piece carries besides text. One that carries nothing becomes a string."""
        if type(piece) is Delta or not isinstance(piece, Delta):
            return str.__str__(piece)
        if reasoning := piece.reasoning:
            self._reason(reasoning)
        if (finish_reason := piece.finish_reason) is not None:
            self.finish_reason = finish_reason
        if (usage := piece.usage) is not None:
            self.run.usage = self.run.usage + usage
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

    def give(self, items: list[Any], over: bool = False) -> bool:
        """Hand on items as far as the core takes them; those that it has not taken stay in the
        list. False: wait, then go on. If the text is `over`, and that is not so, the runner of
        this attempt is about to see by itself to what they make ready."""
        run, invocation = self.run, self.invocation
        execution = run.execution
        if self.recut is not None:
            items[:] = [piece for item in items for piece in self.recut.feed(item)]
        execution.now = run.loop.time()
        for taken, item in enumerate(items, 1):
            go_on = execution.give(invocation, item)
            if execution.actions or (execution.ready and not (over and go_on)):
                run.pump()
            if not go_on:
                del items[:taken]
                return False
        return True

    def put(self, items: list[Any]) -> bool:
        """Hand on what is complete at the end of the text. False: as `give`."""
        if self.fans_out:
            return self.give(items, over=True)
        self.value = items[0]
        return True

    def _reason(self, text: Any) -> None:
        run = self.run
        key = (self.invocation.use.name, self.invocation.path)
        run.set_aside().reasoning.setdefault(key, []).append(text)
        run.progress(self.invocation, "reasoning", text)

    def again(self) -> list[Message]:
        """The prompt of the next try: go on after the last complete item, or answer anew."""
        messages = self.call.messages
        assert self.unit.reader is not None
        wanted = self.unit.reader.expected
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

    # --- When what was waited for has ended

    def after(self, error: BaseException | None) -> Awaitable[None] | None:
        """What was first waited for has ended, or raised this: nearly always the text is over."""
        asked, self.asked = self.asked, None  # which knows this: a circle
        assert asked is not None, "it is waited for once"
        rest: Awaitable[None] | None = None
        try:
            rest = asked.after(error)
        except EngineError as failure:
            self.note_cost(failure)
            raise
        finally:
            error = None  # which knows this frame: a circle
            if rest is None:
                self.count_untold()
        return self.over() if rest is None else read_on(self, rest)

    def note_cost(self, failure: EngineError) -> None:
        """The engine has failed, which may have cost something all the same."""
        self.call.untold = self.call.untold or failure.usage

    def count_untold(self) -> None:
        """What no delta has told of the cost is known once the engine has heard of the end."""
        run, call = self.run, self.call
        untold = call.untold
        if untold is not None:
            run.usage, call.untold = run.usage + untold, None

    def over(self) -> Awaitable[None] | None:
        """The text is over: read what is left of it, and tell the core. Gives what to wait for if
        the core does not take all of it at once, or if the text cannot be read."""
        if self.failed is not None:
            raise self.failed
        if self.stopped:
            return None
        items = self.rest()
        if items and not self.put(items):
            return put_on(self, items, more=True)
        items = self.last()
        if items and not self.put(items):
            return put_on(self, items, more=False)
        return self.done()

    def done(self) -> Awaitable[None] | None:
        """All items have been taken. If the text could not be read to its end, have it asked for
        once more, as long as that may help."""
        error = self.cutter.error
        if error is None:
            self._finish()
            return None
        if self.invocation.state is not State.RUNNING:  # and its engine has not minded the cancel
            return None
        if self.tries == PARSE_TRIES or self.truncated:
            raise error
        call = self.call
        call.messages, call.avoid = self.again(), call.answered_by
        self.ask()
        self.run.pump()  # there is more to wait for: what the items made ready must not
        return ended(self)

    def _finish(self) -> None:
        """The text has been read: tell the core. What follows the attempt's runner sees to."""
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


_SEARCHES: dict[str, Callable[[str], re.Match[str] | None]] = {}
"""By the characters that are looked for. There are a few sets of them, which cutters know."""


def _search(marks: str) -> Callable[[str], re.Match[str] | None]:
    """Makes what finds one of some characters, or the beginning of a tag around reasoning."""
    search = _SEARCHES[marks] = re.compile(f"[<{re.escape(marks)}]").search
    return search


_TAG = _search("")
