"""The calls of one engine: which is next, where it goes, and what to do when it breaks.

Calls wait *here*, not in an engine's queue: until a replica has room nothing is decided, and what
is decided then is decided with all that is known then. The driver tells what happened (`handle`),
does what it is told (the actions), and comes back at `wake_at()` at the latest. What befalls every
call (`submitted`, `began`, `ended`) it may tell without an event, and asks for actions (`settle`)
only where there is something to settle: for most calls there is not.

    Submitted ──▶ waiting ──Send──▶ sent ──Began──▶ writing ──Ended──▶ gone
                    ▲                 │                │
                    └──── Broke, another try ──────────┘ Broke, resumed from the text so far
    from anywhere: Left (the reader went away) or Refuse (no way to go on) ──▶ gone

*Which call next.* Each call has a fixed due time, and the smallest goes first:

    due = request came + patience_s                 without a deadline
    due = the smaller of that and deadline - rest   with one

less `priority_s` for each level of its request's priority. `rest` is the expected time from a call
of this stage to the end of its request, and the duration of the call itself until that is known. As
due times of new calls grow with the clock, no waiting call is overtaken for ever; among calls
without deadlines it is the oldest request first, so requests nearly done get finished. One thing
may change the order a little: where replicas know prompts (`next_call.py`).

*Where* is the policy's choice among replicas that have room (`replicas.py`).

An engine may have limits per minute (`rate.py`). Then the first of the queue waits until they let
it go, and the others behind it.

Before it is submitted a call may be growing (`prewarm.py`): it is no call yet, only its prompt is
sent ahead.

Always true:
    C1  a call is waiting, or has one or two tries under way (two while it is hedged), or is gone
    C2  each try sent is ended by exactly one of Began's losers (`Drop`), Ended, Broke or Left
    C3  when no call is there, every replica's books are at zero
    C4  after `handle` no call waits while a replica takes calls and the rate lets one go,
        unless it waits for a replica with slots that knows its prompt
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from random import Random
from typing import Any

from ..errors import AltoError, EngineError
from .calls import Usage
from .cost import Need
from .dark import Dark
from .flights import Counts, Flight, Requests, weight_of
from .learning import Texts, believable
from .next_call import NextCall
from .peers import Peers
from .policies import resolve
from .pool_events import (
    Action,
    Allowed,
    Began,
    Broke,
    Drop,
    Ended,
    Event,
    Grew,
    Heard,
    Left,
    Refuse,
    Reported,
    Send,
    Submitted,
    Warmed,
    Woke,
)
from .prewarm import Prewarming, follow
from .rate import Rate
from .readable import Readable
from .refusals import Refusals, is_busy, is_of_the_server, no_replicas
from .replicas import Limits, ReplicaState, Speed, Try, taking, taking_at, untried
from .scheduling import CallId, Policy, ReplicaId, needs_prefix
from .waiting import Waiting
from .where import Where


class CallPool:
    """Decides for the calls of one engine. Knows no clock: every event comes with its time."""

    def __init__(
        self,
        name: str,
        replicas: Sequence[str],
        *,
        policy: str | Policy = "prompt-aware",
        random: Random,
        limits: Limits | None = None,
        hedge_s: float | None = None,
        rate: Rate | None = None,
    ) -> None:
        if not replicas:
            raise no_replicas(name)
        self.name = name
        self.limits = limits or Limits()
        self._waiting_max, self._patience_s = self.limits.waiting_max, self.limits.patience_s
        """(Limits are interpreted, and these are read for every call.)"""
        self.policy = resolve(policy)
        self.uses_prefix = needs_prefix(self.policy)
        """Whether `Submitted.prompt` needs its blocks."""
        self.hedge_s = hedge_s
        speed = Speed()
        self.replicas = [
            ReplicaState(ReplicaId(index), replica, self.limits, speed)
            for index, replica in enumerate(replicas)
        ]
        self._rate = rate
        self._rate_at: float | None = None
        """When the limits per minute let the first of the queue go, if it is they that hold it."""
        self._refusals = Refusals(name, self.replicas, self.limits, rate)
        self.counts = Counts()
        self.texts = Texts()
        self._random = random
        self._where = Where(self.policy, self.replicas, self.texts, random)
        self._flights: dict[CallId, Flight] = {}
        self._next = NextCall(self._flights, self.replicas)
        self.peers = Peers(self.replicas, self.limits, self._flights)
        self._requests = Requests(self.limits.requests_remembered_max)
        self._waiting = Waiting(self._flights)
        self._hedges: list[tuple[float, CallId, ReplicaId]] = []
        self._hedged = 0
        self.now = 0.0
        """The time of the last event."""
        self._long_hold_until = 0.0
        """Until then there may be replicas that want to be left alone for too long."""
        self._readable = Readable(self.replicas)
        self._dark = Dark(self.replicas, self.limits.dark_s)
        self.ahead = Prewarming(
            self.replicas, self.limits, self.texts, self._requests, self._where.choose, rate is None
        )
        self._actions: list[Action] = []
        self._verbs: dict[type[Event], Callable[[Any, float], None]] = {
            Submitted: self._submitted,
            Grew: self.ahead.grew,
            Warmed: self.ahead.warmed,
            Began: self._began,
            Ended: self._ended,
            Broke: self._broke,
            Left: self._left,
            Reported: self._reported,
            Allowed: self._allowed,
            Heard: self.peers.heard,
            Woke: self._woke,
        }

    # --- What a driver calls

    @property
    def waiting(self) -> int:
        """Calls in the queue or pausing before another try."""
        return self._waiting.count

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened; the actions are to be done in their order."""
        self.now = now
        self._verbs[type(event)](event, now)
        return self.settle(now)

    def submitted(
        self,
        flight: Flight,
        request: str,
        avoid: ReplicaId | None,
        priority: int,
        rest_s: float | None,
        now: float,
    ) -> ReplicaId | None:
        """`Submitted`, for a driver in a hurry. Where the call goes, if that is decided at once."""
        self.now = now
        call, deadline = flight.call, flight.deadline
        growing = self.ahead.taken(call, now) if self.ahead.calls else None
        if deadline is not None and deadline <= now:
            self._refuse(call, self._refusals.too_late(flight.stage, self.waiting, now))
            return None
        waiting = self._waiting
        if waiting.count >= self._waiting_max:
            self._refuse(call, self._refusals.overloaded(waiting.count))
            return None
        whose = self._requests.get(request, now)
        due = whose.since + self._patience_s
        if deadline is not None:
            if rest_s is None:
                rest_s = self.texts.expected_s(flight.stage)
            due = min(due, deadline - rest_s)
        if priority:
            due -= priority * self.limits.priority_s
        whose.calls += 1
        flight.request, flight.due = whose, due
        self._flights[call] = flight
        if growing is not None:
            flight.home, flight.tried = growing.home, growing.failed
        if avoid is not None:
            flight.tried |= 1 << avoid
            self._readable.complained(avoid, self._random, now)
            self._dark.look(now)
        if not waiting.queue and self._rate is None and not self._next.slotted:
            free = taking(self.replicas, now)
            if free:  # nobody is before it, and there is no reason to wait
                return self._send(flight, free, now)
        waiting.add(flight)
        self._enqueue(flight, now)
        return None

    def began(self, flight: Flight, replica: ReplicaId, now: float) -> None:
        """`Began`, for a driver in a hurry."""
        self.now = now
        sent = flight.on(replica)
        if sent is None:
            return
        self.replicas[replica].begin(sent, now)
        if sent.probe:
            self._dark.lit()
        if flight.beside is not None:
            self._drop_others(flight, sent, now)

    def ended(
        self, flight: Flight, replica: ReplicaId, chars: int, usage: Usage | None, now: float
    ) -> None:
        """`Ended`, for a driver in a hurry."""
        self.now = now
        sent = flight.on(replica)
        if sent is None:
            return
        self._remove(flight)
        if usage is not None:
            usage = believable(usage, flight.size)
        texts, state = self.texts, self.replicas[replica]
        tokens = texts.written(chars, usage)
        state.finish(sent, tokens, usage, now)
        if self._rate is not None:
            read = texts.read(flight.size, usage)
            self._rate.settle(sent.reserved, read + tokens, now)
        if self._readable.counts:
            self._readable.answered(replica)
        if flight.beside is None:
            flight.sent = None
            state.leave(sent, now)
        else:
            self._end_try(flight, sent, now)
            self._drop_others(flight, sent, now)
        if usage is not None:
            texts.told(usage, flight.size, chars)
            per_byte = texts.tokens_per_byte.value
            state.cache.answered(sent.promised_bytes, usage, per_byte, sent.sent_at, now)
        if not flight.resumes:
            texts.wrote(flight.stage, tokens, now - sent.sent_at)
        if self._where.learns:
            try:
                self._where.finished(flight.stage, sent, tokens, usage, now)
            except Exception as error:  # the answer is there all the same: no refusal to be counted
                failure = self._refusals.policy("observe", self.policy, error)
                self._actions.append(Refuse(flight.call, failure))

    def unsettled(self) -> bool:
        """There may be something to do after what was told: `settle`, and look at `wake_at`."""
        return bool(self._waiting.queue or self._actions or self.ahead.pending or self._hedges)

    def settle(self, now: float) -> list[Action]:
        """What is to be done, in its order, after what was told."""
        if self._waiting.queue:
            self._dispatch(now)
        if self.ahead.pending and not self.waiting:
            self._actions += self.ahead.send(now)
        actions, self._actions = self._actions, []
        return actions

    def wake_at(self) -> float | None:
        """When time alone changes something next. None: only an event can."""
        waiting = self._waiting
        times = [self.peers.silent_at, waiting.pause_ends_at]
        if self._hedges:
            times.append(self._hedges[0][0])
        if waiting.count:
            times += (waiting.late_at, self._dark.ends_at)
            if waiting.queue:
                times += (replica.ready_at(self.now) for replica in self.replicas)
                times += (self._rate_at, self._next.until)
        elif self.ahead.pending:
            times.append(self.ahead.wake_at(self.now))
        return min((at for at in times if at is not None), default=None)

    def check(self) -> None:
        """Raise if C1, C3 or C4 does not hold, with the numbers that disagree."""
        self._waiting.check()
        counts = [0] * len(self.replicas)
        for flight in self._flights.values():
            for sent in flight.tries:
                counts[sent.replica] += 1
        for sent in self.ahead.under_way():
            counts[sent.replica] += 1
        assert counts == [replica.sequences for replica in self.replicas], counts
        for replica in self.replicas:
            replica.check(self.now)
        held = self._rate_at is not None or self._next.until is not None
        queued = self._waiting.queued
        assert not (queued and not held and any(one.takes(self.now) for one in self.replicas))
        assert self._flights or not self._hedged
        requests = [flight.request for flight in self._flights.values()]
        assert all(one.calls == sum(other is one for other in requests) for one in requests)

    # --- Events

    def _submitted(self, event: Submitted, now: float) -> None:
        deadline, tokens, rest_s = event.deadline, event.max_tokens, event.rest_s
        flight = Flight(event.call, event.prompt, event.stage, deadline, tokens, event.leads)
        replica = self.submitted(flight, event.request, event.avoid, event.priority, rest_s, now)
        if replica is not None:
            self._actions.append(Send(event.call, replica))

    def _began(self, event: Began, now: float) -> None:
        if (flight := self._flights.get(event.call)) is not None:
            self.began(flight, event.replica, now)

    def _ended(self, event: Ended, now: float) -> None:
        if (flight := self._flights.get(event.call)) is not None:
            self.ended(flight, event.replica, event.chars, event.usage, now)

    def _broke(self, event: Broke, now: float) -> None:
        flight = self._flights.get(event.call)
        if flight is None or (sent := flight.on(event.replica)) is None:
            return
        error = event.error
        began = sent.began_at is not None
        busy = error.retryable and not began and is_busy(error)
        others = (
            not began
            and is_of_the_server(error)
            and untried(self.replicas, flight.tried, event.replica)
        )
        retryable = error.retryable or others
        replica = self.replicas[event.replica]
        if busy:
            replica.turned_away(sent, error, now)
            if replica.hold_until > now + self.limits.busy_wait_max_s:
                self._long_hold_until = max(self._long_hold_until, replica.hold_until)
        elif retryable:
            replica.failed(sent, error, self._random, now)
            self._dark.look(now)
        elif is_of_the_server(error):
            replica.last_error = str(error)
        if self._rate is not None and not began:
            self._rate.settle(sent.reserved, 0, now)
        self._end_try(flight, sent, now)
        if flight.sent is not None:
            return  # the other of a hedged pair goes on
        if not retryable or (began and event.rest is None):
            said_before = flight.failures and is_of_the_server(error)
            self._give_up(flight, self._nobody(flight, error) if said_before else error)
        elif began:
            self._resume(flight, event, now)
        elif busy:
            self._try_later(flight, error, now)
        else:
            self._try_elsewhere(flight, event, now)

    def _left(self, event: Left, now: float) -> None:
        if self.ahead.calls:
            self.ahead.taken(event.call, now)
        flight = self._flights.get(event.call)
        if flight is not None:
            for sent in flight.tries:
                self._end_try(flight, sent, now)
            self._forget(flight)

    def _reported(self, event: Reported, now: float) -> None:
        replica = self.replicas[event.replica]
        replica.reported(event.running, event.waiting, now)
        if event.cache is not None and replica.told(event.cache, self.texts.tokens_per_byte.value):
            self._next.slotted = True
            for flight in self._flights.values():
                for sent in flight.tries:
                    if sent.replica == event.replica:
                        sent.slot = replica.cache.add(flight.blocks)

    def _allowed(self, event: Allowed, now: float) -> None:
        if self._rate is not None:
            self._rate.told(event, now)

    def _woke(self, event: Woke, now: float) -> None:
        self.peers.forget_silent(now)
        self._waiting.end_pauses(now)
        self._dispatch(now)
        while (flight := self._waiting.late(now)) is not None:
            self._give_up(flight, self._refusals.too_late(flight.stage, self.waiting, now))
        while self._hedges and self._hedges[0][0] <= now:
            _, call, replica = heappop(self._hedges)
            self._hedge(call, replica, now)
        if (gives_up_at := self._dark.ends_at) is not None and gives_up_at <= now:
            for flight in self._waiting.all():
                self._give_up(flight, self._nobody(flight, None))

    # --- Placing

    def _enqueue(self, flight: Flight, now: float) -> None:
        """The call waits in the queue, if only for a moment."""
        self._waiting.enqueue(flight)
        self._dispatch(now)
        self._waiting.watch(flight)

    def _dispatch(self, now: float) -> None:
        """Send calls in their order, as long as a replica has room."""
        queue, rate = self._waiting.queue, self._rate
        self._rate_at = self._next.until = None
        while queue:
            flight = self._flights.get(queue[0][2])
            if flight is None or not flight.waiting:
                heappop(queue)
                continue
            if flight.deadline is not None and flight.deadline <= now:
                heappop(queue)
                self._give_up(flight, self._refusals.too_late(flight.stage, self.waiting, now))
                continue
            free = taking(self.replicas, now)
            if not free:
                if self.ahead.calls and (dropped := self.ahead.drop(now)):
                    self._actions += dropped
                    continue
                if now < self._long_hold_until:
                    self._give_up_held(now)
                return
            if rate is not None and (at := rate.fits_at(self._cost(flight), now)) > now:
                self._rate_at = at
                return
            if self.uses_prefix and rate is None and (len(queue) > 1 or self._next.slotted):
                per_byte = self.texts.tokens_per_byte.value
                chosen = self._next.take(queue, flight, free, per_byte, now)
                if chosen is None:
                    return
                flight = chosen
            else:
                heappop(queue)
            replica = self._send(flight, free, now)
            if replica is not None:
                self._actions.append(Send(flight.call, replica))

    def _cost(self, flight: Flight) -> float:
        """The tokens to reserve for a call."""
        return self.texts.cost_max(flight.size, flight.stage, flight.max_tokens)

    def _send(self, flight: Flight, free: list[ReplicaState], now: float) -> ReplicaId | None:
        """Let the policy choose among replicas that take calls, and those that take this one. None:
        the policy failed, and the call with it."""
        blocks, size = flight.blocks, flight.size
        if len(free) < len(self.replicas) and blocks:
            free = [
                one for one in self.replicas if one in free or one.takes_warm(blocks, size, now)
            ]
        if flight.home is not None:
            free = follow(flight.home, free)
        if flight.tried:
            free = [one for one in free if not flight.tried >> one.replica & 1] or free
        return self._place(flight, free, now)

    def _place(self, flight: Flight, free: list[ReplicaState], now: float) -> ReplicaId | None:
        """Let the policy choose among these replicas. None: it failed, and the call with it."""
        texts, request, where = self.texts, flight.request, self._where
        per_byte = texts.tokens_per_byte.value
        need = Need(
            flight.stage,
            flight.size * per_byte,
            texts.expected_tokens(flight.stage, flight.max_tokens),
            flight.deadline,
            now - request.since,
            1.0 if flight.leads else weight_of(request.calls),
        )
        verb = "choose"
        try:
            replica, cached = where.choose(flight.blocks, need, free, now)
            if where.learns:
                verb = "observe"
                where.placed(replica.replica, need, now)
        except Exception as error:
            if flight.sent is None:
                self._give_up(flight, self._refusals.policy(verb, self.policy, error))
            return None
        sent = replica.send(flight.blocks, need, cached, per_byte, now)
        flight.add(sent)
        if self._rate is not None:
            sent.reserved = self._rate.reserve(self._cost(flight), now)
        if flight.waiting:
            self._waiting.sent(flight)
        if self.hedge_s is not None and flight.beside is None and len(self.replicas) > 1:
            heappush(self._hedges, (now + self.hedge_s, flight.call, replica.replica))
        return replica.replica

    def _hedge(self, call: CallId, replica: ReplicaId, now: float) -> None:
        """Nothing came yet: let a second replica race with the first, if hedges are few."""
        flight = self._flights.get(call)
        sent = flight.sent if flight is not None else None
        if flight is None or sent is None or flight.beside is not None:
            return
        under_way = len(self._flights) - self.waiting
        if (
            sent.replica != replica
            or sent.began_at is not None
            or self._hedged >= max(1.0, under_way * self.limits.hedge_ratio_max)
        ):
            return
        free = [one for one in self.replicas if one.replica != replica and one.takes(now)]
        if free and (self._rate is None or self._rate.fits_at(self._cost(flight), now) <= now):
            second = self._place(flight, free, now)
            if second is not None:
                self._hedged += 1
                self.counts.hedged += 1
                self._actions.append(Send(call, second))

    # --- After a failure

    def _resume(self, flight: Flight, event: Broke, now: float) -> None:
        """Text was given on: go on with the rest of it elsewhere."""
        assert event.rest is not None
        flight.resumes += 1
        self.counts.resumed += 1
        if flight.resumes > self.limits.resumes_max:
            self._give_up(flight, self._nobody(flight, event.error))
            return
        flight.blocks, flight.size = event.rest.blocks, event.rest.size
        flight.max_tokens = event.rest_tokens
        flight.tried, flight.failures = 1 << event.replica, 0
        self._waiting.add(flight)
        self._enqueue(flight, now)

    def _try_later(self, flight: Flight, error: EngineError, now: float) -> None:
        """The replica is full. It is on hold now; the call waits for room like any other."""
        flight.turned_away += 1
        flight.busy_since = min(flight.busy_since, now)
        if flight.turned_away > self.limits.busy_max:
            self._give_up(flight, self._nobody(flight, error))
            return
        if taking_at(self.replicas, now) > flight.busy_since + self.limits.busy_wait_max_s:
            self._give_up(flight, self._refusals.too_busy(flight.stage, now, error))
            return
        self._waiting.add(flight)
        self._enqueue(flight, now)

    def _give_up_held(self, now: float) -> None:
        """No replica takes calls: if all want to be left alone for too long, nobody waits."""
        if taking_at(self.replicas, now) > now + self.limits.busy_wait_max_s:
            for flight in self._waiting.all():
                self._give_up(flight, self._refusals.too_busy(flight.stage, now))

    def _try_elsewhere(self, flight: Flight, event: Broke, now: float) -> None:
        """On a replica not yet tried; if there is none, after a pause on any."""
        flight.failures += 1
        flight.tried |= 1 << event.replica
        elsewhere = untried(self.replicas, flight.tried, event.replica)
        if flight.failures >= self.limits.tries_max and not elsewhere:
            self._give_up(flight, self._nobody(flight, event.error))
            return
        self._waiting.add(flight)
        if elsewhere:
            self._enqueue(flight, now)
            return
        pause = self.limits.retry_s * 2.0 ** (flight.failures - 1) * (1 + self._random.random())
        self._waiting.pause(flight, now + pause)
        self._waiting.watch(flight)

    def _nobody(self, flight: Flight, last: EngineError | None) -> EngineError:
        tries = (flight.failures, flight.turned_away, flight.resumes)
        return self._refusals.nobody(flight.stage, *tries, last)

    def _give_up(self, flight: Flight, error: AltoError) -> None:
        self._forget(flight)
        self._refuse(flight.call, error)

    # --- Books

    def _refuse(self, call: CallId, error: AltoError) -> None:
        self.counts.refuse(error)
        self._actions.append(Refuse(call, error))

    def _end_try(self, flight: Flight, sent: Try, now: float) -> None:
        if flight.beside is not None:
            self._hedged -= 1
        flight.remove(sent)
        self.replicas[sent.replica].leave(sent, now)

    def _drop_others(self, flight: Flight, winner: Try, now: float) -> None:
        """One of a hedged pair is ahead; the other has lost."""
        for sent in flight.tries:
            if sent is not winner:
                self._end_try(flight, sent, now)
                self._actions.append(Drop(flight.call, sent.replica))

    def _forget(self, flight: Flight) -> None:
        """The call is gone."""
        self._remove(flight)
        self._waiting.gone(flight)

    def _remove(self, flight: Flight) -> None:
        del self._flights[flight.call]
        flight.request.calls -= 1
