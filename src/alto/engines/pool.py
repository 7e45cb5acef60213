"""Many replicas behind one engine name: the asyncio side of `core/pool.py`.

The core decides, this drives it: one timer for the whole pool, and one generator for each call. A
generator waits until it is told where to go, then forwards what that replica writes. It does
nothing for a piece of text but keep it, in case the replica breaks off and another has to go on.

Always true:
    D1  a generator that is closed, cancelled or broken leaves nothing behind: no place in the
        queue, no stream open on a replica
    D2  nothing but `EngineError`, `DeadlineExceeded`, `Overloaded` and cancellation leaves it
    D3  the joined deltas are one text, whatever number of replicas wrote it
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from ..core.calls import Call, Delta, TokenIds, Usage
from ..core.peers import Summary
from ..core.pool import CallPool
from ..core.pool_events import (
    Action,
    Allowed,
    Began,
    Broke,
    CacheFacts,
    Drop,
    Event,
    Heard,
    Left,
    Refuse,
    Reported,
    Send,
    Submitted,
    Warm,
    Woke,
)
from ..core.prefix import read
from ..core.rate import rate_of
from ..core.replicas import Limits
from ..core.resume import can_resume, rest_of, spent, with_usage
from ..core.scheduling import CallId, Policy, ReplicaId
from ..errors import AltoError, EngineError
from .ahead import Ahead, Used
from .batch_options import BatchOptions
from .encodes import Encodes
from .keeper import Keeper
from .load import PoolLoad, ReplicaLoad, load_of_replica
from .pool_reader import Kept, PoolReader, as_delta, is_full, kept
from .pool_streams import Opened, again, stop, without_echo
from .protocol import Read, Replica, Take


class Pool(Encodes):
    """An `Engine` made of several replicas.

    - `policy`: a name (`round-robin`, `least-outstanding`, `prefix-affinity`, `prompt-aware`), or
      an object with `choose` and `observe` (see `alto.core.scheduling.Policy`).
    - `seed`: for lots among equal replicas and jitter. Pools side by side want different ones.
    - `limits`: every limit by name (`alto.core.replicas.Limits`).
    - `resume`: go on elsewhere when a stream breaks in mid-text; off, that is an `EngineError`.
    - `continue_final_message`: the replicas understand vLLM's parameter of that name.
    - `hedge_s`: when nothing has come after so many seconds, try a second replica beside the first
      and take whichever begins first. None: never.
    - `requests_per_minute`, `tokens_per_minute`: limits of all calls together. None: no limit.
    - `batches`: how large the requests of `embed` and `rerank` get.
    """

    def __init__(
        self,
        name: str,
        replicas: Sequence[Replica],
        *,
        policy: str | Policy = "prompt-aware",
        seed: int = 0,
        limits: Limits | None = None,
        resume: bool = True,
        continue_final_message: bool = False,
        hedge_s: float | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        batches: BatchOptions | None = None,
    ) -> None:
        self.name = name
        self.batch_options = batches or BatchOptions()
        self.replicas = tuple(replicas)
        self.resume = resume
        self.continue_final_message = continue_final_message
        self._core = CallPool(
            name,
            [replica.name for replica in self.replicas],
            policy=policy,
            random=Random(seed),
            limits=limits,
            hedge_s=hedge_s,
            rate=rate_of(requests_per_minute, tokens_per_minute),
        )
        self._reads = [] if hedge_s is not None else _reads(self.replicas)
        self._readers: dict[CallId, PoolReader] = {}
        self._growing: dict[CallId, Ahead] = {}
        self._numbers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # --- What is asked of an engine

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        """Answer one call, on the replica that the policy chooses, or on several one by one."""
        reader = self._submit(call, [])
        try:
            while not is_full(reader.asked):
                inner = await self._open(reader)
                try:
                    before = reader.before
                    async for delta in inner:
                        if not reader.writing:
                            self._begin(reader)
                        reader.given.append(kept(delta))
                        yield delta if before is None else with_usage(delta, before)
                    self._finish(reader)
                    return
                except Exception as error:
                    if self._is_over(reader, error):
                        return
                finally:
                    await inner.aclose()
            # Only the end of the stream was lost: the text has all the tokens it may have.
            usage, reader.before = reader.before, None
            yield Delta(finish_reason="length", usage=usage)
        finally:
            self._leave(reader)

    def read(self, call: Call, take: Take) -> Awaitable[None]:
        """The same for a reader that is called with each piece: cheaper than `stream` by a
        generator. Returns at the end of the text, or when `take` has enough."""
        kept = Kept(take)
        return self.read_for(call, kept.take, kept.keeper)

    async def read_for(self, call: Call, take: Take, keeper: Keeper) -> None:
        """As `read`, for a reader that keeps the pieces itself: cheaper by a call for each.

        The pieces are passed on right here: every frame between a replica and whoever waits for it
        would be gone through twice for each piece. Replicas that hand them on themselves spare that
        too, until a text breaks off.
        """
        given = keeper.given
        reader = self._submit(call, given)
        try:
            while not is_full(reader.asked):
                if self._reads and not given:
                    if not reader.sends or self._closed:
                        await self._sent(reader)
                    reader.replica = reader.sends.pop(0)
                    keeper.first = partial(self._begin, reader)
                    try:
                        await self._reads[reader.replica](reader.asked, take)
                        if not keeper.enough:
                            self._finish(reader)
                        return
                    except Exception as error:
                        if self._is_over(reader, error):
                            return
                        continue
                keeper.first = None
                inner = await self._open(reader)
                try:
                    before = reader.before
                    async for delta in inner:
                        if not reader.writing:
                            self._begin(reader)
                        piece = kept(delta)
                        if before is None:
                            going = take(piece)
                        else:
                            going = take(with_usage(delta, before))
                            given[-1] = piece  # which says what it cost by itself
                        if going is not True and (going is False or not await going):
                            return
                    self._finish(reader)
                    return
                except Exception as error:
                    if self._is_over(reader, error):
                        return
                finally:
                    if not reader.finished:
                        await inner.aclose()
            usage, reader.before = reader.before, None
            going = take(Delta(finish_reason="length", usage=usage))
            if not isinstance(going, bool):
                await going
        finally:
            keeper.first = None
            self._leave(reader)

    def ahead(self, used: Used | None) -> Ahead:
        """A call whose prompt is not complete yet: tell it what is known, and give it along with
        the call (`Call.ahead`). `used` hears of the tokens that are spent before that; None: no
        call follows."""
        if self._closed:
            raise self._closed_error()
        return Ahead(self._number(), self._core, self._tell, self.replicas, self._growing, used)

    def warm(self, call: Call) -> None:
        """Let a replica read what calls to come will begin with, once one has nothing better to
        do; for beginnings of 512 tokens or more (`prewarm_tokens_min`)."""
        self.ahead(None).grow(read(call, hashed=False).size, lambda: call)

    async def aclose(self) -> None:
        """Close every replica; calls under way and calls that wait fail."""
        self._closed = True
        for ahead in list(self._growing.values()):
            await ahead.aclose()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self.close_batches()
        for reader in self._readers.values():
            reader.wake()
        results = await asyncio.gather(
            *(replica.aclose() for replica in self.replicas), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    # --- What can be seen and told

    @property
    def waiting(self) -> int:
        """Calls that wait for a replica to have room."""
        return self._core.waiting

    def load(self) -> Mapping[str, ReplicaLoad]:
        """How each replica is doing now. From another thread than the loop's, times still to wait
        are those of the last event."""
        core = self._core
        try:
            now = asyncio.get_running_loop().time()
        except RuntimeError:
            now = core.now
        per_byte = core.texts.tokens_per_byte.value
        return {one.name: load_of_replica(one, per_byte, now) for one in core.replicas}

    def totals(self) -> PoolLoad:
        """How the pool as a whole is doing, and what has gone wrong since it was opened."""
        counts = self._core.counts
        return PoolLoad(self.waiting, dict(counts.refused), counts.hedged, counts.resumed)

    def report(
        self, replica: int, *, running: int, waiting: int, cache: CacheFacts | None = None
    ) -> None:
        """Tell what an engine's own metrics say of the replica at this place in the pool: calls in
        its batch and in its queue, whoever sent them, so that pools side by side see each other;
        and what they say of its cache."""
        self._tell(Reported(ReplicaId(replica), running, waiting, cache))

    def allowed(self, allowed: Allowed) -> None:
        """Tell what a server says of the limits per minute that it keeps itself."""
        self._tell(allowed)

    def summary(self) -> Summary:
        """What other pools before the same replicas should know of this one now, for `hear` of each
        of them. They are named in it as here."""
        return self._core.peers.summary()

    def hear(self, peer: str, summary: Summary | None) -> None:
        """Another pool before the same replicas said this; None: it has left. Pools that tell each
        other a few times a second what they have there do not all run to the same replica."""
        self._tell(Heard(peer, summary))

    def check(self) -> None:
        """Raise if the books of the pool do not agree. For tests."""
        self._core.check()

    # --- Opening a stream

    async def _open(self, reader: PoolReader) -> AsyncGenerator[Delta, None]:
        """The pieces from the replica where the core sends the call; waits until it does."""
        while True:
            await self._sent(reader)
            replica = reader.sends.pop(0)
            if self._core.hedge_s is None:
                reader.replica = replica
                return self._pieces(reader, replica)
            opened = await self._race(reader, replica)
            if opened is not None:
                reader.replica = opened.replica
                return again(opened)

    async def _sent(self, reader: PoolReader) -> None:
        """Wait until the core has sent the call somewhere."""
        while True:
            if self._closed:
                raise self._closed_error()
            if reader.error is not None:
                if reader.before is not None and isinstance(reader.error, EngineError):
                    reader.error.usage = reader.before
                raise reader.error
            if reader.sends:
                return
            reader.waiter = asyncio.get_running_loop().create_future()
            await reader.waiter

    def _pieces(self, reader: PoolReader, replica: ReplicaId) -> AsyncGenerator[Delta, None]:
        inner = self.replicas[replica].stream(reader.asked)
        if reader.given:
            inner = without_echo(inner, "".join(reader.given))
        return inner

    def _begin(self, reader: PoolReader) -> None:
        """The first piece of a try is there."""
        reader.writing = True
        now = asyncio.get_running_loop().time()
        self._core.began(reader.number, reader.replica, now)
        if self._core.unsettled:
            self._settle(now)

    def _finish(self, reader: PoolReader) -> None:
        """A try came to its end. If it said nothing, or not why it ended, that is an error."""
        if not reader.writing or as_delta(reader.given[-1]).finish_reason is None:
            raise self._silent_error(reader.replica, began=reader.writing)
        reader.finished = True

    def _is_over(self, reader: PoolReader, error: Exception) -> bool:
        """A stream broke: was only the goodbye lost? Else the core hears of it."""
        if not reader.writing:
            failure = self._engine_error(error, reader.replica)
            self._tell(Broke(reader.number, reader.replica, failure))
            return False
        if as_delta(reader.given[-1]).finish_reason is not None:
            return True
        self._broke(reader, self._engine_error(error, reader.replica))
        return False

    # --- Hedges

    async def _race(self, reader: PoolReader, replica: ReplicaId) -> Opened | None:
        """Try one replica, and beside it any other that the core sends the call to meanwhile.
        None: all have failed, and the core knows.

        The core asks to `Drop` the losers of a race; here they are closed when it is decided.
        """
        legs: list[asyncio.Task[Opened | None]] = []
        reader.sends.insert(0, replica)
        winner: Opened | None = None
        try:
            while winner is None and (legs or reader.sends):
                while reader.sends:
                    leg = self._leg(reader, reader.sends.pop(0))
                    legs.append(asyncio.create_task(leg))
                reader.waiter = asyncio.get_running_loop().create_future()
                news: set[asyncio.Future[Any]] = {*legs, reader.waiter}
                await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED)
                for done in [leg for leg in legs if leg.done()]:
                    winner = done.result() or winner
                    legs.remove(done)
            await stop(legs)
            return winner
        except BaseException:
            await stop(legs)
            if winner is not None:
                await winner.inner.aclose()
            raise

    async def _leg(self, reader: PoolReader, replica: ReplicaId) -> Opened | None:
        """The first piece from one replica. None: it failed, or another one was before it."""
        inner = self._pieces(reader, replica)
        try:
            first = await anext(inner, None)
            if first is None:
                raise self._silent_error(replica, began=False)
        except Exception as error:
            failure = self._engine_error(error, replica)
            self._tell(Broke(reader.number, replica, failure))
            return None
        except BaseException:
            if reader.writing:
                self._lost(reader, ())
            await inner.aclose()
            raise
        if reader.writing:
            self._lost(reader, (first,))
            await inner.aclose()  # second in a race, by less than a moment
            return None
        reader.writing = True
        self._tell(Began(reader.number, replica))
        return Opened(replica, inner, first)

    def _lost(self, reader: PoolReader, given: Sequence[Delta]) -> None:
        """Another was before it in a race: what it read was spent all the same."""
        cost = self._cost(reader, given)
        reader.before = cost if reader.before is None else reader.before + cost

    # --- Between generators and the core

    def _submit(self, call: Call, given: list[str]) -> PoolReader:
        if self._closed:
            raise self._closed_error()
        number = self._number() if call.ahead is None else self._number_of(call)
        reader = PoolReader(number, call, given)
        self._readers[number] = reader
        now = asyncio.get_running_loop().time()
        event = Submitted(
            number,
            read(call, hashed=self._core.uses_prefix),
            call.stage,
            call.request,
            call.deadline,
            call.max_tokens,
            self._named(call.avoid) if call.avoid else None,
            call.priority,
            call.rest_s,
            call.leads,
        )
        replica = self._core.submitted(event, now)
        if replica is not None:
            reader.sends.append(replica)
        if self._core.unsettled:
            self._settle(now)
        return reader

    def _named(self, name: str) -> ReplicaId | None:
        for at, replica in enumerate(self.replicas):
            if replica.name == name:
                return ReplicaId(at)
        return None

    def _number(self) -> CallId:
        self._numbers += 1
        return CallId(self._numbers)

    def _number_of(self, call: Call) -> CallId:
        """A new number, unless the call has grown here."""
        ahead = call.ahead
        if isinstance(ahead, Ahead) and self._growing.get(ahead.number) is ahead:
            ahead.submitted()
            return ahead.number
        return self._number()

    def _broke(self, reader: PoolReader, error: EngineError) -> None:
        """The present try broke in mid-text: ask for the rest, if that can be had."""
        reader.writing = False
        core, given = self._core, reader.given
        part = [as_delta(piece) for piece in given[reader.start :]]
        cost = self._cost(reader, part, error.token_ids)
        reader.before = cost if reader.before is None else reader.before + cost
        reader.start = len(given)
        prompt = None
        if self.resume and error.retryable and can_resume([as_delta(piece) for piece in given]):
            reader.asked = rest_of(
                reader.call,
                "".join(given),
                reader.before.completion_tokens,
                continue_final_message=self.continue_final_message,
                ids=error.token_ids,
            )
            prompt = read(reader.asked, hashed=core.uses_prefix)
        if not is_full(reader.asked):
            rest_tokens = reader.asked.max_tokens
            self._tell(Broke(reader.number, reader.replica, error, prompt, rest_tokens))

    def _cost(
        self, reader: PoolReader, given: Sequence[Delta], ids: TokenIds | None = None
    ) -> Usage:
        """What a try has cost that gave these pieces."""
        texts = self._core.texts
        prompt_tokens = read(reader.asked, hashed=False).size * texts.tokens_per_byte.value
        return spent(given, prompt_tokens, texts.tokens_per_char.value, ids)

    def _untold(self, reader: PoolReader, given: Sequence[str], told: Usage | None) -> Usage:
        """What no delta has told of a call whose last try gave these pieces."""
        cost = self._cost(reader, [as_delta(piece) for piece in given])
        if told is not None:  # of no tokens, but of the call, and of tries before it
            return replace(cost, calls=0)
        return cost if reader.before is None else reader.before + cost

    def _leave(self, reader: PoolReader) -> None:
        """The generator is over: by its end, by its reader, or by an error."""
        del self._readers[reader.number]
        if reader.writing:
            reader.call.answered_by = self.replicas[reader.replica].name
            part = reader.given[reader.start :] if reader.start else reader.given
            last = as_delta(part[-1]) if part else None
            # Many readers go when they see the finish reason, before the stream itself ends.
            if last is not None and last.finish_reason is not None:
                now, usage = asyncio.get_running_loop().time(), last.usage
                if usage is None or not usage.total_tokens:
                    reader.call.untold = self._untold(reader, part, usage)
                chars = sum(map(len, part))
                self._core.ended(reader.number, reader.replica, chars, usage, now)
                if self._core.unsettled:
                    self._settle(now)
                return
            reader.call.untold = self._untold(reader, part, None)
        elif reader.before is not None:
            reader.call.untold = reader.before
        self._tell(Left(reader.number))

    def _tell(self, event: Event) -> None:
        """Let the core decide, and do what it says."""
        loop = asyncio.get_running_loop()
        self._do(self._core.handle(event, loop.time()), loop)

    def _settle(self, now: float) -> None:
        """Do what follows from what the core was told."""
        self._do(self._core.settle(now), asyncio.get_running_loop())

    def _do(self, actions: Sequence[Action], loop: asyncio.AbstractEventLoop) -> None:
        for action in actions:
            reader = self._readers.get(action.call)
            if reader is None:
                self._without_reader(action, loop)
                continue
            if isinstance(action, Send):
                reader.sends.append(action.replica)
                reader.wake()
            elif isinstance(action, Refuse):
                reader.error = action.error
                reader.wake()
        at = self._core.wake_at()
        if at is not None or self._timer is not None:
            self._arm(loop, at)

    def _without_reader(self, action: Action, loop: asyncio.AbstractEventLoop) -> None:
        """What concerns a call that nobody reads yet, or any more."""
        ahead = self._growing.get(action.call)
        if ahead is not None and isinstance(action, Warm):
            ahead.warm(action.replica)
        elif ahead is not None and isinstance(action, Drop):
            ahead.stop()
        elif isinstance(action, Refuse):  # the policy raised when it was told of a whole answer
            loop.call_exception_handler({"message": str(action.error), "exception": action.error})

    def _arm(self, loop: asyncio.AbstractEventLoop, at: float | None) -> None:
        """Keep the one timer at the time when the core wants to be woken."""
        if self._closed:
            at = None
        timer = self._timer
        if timer is not None:
            if at is not None and timer.when() <= at:
                return  # it fires early, finds nothing to do, and is set anew
            timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = loop.call_at(at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._tell(Woke())

    # --- What readers are told

    def _engine_error(self, error: Exception, replica: ReplicaId) -> EngineError:
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

    def _silent_error(self, replica: ReplicaId, *, began: bool) -> EngineError:
        where = "after a part of it" if began else "without a word"
        return EngineError(
            f"replica {self.replicas[replica].name} ended its answer {where}; expected a "
            "last delta with a finish_reason",
            engine=self.name,
        )

    def _closed_error(self) -> EngineError:
        return EngineError(
            f"engine {self.name} is closed; calls under way and new ones fail. Open it again "
            "through its configuration.",
            engine=self.name,
            retryable=False,
        )


def _reads(replicas: Sequence[Replica]) -> list[Read]:
    """How each replica is read that hands its pieces on itself; empty unless all do."""
    found: list[Read] = []
    for replica in replicas:
        read: Read | None = getattr(replica, "read", None)
        if read is None:
            return []
        found.append(read)
    return found
