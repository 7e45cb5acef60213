"""A replica that answers 200 with nonsense: complaints by hand, and LM stages on virtual time."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import msgspec
import pytest

import alto
from alto import Stream, lm, pipeline
from alto.core.calls import Call
from alto.core.pool import CallPool
from alto.core.pool_events import Began, Ended, Send, Submitted
from alto.core.prefix import Prompt
from alto.core.scheduling import CallId, ReplicaId
from alto.engines.pool import Pool
from alto.engines.sim_replica import SimReplica
from alto.engines.simulated import Simulated
from alto.testing.loop import run

NONSENSE = "I would rather < not { say"


class Machine:
    """A pool to which answers and complaints are told."""

    def __init__(self, replicas: int) -> None:
        names = [f"r{n}" for n in range(replicas)]
        self.core = CallPool("chat", names, policy="round-robin", random=Random(1))
        self.calls = 0

    def ask(self, now: float, avoid: int | None = None) -> int:
        """One call from its beginning to its end; the replica that answered."""
        self.calls += 1
        call = CallId(self.calls)
        refused = None if avoid is None else ReplicaId(avoid)
        (sent,) = self.core.handle(Submitted(call, Prompt((), 400), avoid=refused), now)
        assert isinstance(sent, Send)
        self.core.handle(Began(call, sent.replica), now)
        self.core.handle(Ended(call, sent.replica, 40), now)
        self.core.check()
        return sent.replica

    def open(self) -> list[int]:
        return [one.replica for one in self.core.replicas if one.open_until is not None]


def test_another_answers_what_could_not_be_read() -> None:
    pool = Machine(2)
    assert [pool.ask(0.0, avoid=0) for _ in range(2)] == [1, 1]
    assert [pool.ask(0.0, avoid=1) for _ in range(2)] == [0, 0]


def test_alone_it_answers_again() -> None:
    pool = Machine(1)
    assert [pool.ask(0.0, avoid=0) for _ in range(20)] == [0] * 20
    assert pool.open() == []


def test_who_stands_out_is_left_alone_each_time_for_longer() -> None:
    pool = Machine(3)
    pauses = []
    now = 0.0
    for _ in range(4):
        while (until := pool.core.replicas[0].open_until or 0.0) <= now:
            now += 0.01
            if (replica := pool.ask(now)) == 0:
                pool.ask(now, avoid=replica)
        assert pool.open() == [0]
        pauses.append(until - now)
        now = until
    assert pauses == [pytest.approx(wanted, rel=0.11) for wanted in (1.0, 2.0, 4.0, 8.0)]


def test_when_all_write_nonsense_it_is_not_they_who_are_broken() -> None:
    """A model that cannot follow the form, or a bad prompt."""
    pool = Machine(3)
    for at in range(100):
        pool.ask(at / 10, avoid=pool.ask(at / 10))
    assert pool.open() == []


def test_a_slip_now_and_then_is_forgiven() -> None:
    pool = Machine(3)
    for at in range(300):
        replica = pool.ask(at / 10)
        if replica == 0 and at % 10 == 0:
            pool.ask(at / 10, avoid=replica)
    assert pool.open() == []


# --- With LM stages


class Claim(msgspec.Struct):
    text: str


@lm(engine="chat")
def extract(topic: str) -> Stream[Claim]:
    return f"List claims about {topic}."  # type: ignore[return-value]


@lm(engine="chat", returns=int)
def score(claim: Claim) -> str:
    return f"Score {claim.text}."


@pipeline
def scores(topic: str) -> Any:
    return score(extract(topic))


def respond(call: Call) -> str:
    if call.stage == "score":
        return "7"
    return json.dumps([{"text": f"{call.arguments['topic']} {n}"} for n in range(3)])


def liar(replica: SimReplica) -> SimReplica:
    """It writes nonsense, to whoever asks."""
    replica._respond = lambda call: NONSENSE
    return replica


class Engine:
    """Three replicas, the first of which nobody can read."""

    def __init__(self) -> None:
        spec = Simulated(respond=respond, replicas=3)
        first, *others = spec.open_replicas("chat")
        self.replicas = [liar(first), *others]
        self.pool = Pool("chat", self.replicas, policy="round-robin")

    def open(self, name: str) -> Pool:
        return self.pool


def test_requests_survive_a_replica_that_nobody_can_read_and_it_loses_its_calls() -> None:
    async def main() -> None:
        engine = Engine()
        async with alto.Runtime(alto.Config(engines={"chat": engine})) as runtime:
            for number in range(20):
                assert await runtime.call(scores, f"matter {number}") == [7, 7, 7]
            asked = [replica.measures.prompt_tokens for replica in engine.replicas]
            assert asked[0] < sum(asked) / 6
            assert engine.pool.load()["chat/0"].last_error == "its answers could not be read"

            def well(call: Call) -> str:
                return respond(call)

            engine.replicas[0]._respond = well
            await asyncio.sleep(60.0)
            for number in range(20):
                assert await runtime.call(scores, f"matter {number}") == [7, 7, 7]
            again = [replica.measures.prompt_tokens for replica in engine.replicas]
            assert again[0] - asked[0] > (sum(again) - sum(asked)) / 4

    run(main())
