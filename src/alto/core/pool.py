"""The calls of one engine: which is next, where it goes, and what to do when it breaks.

Calls wait *here*, not in an engine's queue: until a replica has room nothing is decided, and what
is decided then is decided with all that is known then. The driver tells what happened (`handle`),
does what it is told (the actions), and comes back at `wake_at()` at the latest.

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
from heapq import heapify, heappop, heappush
from random import Random
from typing import Any

from ..errors import AltoError, EngineError
from .dark import Dark
from .flights import Counts, Flight, Requests, flight_of
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
from .refusals import Refusals, is_busy, no_replicas
from .replicas import Limits, ReplicaState, Speed, Try
from .scheduling import CallId, Facts, Policy, ReplicaId, needs_prefix
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
        self.waiting = 0
        """Calls in the queue or pausing before another try."""
        self.counts = Counts()
        self.texts = Texts()
        self._random = random
        self._where = Where(self.policy, self.texts, random)
        self._flights: dict[CallId, Flight] = {}
        self._next = NextCall(self._flights, self.replicas)
        self.peers = Peers(self.replicas, self.limits, self._flights)
        self._requests = Requests(self.limits.requests_remembered_max)
        self._queue: list[tuple[float, int, CallId]] = []
        """Heap by due time, then by number. Entries of calls that went away stay until reached."""
        self._paused: list[tuple[float, int, CallId]] = []
        """Heap of calls that wait for a time before their next try."""
        self._deadlines: list[tuple[float, CallId]] = []
        """Heap of waiting calls' deadlines; like the queue it may hold stale entries."""
        self._hedges: list[tuple[float, CallId, ReplicaId]] = []
        self._hedged = self._number = 0
        self.now = 0.0
        """The time of the last event."""
        self._long_hold_until = 0.0
        """Until then there may be replicas that want to be left alone for too long."""
        self._readable = Readable(self.replicas)
        self._dark = Dark(self.replicas, self.limits.dark_s)
        self._ahead = Prewarming(
            self.replicas, self.limits, self.texts, self._requests, self._where.choose, rate is None
        )
        self._actions: list[Action] = []
        self._verbs: dict[type[Event], Callable[[Any, float], None]] = {
            Submitted: self._submitted,
            Grew: self._ahead.grew,
            Warmed: self._ahead.warmed,
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

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened; the actions are to be done in their order."""
        self._actions = []
        self.now = now
        self._verbs[type(event)](event, now)
        if self._queue:
            self._dispatch(now)
        if self._ahead.pending and not self.waiting:
            self._actions += self._ahead.send(now)
        return self._actions

    def wake_at(self) -> float | None:
        """When time alone changes something next. None: only an event can."""
        silent_at = self.peers.silent_at
        if not (self.waiting or self._paused or self._hedges or self._ahead.pending):
            return silent_at
        times: list[float] = [] if silent_at is None else [silent_at]
        if self._paused:
            times.append(self._paused[0][0])
        if self._hedges:
            times.append(self._hedges[0][0])
        if self._ahead.pending and not self.waiting:
            at = self._ahead.wake_at(self.now)
            times += [] if at is None else [at]
        if self.waiting:
            if self._deadlines:
                times.append(self._deadlines[0][0])
            if self._dark.ends_at is not None:
                times.append(self._dark.ends_at)
            if self._queue:
                ready = (replica.ready_at(self.now) for replica in self.replicas)
                times.extend(at for at in ready if at is not None)
                if self._rate_at is not None:
                    times.append(self._rate_at)
                if self._next.until is not None:
                    times.append(self._next.until)
        return min(times) if times else None

    def check(self) -> None:
        """Raise if C1, C3 or C4 does not hold, with the numbers that disagree."""
        waiting = 0
        counts = [0] * len(self.replicas)
        for flight in self._flights.values():
            assert flight.waiting == (not flight.tries), flight
            waiting += flight.waiting
            for sent in flight.tries:
                counts[sent.replica] += 1
        for sent in self._ahead.under_way():
            counts[sent.replica] += 1
        assert waiting == self.waiting, (waiting, self.waiting)
        assert counts == [replica.sequences for replica in self.replicas], counts
        for replica in self.replicas:
            assert replica.sequences or not replica.prefill_tokens, replica.name
            replica.cache.index.check()
        queued = any(self._is_waiting(entry[2]) for entry in self._queue)
        held = self._rate_at is not None or self._next.until is not None
        assert not (queued and not held and any(one.takes(self.now) for one in self.replicas))
        assert self._flights or not self._hedged
        self._requests.check(len(self._flights))

    # --- Events

    def _submitted(self, event: Submitted, now: float) -> None:
        growing = self._ahead.taken(event.call, now) if self._ahead.calls else None
        deadline = event.deadline
        if deadline is not None and deadline <= now:
            self._refuse(event.call, self._refusals.too_late(event.stage, self.waiting, now))
            return
        if self.waiting >= self.limits.waiting_max:
            self._refuse(event.call, self._refusals.overloaded(self.waiting))
            return
        since = self._requests.since(event.request, now)
        due = since + self.limits.patience_s
        if deadline is not None:
            rest_s = event.rest_s
            if rest_s is None:
                rest_s = self.texts.expected_s(event.stage)
            due = min(due, deadline - rest_s)
        if event.priority:
            due -= event.priority * self.limits.priority_s
        if event.avoid is not None:
            self._readable.complained(event.avoid, self._random, now)
            self._dark.look(now)
        flight = flight_of(event, growing, since, due)
        self._flights[event.call] = flight
        self._requests.joined(event.request)
        self.waiting += 1
        self._enqueue(flight, now)

    def _began(self, event: Began, now: float) -> None:
        flight, chosen = self._find(event)
        if flight is None or chosen is None:
            return
        self.replicas[chosen.replica].begin(chosen, now)
        if chosen.probe:
            self._dark.lit()
        self._drop_others(flight, chosen, now)

    def _ended(self, event: Ended, now: float) -> None:
        flight, sent = self._find(event)
        if flight is None or sent is None:
            return
        self._remove(flight)
        usage, texts = believable(event.usage, flight.prompt.size), self.texts
        tokens = texts.written(event.chars, usage)
        self.replicas[event.replica].finish(sent, tokens, usage, now)
        if self._rate is not None:
            read = texts.read(flight.prompt.size, usage)
            self._rate.settle(sent.reserved, read + tokens, now)
        if self._readable.counts:
            self._readable.answered(event.replica)
        self._end_try(flight, sent, now)
        self._drop_others(flight, sent, now)
        if usage is not None:
            texts.told(usage, flight.prompt.size, event.chars)
            per_byte = texts.tokens_per_byte.value
            self.replicas[event.replica].cache.answered(sent.promised_bytes, usage, per_byte)
        if not flight.resumes:
            texts.wrote(flight.stage, tokens, now - sent.sent_at)
        try:
            self._where.finished(flight.stage, sent, tokens, usage, now)
        except Exception as error:  # the answer is there all the same: no refusal to be counted
            failure = self._refusals.policy("observe", self.policy, error)
            self._actions.append(Refuse(event.call, failure))

    def _broke(self, event: Broke, now: float) -> None:
        flight, sent = self._find(event)
        if flight is None or sent is None:
            return
        error = event.error
        began = sent.began_at is not None
        busy = error.retryable and not began and is_busy(error)
        replica = self.replicas[event.replica]
        if busy:
            replica.turned_away(sent, error, now)
            if replica.hold_until > now + self.limits.busy_wait_max_s:
                self._long_hold_until = max(self._long_hold_until, replica.hold_until)
        elif error.retryable:
            replica.failed(sent, error, self._random, now)
            self._dark.look(now)
        if self._rate is not None and not began:
            self._rate.settle(sent.reserved, 0, now)
        self._end_try(flight, sent, now)
        if flight.tries:
            return  # the other of a hedged pair goes on
        if not error.retryable or (began and event.rest is None):
            self._give_up(flight, error)
        elif began:
            self._resume(flight, event, now)
        elif busy:
            self._try_later(flight, error, now)
        else:
            self._try_elsewhere(flight, event, now)

    def _left(self, event: Left, now: float) -> None:
        if self._ahead.calls:
            self._ahead.taken(event.call, now)
        flight = self._flights.get(event.call)
        if flight is not None:
            for sent in tuple(flight.tries):
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
                        sent.slot = replica.cache.add(flight.prompt.blocks)

    def _allowed(self, event: Allowed, now: float) -> None:
        if self._rate is not None:
            self._rate.told(event, now)

    def _woke(self, event: Woke, now: float) -> None:
        self.peers.forget_silent(now)
        while self._paused and self._paused[0][0] <= now:
            entry = heappop(self._paused)
            flight = self._flights.get(entry[2])
            if flight is not None:
                heappush(self._queue, (flight.due, entry[1], flight.call))
        self._dispatch(now)
        while self._deadlines and self._deadlines[0][0] <= now:
            flight = self._flights.get(heappop(self._deadlines)[1])
            if flight is not None and flight.waiting:
                self._give_up(flight, self._refusals.too_late(flight.stage, self.waiting, now))
        while self._hedges and self._hedges[0][0] <= now:
            _, call, replica = heappop(self._hedges)
            self._hedge(call, replica, now)
        if (gives_up_at := self._dark.ends_at) is not None and gives_up_at <= now:
            for flight in [flight for flight in self._flights.values() if flight.waiting]:
                self._give_up(flight, self._nobody(flight, None))

    # --- Placing

    def _enqueue(self, flight: Flight, now: float) -> None:
        """The call waits in the queue, if only for a moment."""
        self._number += 1
        heappush(self._queue, (flight.due, self._number, flight.call))
        self._dispatch(now)
        self._watch_deadline(flight)

    def _dispatch(self, now: float) -> None:
        """Send calls in their order, as long as a replica has room."""
        queue, rate = self._queue, self._rate
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
            free = [replica for replica in self.replicas if replica.takes(now)]
            if not free:
                if self._ahead.calls and (dropped := self._ahead.drop(now)):
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
            if len(free) < len(self.replicas) and flight.prompt.blocks:
                prompt = flight.prompt
                free = [
                    one
                    for one in self.replicas
                    if one in free or one.takes_warm(prompt.blocks, prompt.size, now)
                ]
            if flight.home is not None:
                free = follow(flight.home, free)
            if flight.tried:
                untried = [one for one in free if not flight.tried >> one.replica & 1]
                free = untried or free
            self._send(flight, free, now)

    def _cost(self, flight: Flight) -> float:
        """The tokens to reserve for a call."""
        return self.texts.cost_max(flight.prompt.size, flight.stage, flight.max_tokens)

    def _send(self, flight: Flight, free: Sequence[ReplicaState], now: float) -> None:
        """Let the policy choose among replicas with room."""
        per_byte = self.texts.tokens_per_byte.value
        blocks = flight.prompt.blocks
        facts = Facts(
            flight.stage,
            flight.prompt.size * per_byte,
            self.texts.expected_tokens(flight.stage, flight.max_tokens),
            flight.deadline,
            now - flight.since,
            self._requests.weight(flight.request),
        )
        verb = "choose"
        try:
            replica, cached = self._where.choose(blocks, facts, free, now)
            verb = "observe"
            self._where.placed(replica.replica, facts, now)
        except Exception as error:
            if not flight.tries:
                self._give_up(flight, self._refusals.policy(verb, self.policy, error))
            return
        sent = replica.send(blocks, facts, cached, per_byte, now)
        flight.tries.append(sent)
        if self._rate is not None:
            sent.reserved = self._rate.reserve(self._cost(flight), now)
        if flight.waiting:
            flight.waiting = False
            self.waiting -= 1
            if self.hedge_s is not None and len(self.replicas) > 1:
                heappush(self._hedges, (now + self.hedge_s, flight.call, replica.replica))
        self._actions.append(Send(flight.call, replica.replica))

    def _hedge(self, call: CallId, replica: ReplicaId, now: float) -> None:
        """Nothing came yet: let a second replica race with the first, if hedges are few."""
        flight = self._flights.get(call)
        if flight is None or len(flight.tries) != 1:
            return
        sent = flight.tries[0]
        under_way = len(self._flights) - self.waiting
        if (
            sent.replica != replica
            or sent.began_at is not None
            or self._hedged >= max(1.0, under_way * self.limits.hedge_ratio_max)
        ):
            return
        free = [one for one in self.replicas if one.replica != replica and one.takes(now)]
        if free and (self._rate is None or self._rate.fits_at(self._cost(flight), now) <= now):
            self._send(flight, free, now)
            self._hedged += len(flight.tries) - 1
            self.counts.hedged += len(flight.tries) - 1

    # --- After a failure

    def _resume(self, flight: Flight, event: Broke, now: float) -> None:
        """Text was given on: go on with the rest of it elsewhere."""
        assert event.rest is not None
        flight.resumes += 1
        self.counts.resumed += 1
        if flight.resumes > self.limits.resumes_max:
            self._give_up(flight, self._nobody(flight, event.error))
            return
        flight.prompt, flight.max_tokens = event.rest, event.rest_tokens
        flight.tried, flight.failures = 1 << event.replica, 0
        self._wait(flight)
        self._enqueue(flight, now)

    def _try_later(self, flight: Flight, error: EngineError, now: float) -> None:
        """The replica is full. It is on hold now; the call waits for room like any other."""
        flight.turned_away += 1
        flight.busy_since = min(flight.busy_since, now)
        if flight.turned_away > self.limits.busy_max:
            self._give_up(flight, self._nobody(flight, error))
            return
        if self._takes_again_at(now) > flight.busy_since + self.limits.busy_wait_max_s:
            self._give_up(flight, self._refusals.too_busy(flight.stage, now, error))
            return
        self._wait(flight)
        self._enqueue(flight, now)

    def _takes_again_at(self, now: float) -> float:
        """When the first replica may take calls again, as far as time alone decides it."""
        times = (replica.ready_at(now) for replica in self.replicas)
        return min(now if at is None else at for at in times)

    def _give_up_held(self, now: float) -> None:
        """No replica takes calls: if all want to be left alone for too long, nobody waits."""
        if self._takes_again_at(now) > now + self.limits.busy_wait_max_s:
            for flight in [flight for flight in self._flights.values() if flight.waiting]:
                self._give_up(flight, self._refusals.too_busy(flight.stage, now))

    def _try_elsewhere(self, flight: Flight, event: Broke, now: float) -> None:
        """On a replica not yet tried; if there is none, after a pause on any."""
        flight.failures += 1
        flight.tried |= 1 << event.replica
        untried = any(
            one.open_until is None and not flight.tried >> one.replica & 1 for one in self.replicas
        )
        if flight.failures >= self.limits.tries_max and not untried:
            self._give_up(flight, self._nobody(flight, event.error))
            return
        self._wait(flight)
        if untried:
            self._enqueue(flight, now)
            return
        pause = self.limits.retry_s * 2.0 ** (flight.failures - 1) * (1 + self._random.random())
        self._number += 1
        heappush(self._paused, (now + pause, self._number, flight.call))
        self._watch_deadline(flight)

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

    def _wait(self, flight: Flight) -> None:
        flight.waiting = True
        self.waiting += 1

    def _find(self, event: Began | Ended | Broke) -> tuple[Flight | None, Try | None]:
        """The try that an event is about; none if the call is gone or the try was dropped."""
        flight = self._flights.get(event.call)
        if flight is not None:
            for sent in flight.tries:
                if sent.replica == event.replica:
                    return flight, sent
        return None, None

    def _is_waiting(self, call: CallId) -> bool:
        flight = self._flights.get(call)
        return flight is not None and flight.waiting

    def _watch_deadline(self, flight: Flight) -> None:
        if flight.waiting and flight.deadline is not None:
            heappush(self._deadlines, (flight.deadline, flight.call))
            if len(self._deadlines) > 2 * self.waiting + 64:
                # A call that was turned away has an entry for each time.
                living = {entry for entry in self._deadlines if self._is_waiting(entry[1])}
                self._deadlines[:] = sorted(living)  # which is a heap

    def _end_try(self, flight: Flight, sent: Try, now: float) -> None:
        if len(flight.tries) == 2:
            self._hedged -= 1
        flight.tries.remove(sent)
        self.replicas[sent.replica].leave(sent, now)

    def _drop_others(self, flight: Flight, winner: Try, now: float) -> None:
        """One of a hedged pair is ahead; the other has lost."""
        if not flight.tries or flight.tries == [winner]:
            return  # nearly always
        for sent in tuple(flight.tries):
            if sent is not winner:
                self._end_try(flight, sent, now)
                self._actions.append(Drop(flight.call, sent.replica))

    def _forget(self, flight: Flight) -> None:
        """The call is gone. Its queue entry stays, but such entries never outnumber the living."""
        self._remove(flight)
        if flight.waiting:
            flight.waiting = False
            self.waiting -= 1
            if len(self._queue) > 2 * self.waiting + 64:
                self._queue[:] = [entry for entry in self._queue if self._is_waiting(entry[2])]
                heapify(self._queue)

    def _remove(self, flight: Flight) -> None:
        del self._flights[flight.call]
        self._requests.left(flight.request)
