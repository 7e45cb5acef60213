"""What is done for most calls on a shorter way comes to the same: a driver may tell a pool of them
without events, and a pool does not ask the policy that it has unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

from alto.core.calls import Usage
from alto.core.flights import Flight
from alto.core.policies.prompt_aware import PromptAware
from alto.core.pool import CallPool
from alto.core.pool_events import (
    Action,
    Began,
    Broke,
    Drop,
    Ended,
    Event,
    Left,
    Refuse,
    Reported,
    Send,
    Submitted,
    Woke,
)
from alto.core.prefix import Prompt, chain
from alto.core.rate import rate_of
from alto.core.replicas import Limits
from alto.core.scheduling import CallId, Candidate, Facts, ReplicaId, learn_nothing
from alto.errors import EngineError

Tell = Callable[[CallPool, Event, float], list[Action]]


def by_events(core: CallPool, event: Event, now: float) -> list[Action]:
    return core.handle(event, now)


def directly() -> Tell:
    """As a driver in a hurry tells it, which keeps what it has to tell of."""
    flights: dict[CallId, Flight] = {}

    def tell(core: CallPool, event: Event, now: float) -> list[Action]:
        actions: list[Action] = []
        if isinstance(event, Submitted):
            flight = flights[event.call] = Flight(
                event.call, event.prompt, event.stage, event.deadline, event.max_tokens, event.leads
            )
            replica = core.submitted(
                flight, event.request, event.avoid, event.priority, event.rest_s, now
            )
            if replica is not None:
                actions.append(Send(event.call, replica))
        elif isinstance(event, Began):
            core.began(flights[event.call], event.replica, now)
        elif isinstance(event, Ended):
            flight = flights[event.call]
            core.ended(flight, event.replica, event.chars, event.usage, now)
            core.ended(flight, event.replica, event.chars, event.usage, now)  # it is gone: no news
            core.began(flight, event.replica, now)
        else:
            return core.handle(event, now)
        return actions + core.settle(now) if core.unsettled() else actions

    return tell


def story(tell: Tell, options: dict[str, Any], seed: int, gap_s: float = 0.05) -> list[str]:
    """The actions of a pool in a life of chance, one by one, in words."""
    luck = Random(seed)
    limits = Limits(
        sequences_start=2, waiting_max=12, prefill_tokens_min=300, open_s=0.3, cache_tokens=900
    )
    core = CallPool("chat", ["a", "b", "c"], random=Random(seed), limits=limits, **options)
    writing: dict[tuple[CallId, ReplicaId], bool] = {}
    told: list[str] = []
    now, number = 0.0, 0
    for _ in range(300):
        now += luck.expovariate(1 / gap_s)
        event: Event
        lot = luck.random()
        if not writing or lot < 0.4:
            number += 1
            text = bytes(luck.choices(range(3), k=1)) * luck.choice([40, 600, 3000])
            event = Submitted(
                CallId(number),
                Prompt(chain(text), len(text)),
                luck.choice(["one", "two"]),
                luck.choice(["", "q1", "q2"]),
                luck.choice([None, now + luck.uniform(-0.05, 1.0)]),
                luck.choice([None, 50]),
                luck.choice([None, None, None, ReplicaId(1)]),
                luck.choice([0, 0, 1]),
            )
        elif lot < 0.43:
            event = Woke()
        elif lot < 0.45:
            event = Reported(ReplicaId(luck.randrange(3)), luck.randrange(4), 0)
        else:
            call, replica = luck.choice(sorted(writing))
            began = writing[call, replica]
            if lot < 0.52:
                event = Left(call)
                writing = {key: value for key, value in writing.items() if key[0] != call}
            elif lot < 0.6:
                event = Broke(call, replica, EngineError("gone"))
                del writing[call, replica]
            elif not began:
                event = Began(call, replica)
                writing[call, replica] = True
            else:
                event = Ended(call, replica, 80, luck.choice([None, Usage(150, 20, 64)]))
                del writing[call, replica]
        actions = tell(core, event, now)
        core.check()
        told.append(str(actions))
        for action in actions:
            if isinstance(action, Send):
                writing[action.call, action.replica] = False
            elif isinstance(action, Drop):
                del writing[action.call, action.replica]
            elif isinstance(action, Refuse):
                writing = {key: on for key, on in writing.items() if key[0] != action.call}
    return told


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "options",
    [{}, {"policy": "least-outstanding"}, {"hedge_s": 0.05}, {"rate": (600, 60_000)}],
    ids=["prompt-aware", "least-outstanding", "hedged", "rated"],
)
def test_without_events_the_same_is_decided(options: dict[str, Any], seed: int) -> None:
    def made() -> dict[str, Any]:
        rate = options.get("rate")
        return options if rate is None else {**options, "rate": rate_of(*rate)}

    told = story(by_events, made(), seed)
    assert told == story(directly(), made(), seed)
    assert any("Send" in actions for actions in told)


class Asked:
    """The pool's own policy behind a class that it does not know."""

    def __init__(self) -> None:
        self.inner = PromptAware()
        self.shown: list[float] = []

    def choose(
        self, candidates: Sequence[Candidate], facts: Facts, now: float, random: Random
    ) -> int:
        for one in candidates:
            self.shown += (one.prefill_tokens, one.cached_tokens, one.weight, one.sequences)
        return self.inner.choose(candidates, facts, now, random)

    observe = learn_nothing


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("gap_s", [0.05, 5.0], ids=["busy", "idle for long"])
def test_the_pools_own_policy_decides_as_if_it_were_asked(gap_s: float, seed: int) -> None:
    policy = Asked()
    told = story(by_events, {"policy": policy}, seed, gap_s)
    assert told == story(by_events, {"policy": "prompt-aware"}, seed, gap_s)
    assert told == story(by_events, {"policy": PromptAware()}, seed, gap_s)
    assert any(policy.shown)


def test_a_policy_that_derives_from_the_pools_own_is_asked() -> None:
    class Last(PromptAware):
        def choose(
            self, candidates: Sequence[Candidate], facts: Facts, now: float, random: Random
        ) -> int:
            return len(candidates) - 1

    core = CallPool("chat", ["a", "b", "c"], policy=Last(), random=Random(1))
    call = CallId(1)
    assert core.handle(Submitted(call, Prompt((), 40)), 0.0) == [Send(call, ReplicaId(2))]
