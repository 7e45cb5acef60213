"""Many replicas behind one engine name: the asyncio side of `core/pool.py`.

The core decides, `Calls` does what it says, and here is what waits: one generator for each call. It
waits until it is told where to go, then forwards what that replica writes. It does nothing for a
piece of text but keep it, in case the replica breaks off and another has to go on.

Always true:
    D1  a generator that is closed, cancelled or broken leaves nothing behind: no place in the
        queue, no stream open on a replica
    D2  nothing but `EngineError`, `DeadlineExceeded`, `Overloaded` and cancellation leaves it
    D3  the joined deltas are one text, whatever number of replicas wrote it
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from random import Random
from typing import Any

from ..core.calls import Call, Delta
from ..core.peers import Summary
from ..core.pool import CallPool
from ..core.pool_events import (
    Allowed,
    Began,
    Broke,
    CacheFacts,
    Heard,
    Reported,
)
from ..core.prompt import read
from ..core.rate import rate_of
from ..core.replicas import Limits
from ..core.resume import with_usage
from ..core.scheduling import Policy, ReplicaId
from ..errors import EngineError
from .ahead import Ahead, Used
from .asked import Asked, ended
from .batch_options import BatchOptions
from .encodes import Encodes
from .keeper import Keeper
from .keeping import Kept
from .load import PoolLoad, ReplicaLoad, load_of_replica
from .pool_calls import Calls
from .pool_reader import PoolReader, is_full, kept
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
        self._core = CallPool(
            name,
            [replica.name for replica in self.replicas],
            policy=policy,
            random=Random(seed),
            limits=limits,
            hedge_s=hedge_s,
            rate=rate_of(requests_per_minute, tokens_per_minute),
        )
        self._calls = Calls(
            self._core,
            name,
            self.replicas,
            resume=resume,
            continue_final_message=continue_final_message,
            reads=[] if hedge_s is not None else _reads(self.replicas),
            go_on=self._go_on,
        )

    # --- What is asked of an engine

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        """Answer one call, on the replica that the policy chooses, or on several one by one."""
        calls = self._calls
        reader = calls.submit(call, [])
        try:
            while not is_full(reader.asked):
                inner = await self._open(reader)
                try:
                    before = reader.before
                    async for delta in inner:
                        if not reader.writing:
                            calls.begin(reader)
                        reader.given.append(kept(delta))
                        yield delta if before is None else with_usage(delta, before)
                    calls.finish(reader)
                    return
                except Exception as error:
                    if calls.is_over(reader, error):
                        return
                finally:
                    await inner.aclose()
            # Only the end of the stream was lost: the text has all the tokens it may have.
            usage, reader.before = reader.before, None
            yield Delta(finish_reason="length", usage=usage)
        finally:
            calls.leave(reader)

    async def read(self, call: Call, take: Take) -> None:
        """The same for a reader that is called with each piece: cheaper than `stream` by a
        generator. Returns at the end of the text, or when `take` has enough."""
        kept = Kept(take)
        await ended(self.ask(call, kept.take, kept.keeper))

    def ask(self, call: Call, take: Take, keeper: Keeper) -> Asked:
        """As `read`, for a reader that keeps the pieces itself and waits by itself: cheaper by a
        call and a frame for each.

        Where all replicas hand their pieces on themselves, the first of them that reads the call is
        waited for directly.
        """
        return self._calls.ask(call, take, keeper)

    async def _go_on(self, reader: PoolReader, take: Take, keeper: Keeper) -> None:
        """Read a call to its end, by however many replicas that takes."""
        calls, given = self._calls, keeper.given
        try:
            while not is_full(reader.asked):
                if calls.reads and not given:
                    if not reader.sends or calls.closed:
                        await self._sent(reader)
                    read = calls.reads[reader.go(keeper)]
                    try:
                        await read(reader.asked, take)
                        if not keeper.enough:
                            calls.finish(reader)
                        return
                    except Exception as error:
                        if calls.is_over(reader, error):
                            return
                        continue
                keeper.first = None
                inner = await self._open(reader)
                try:
                    before = reader.before
                    async for delta in inner:
                        if not reader.writing:
                            calls.begin(reader)
                        piece = kept(delta)
                        if before is None:
                            going = take(piece)
                        else:
                            going = take(with_usage(delta, before))
                            given[-1] = piece  # which says what it cost by itself
                        if going is not True and (going is False or not await going):
                            return
                    calls.finish(reader)
                    return
                except Exception as error:
                    if calls.is_over(reader, error):
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
            calls.leave(reader)

    def ahead(self, used: Used | None) -> Ahead:
        """A call whose prompt is not complete yet: tell it what is known, and give it along with
        the call (`Call.ahead`). `used` hears of the tokens that are spent before that; None: no
        call follows."""
        calls = self._calls
        if calls.closed:
            raise calls.closed_error()
        return Ahead(calls.number(), self._core, calls.tell, self.replicas, calls.growing, used)

    def warm(self, call: Call) -> None:
        """Let a replica read what calls to come will begin with, once one has nothing better to
        do; for beginnings of 512 tokens or more (`prewarm_tokens_min`)."""
        growing = self._calls.growing
        for ahead in [each for each in growing.values() if each.is_over]:
            del growing[ahead.number]
        self.ahead(None).grow(read(call, hashed=False).size, lambda: call)

    async def aclose(self) -> None:
        """Close every replica; calls under way and calls that wait fail."""
        self._calls.close()
        for ahead in list(self._calls.growing.values()):
            await ahead.aclose()
        await self.close_batches()
        self._calls.wake_all()
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
        self._calls.tell(Reported(ReplicaId(replica), running, waiting, cache))

    def allowed(self, allowed: Allowed) -> None:
        """Tell what a server says of the limits per minute that it keeps itself."""
        self._calls.tell(allowed)

    def summary(self) -> Summary:
        """What other pools before the same replicas should know of this one now, for `hear` of each
        of them. They are named in it as here."""
        return self._core.peers.summary()

    def hear(self, peer: str, summary: Summary | None) -> None:
        """Another pool before the same replicas said this; None: it has left. Pools that tell each
        other a few times a second what they have there do not all run to the same replica."""
        self._calls.tell(Heard(peer, summary))

    def check(self) -> None:
        """Raise if the books of the pool do not agree. For tests."""
        self._core.check()

    # --- Opening a stream

    async def _open(self, reader: PoolReader) -> AsyncGenerator[Delta, None]:
        """The pieces from the replica where the core sends the call; waits until it does."""
        while True:
            await self._sent(reader)
            replica = reader.next()
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
            if self._calls.closed:
                raise self._calls.closed_error()
            if reader.error is not None:
                if reader.before is not None and isinstance(reader.error, EngineError):
                    reader.error.usage = reader.before
                raise reader.error
            if reader.sends:
                return
            reader.waiter = asyncio.get_running_loop().create_future()
            queued = reader.wanted.queued
            if queued is None:
                await reader.waiter
                continue
            queued(1)
            try:
                await reader.waiter
            finally:
                queued(-1)

    def _pieces(self, reader: PoolReader, replica: ReplicaId) -> AsyncGenerator[Delta, None]:
        inner = self.replicas[replica].stream(reader.asked)
        if reader.given:
            inner = without_echo(inner, "".join(reader.given))
        return inner

    # --- Hedges

    async def _race(self, reader: PoolReader, replica: ReplicaId) -> Opened | None:
        """Try one replica, and beside it any other that the core sends the call to meanwhile.
        None: all have failed, and the core knows.

        The core asks to `Drop` the losers of a race; here they are closed when it is decided.
        """
        legs: list[asyncio.Task[Opened | None]] = []
        reader.sends = (replica, *reader.sends)
        winner: Opened | None = None
        try:
            while winner is None and (legs or reader.sends):
                while reader.sends:
                    leg = self._leg(reader, reader.next())
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
                raise self._calls.silent_error(replica, began=False)
        except Exception as error:
            failure = self._calls.engine_error(error, replica)
            self._calls.tell(Broke(reader.call, replica, failure))
            return None
        except BaseException:
            if reader.writing:
                self._calls.lost(reader, [])
            await inner.aclose()
            raise
        if reader.writing:
            self._calls.lost(reader, [first])
            await inner.aclose()  # second in a race, by less than a moment
            return None
        reader.writing = True
        self._calls.tell(Began(reader.call, replica))
        return Opened(replica, inner, first)


def _reads(replicas: Sequence[Replica]) -> list[Read]:
    """How each replica is read that hands its pieces on itself; empty unless all do."""
    found: list[Read] = []
    for replica in replicas:
        read: Read | None = getattr(replica, "read", None)
        if read is None:
            return []
        found.append(read)
    return found
