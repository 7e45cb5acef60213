"""The calls of a pool, between those who read them and its core: all that is done without waiting.

The core hears of each call when it is asked, when its answer begins, and when it is over, and says
where it goes; one timer wakes the core for the whole pool. `Pool` has what waits.

Always true:
    K1  a reader stands in `readers` from `submit` to `leave`, after which the core has forgotten
        its call
    K2  one timer at most is set, and never for later than the core wants to be woken
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from ..core.calls import Call, Delta, TokenIds, Usage
from ..core.pool import CallPool
from ..core.pool_events import (
    Action,
    Broke,
    Drop,
    Event,
    Left,
    Refuse,
    Send,
    Warm,
    Woke,
)
from ..core.prompt import read
from ..core.resume import can_resume, chars_of, rest_of, spent
from ..core.scheduling import CallId, ReplicaId
from ..errors import AltoError, EngineError
from .ahead import Ahead
from .asked import Asked, Whole, failed
from .keeper import Keeper
from .pool_reader import PoolReader, as_delta, is_full
from .protocol import Read, Replica, Take

GoOn = Callable[[PoolReader, Take, Keeper], Awaitable[None]]
"""Reads a call to its end, by however many replicas that takes."""


class Calls:
    """The calls of one pool."""

    def __init__(
        self,
        core: CallPool,
        name: str,
        replicas: Sequence[Replica],
        *,
        resume: bool,
        continue_final_message: bool,
        reads: list[Read],
        go_on: GoOn,
    ) -> None:
        self.core = core
        self.name = name
        self.replicas = replicas
        self.resume = resume
        self.continue_final_message = continue_final_message
        self.reads = reads
        """How each replica is read, if all hand their pieces on themselves; else empty."""
        self.go_on = go_on
        self.readers: dict[CallId, PoolReader] = {}
        self.growing: dict[CallId, Ahead] = {}
        """Those whose prompt is not complete yet."""
        self.closed = False
        self._numbers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_loop: asyncio.AbstractEventLoop | None = None
        """The one that has the timer: it may be over with the timer still set."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """The one in which a call was submitted last,"""
        self._now: Callable[[], float]
        """and its clock. (To ask for both each time takes three times as long.)"""

    def close(self) -> None:
        """No call goes anywhere any more."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def wake_all(self) -> None:
        """Those that wait see that the pool is closed."""
        for reader in self.readers.values():
            reader.wake()

    # --- From its asking to its end

    def submit(self, call: Call, given: list[str]) -> PoolReader:
        """A call is asked: the core hears of it. `given` will hold the pieces of its answer."""
        if self.closed:
            raise self.closed_error()
        if not isinstance(call, Call):
            raise self._no_call(call)
        number = self.number() if call.ahead is None else self._number_of(call)
        prompt = read(call, hashed=self.core.uses_prefix)
        reader = PoolReader(self, number, prompt, call, given)
        self.readers[number] = reader
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._now = loop, loop.time
        now = self._now()
        avoid = self._named(call.avoid) if call.avoid else None
        replica = self.core.submitted(reader, call.request, avoid, call.priority, call.rest_s, now)
        if replica is not None:
            reader.sends = (replica,)
        if self.core.unsettled():
            self._settle(now)
        return reader

    def ask(self, call: Call, take: Take, keeper: Keeper) -> Asked:
        """See `Pool.ask`."""
        reader = self.submit(call, keeper.given)
        if not self.reads or not reader.sends or is_full(reader.asked):
            return Whole(self.go_on(reader, take, keeper))
        reader.take = take
        read = self.reads[reader.go(keeper)]
        try:
            reader.waits = read(reader.asked, take)
        except Exception as error:  # where `read` is no coroutine
            reader.waits = failed(error)
        return reader

    def begin(self, reader: PoolReader) -> None:
        """The first piece of a try is there."""
        reader.writing = True
        now = self._now()
        self.core.began(reader, reader.replica, now)
        if self.core.unsettled():
            self._settle(now)

    def finish(self, reader: PoolReader) -> None:
        """A try came to its end. If it said nothing, or not why it ended, that is an error."""
        last = reader.given[-1] if reader.writing else None
        if not isinstance(last, Delta) or last.finish_reason is None:
            raise self.silent_error(reader.replica, began=reader.writing)
        reader.finished = True

    def is_over(self, reader: PoolReader, error: Exception) -> bool:
        """A stream broke: was only the goodbye lost? Else the core hears of it."""
        if not reader.writing:
            failure = self.engine_error(error, reader.replica)
            self.tell(Broke(reader.call, reader.replica, failure))
            return False
        if as_delta(reader.given[-1]).finish_reason is not None:
            return True
        self._broke(reader, self.engine_error(error, reader.replica))
        return False

    def lost(self, reader: PoolReader, given: list[str]) -> None:
        """Another was before it in a race: what it read was spent all the same."""
        cost = self._cost(reader, given, chars_of(given))
        reader.before = cost if reader.before is None else reader.before + cost

    def leave(self, reader: PoolReader) -> None:
        """The generator is over: by its end, by its reader, or by an error."""
        del self.readers[reader.call]
        if reader.writing:
            reader.wanted.answered_by = self.core.replicas[reader.replica].name
            part = reader.given[reader.start :] if reader.start else reader.given
            last = part[-1] if part else None
            # Many readers go when they see the finish reason, before the stream itself ends.
            if isinstance(last, Delta) and last.finish_reason is not None:
                now, usage = self._now(), last.usage
                chars = chars_of(part)
                if usage is None or not usage.total_tokens:
                    reader.wanted.untold = self._untold(reader, part, chars, usage)
                self.core.ended(reader, reader.replica, chars, usage, now)
                if self.core.unsettled():
                    self._settle(now)
                return
            reader.wanted.untold = self._untold(reader, part, chars_of(part), None)
        elif reader.before is not None:
            reader.wanted.untold = reader.before
        self.tell(Left(reader.call))

    def _named(self, name: str) -> ReplicaId | None:
        for at, replica in enumerate(self.replicas):
            if replica.name == name:
                return ReplicaId(at)
        return None

    def number(self) -> CallId:
        """One that no other call has."""
        self._numbers += 1
        return CallId(self._numbers)

    def _number_of(self, call: Call) -> CallId:
        """A new number, unless the call has grown here."""
        ahead = call.ahead
        if isinstance(ahead, Ahead) and self.growing.get(ahead.number) is ahead:
            ahead.submitted()
            return ahead.number
        return self.number()

    def _broke(self, reader: PoolReader, error: EngineError) -> None:
        """The present try broke in mid-text: ask for the rest, if that can be had."""
        reader.writing = False
        core, given = self.core, reader.given
        part = given[reader.start :]
        cost = self._cost(reader, part, chars_of(part), error.token_ids)
        reader.before = cost if reader.before is None else reader.before + cost
        reader.start = len(given)
        prompt = None
        if self.resume and error.retryable and can_resume(given):
            reader.asked = rest_of(
                reader.wanted,
                "".join(given),
                reader.before.completion_tokens,
                continue_final_message=self.continue_final_message,
                ids=error.token_ids,
            )
            prompt = read(reader.asked, hashed=core.uses_prefix)
        if not is_full(reader.asked):
            rest_tokens = reader.asked.max_tokens
            self.tell(Broke(reader.call, reader.replica, error, prompt, rest_tokens))

    def _cost(
        self, reader: PoolReader, given: list[str], chars: int, ids: TokenIds | None = None
    ) -> Usage:
        """What a try has cost that gave these pieces, of so many characters."""
        texts = self.core.texts
        prompt_tokens = reader.size * texts.tokens_per_byte.value
        return spent(given, chars, prompt_tokens, texts.tokens_per_char.value, ids)

    def _untold(
        self, reader: PoolReader, given: list[str], chars: int, told: Usage | None
    ) -> Usage:
        """What no delta has told of a call whose last try gave these pieces."""
        cost = self._cost(reader, given, chars)
        if told is not None:  # of no tokens, but of the call, and of tries before it
            return replace(cost, calls=0)
        return cost if reader.before is None else reader.before + cost

    def tell(self, event: Event) -> None:
        """Let the core decide, and do what it says."""
        loop = asyncio.get_running_loop()
        self._do(self.core.handle(event, loop.time()), loop)

    def _settle(self, now: float) -> None:
        """Do what follows from what the core was told."""
        self._do(self.core.settle(now), asyncio.get_running_loop())

    def _do(self, actions: Sequence[Action], loop: asyncio.AbstractEventLoop) -> None:
        for action in actions:
            reader = self.readers.get(action.call)
            if reader is None:
                self._without_reader(action, loop)
                continue
            if isinstance(action, Send):
                reader.sends += (action.replica,)
                reader.wake()
            elif isinstance(action, Refuse):
                reader.error = action.error
                reader.wake()
        at = self.core.wake_at()
        if at is not None or self._timer is not None:
            self._arm(loop, at)

    def _without_reader(self, action: Action, loop: asyncio.AbstractEventLoop) -> None:
        """What concerns a call that nobody reads yet, or any more."""
        ahead = self.growing.get(action.call)
        if ahead is not None and isinstance(action, Warm):
            ahead.warm(action.replica)
        elif ahead is not None and isinstance(action, Drop):
            ahead.stop()
        elif isinstance(action, Refuse):  # the policy raised when it was told of a whole answer
            loop.call_exception_handler({"message": str(action.error), "exception": action.error})

    def _arm(self, loop: asyncio.AbstractEventLoop, at: float | None) -> None:
        """Keep the one timer at the time when the core wants to be woken."""
        if self.closed:
            at = None
        timer = self._timer
        if timer is not None:
            if at is not None and timer.when() <= at and self._timer_loop is loop:
                return  # it fires early, finds nothing to do, and is set anew
            timer.cancel()
            self._timer = None
        if at is not None:
            self._timer, self._timer_loop = loop.call_at(at, self._wake), loop

    def _wake(self) -> None:
        self._timer = None
        self.tell(Woke())

    # --- What readers are told

    def engine_error(self, error: Exception, replica: ReplicaId) -> EngineError:
        """What a replica raised, as an `EngineError`; its deadline and its refusals pass."""
        if isinstance(error, EngineError):
            return error
        if isinstance(error, AltoError):
            raise error
        failure = EngineError(
            f"replica {self.replicas[replica].name} raised {type(error).__name__}: {error}; "
            "expected nothing but EngineError or DeadlineExceeded. This is a fault of the replica "
            "class, not of the call.",
            engine=self.name,
            retryable=False,
        )
        failure.__cause__ = error
        return failure

    def silent_error(self, replica: ReplicaId, *, began: bool) -> EngineError:
        """The replica's answer is not whole."""
        where = "after a part of it" if began else "without a word"
        return EngineError(
            f"replica {self.replicas[replica].name} ended its answer {where}; expected a "
            "last delta with a finish_reason",
            engine=self.name,
        )

    def _no_call(self, given: object) -> EngineError:
        return EngineError(
            f"engine {self.name}: asked {repr(given)[:80]}, a {type(given).__name__}; expected an "
            'alto.Call, as in stream(alto.Call(messages=[{"role": "user", "content": "..."}])).',
            engine=self.name,
            retryable=False,
        )

    def closed_error(self) -> EngineError:
        """Nothing can be asked any more."""
        return EngineError(
            f"engine {self.name} is closed; calls under way and new ones fail. Open it again "
            "through its configuration.",
            engine=self.name,
            retryable=False,
        )
