"""The engines' contract, held by the simulated, the recorded and the HTTP engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import encode_contract  # noqa: F401 - it registers its checks
import pytest
from contract import Check, Live, Subject, ask, checks_of, name_of, run

from alto.core.calls import Call
from alto.engines import sim_server
from alto.engines.openai import OpenAI
from alto.engines.recorded import Recorded
from alto.engines.sim_settings import ServerSettings
from alto.engines.simulated import SimReplica, Simulated
from alto.engines.synthesis import Lengths, synthesize

ALL = frozenset({"echo", "long", "usage", "cached", "schema", "stop", "refuses", "busy"})
NUMBERS = frozenset({"embed", "rerank", "meaning"})


def respond(call: Call) -> str:
    """The answers that the contract asks for, and a mistake."""
    text = call.messages[-1]["content"]
    if text == "Crash":
        raise ValueError("what is written here shows in the error")
    if call.schema is not None:
        return synthesize(call, Lengths(), 0, len)
    if text.startswith("Say: "):
        return str(text.removeprefix("Say: "))
    return "And so on. " * (2000 if text.startswith("Write") else 5)


SIMULATED = Simulated(respond=respond, replicas=2)
RECORDED = Recorded(
    entries=[{"prompt": "Hello", "text": "Hello, this was recorded."}], fallback=respond, replicas=2
)


def in_process(name: str, spec: ServerSettings) -> Subject:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Live]:
        engine = spec.open("chat")
        replicas: list[SimReplica] = list(getattr(engine, "replicas"))  # noqa: B009

        async def busy() -> int:
            return sum(replica.running + replica.waiting for replica in replicas)

        try:
            yield Live(engine, busy)
        finally:
            await engine.aclose()

    return Subject(
        name=name, opened=opened, real_time=False, supports=ALL | NUMBERS, bad_call=ask("Crash")
    )


def over_http(name: str, spec: ServerSettings, servers: int) -> Subject:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Live]:
        running = [await sim_server.start(spec) for _ in range(servers)]
        engine = OpenAI(urls=[server.url for server in running], model="sim").open("chat")

        async def busy() -> int:
            replicas = [replica for server in running for replica in server.replicas]
            return sum(replica.running + replica.waiting for replica in replicas)

        try:
            yield Live(engine, busy)
        finally:
            await engine.aclose()
            for server in running:
                await server.aclose()

    return Subject(
        name=name,
        opened=opened,
        real_time=True,
        supports=ALL | NUMBERS | {"deadline"},
        bad_call=Call(messages=[]),
    )


SUBJECTS = [
    in_process("simulated", SIMULATED),
    in_process("recorded", RECORDED),
    over_http("openai", Simulated(respond=respond), servers=2),
]


@pytest.mark.parametrize(
    ("subject", "check"),
    [
        pytest.param(subject, check, id=f"{subject.name}-{name_of(check)}")
        for subject in SUBJECTS
        for check in checks_of(subject)
    ],
)
def test_an_engine_keeps_the_contract(subject: Subject, check: Check) -> None:
    run(subject, check)
