"""A runtime's pools as values and as a page that Prometheus reads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from random import Random

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import alto
from alto.core.calls import Usage
from alto.core.pool import CallPool
from alto.core.pool_events import (
    Began,
    Broke,
    CacheFacts,
    Ended,
    Left,
    Reported,
    Submitted,
)
from alto.core.prefix import Prompt, chain
from alto.core.replicas import Limits
from alto.core.scheduling import CallId, ReplicaId
from alto.engines.load import load_of_replica
from alto.engines.pool import Pool
from alto.engines.simulated import Faults
from alto.errors import EngineError
from alto.metrics import PoolMetrics, page
from alto.testing.loop import run

ZERO = ReplicaId(0)
TEXT = b"t" * 4000


@alto.lm(engine="chat")
def answer(question: str) -> str:
    return f"Please answer: {question}"


@alto.pipeline
def asking(question: str):  # type: ignore[no-untyped-def]
    return answer(question)


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """Name and label values of each sample, and its value."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_a_page_shows_each_replica_and_what_ran_there() -> None:
    async def main() -> None:
        chat = alto.Simulated(replicas=2, respond=lambda call: "Fleming did.")
        async with alto.Runtime(alto.Config(engines={"chat": chat})) as runtime:
            assert b"{" not in page(runtime)
            for _ in range(6):
                await runtime.call(asking, "Who?")
            found = samples(page(runtime))
            sent = [found["alto_replica_calls_total", "chat", f"chat/{n}"] for n in (0, 1)]
            assert sum(sent) == 6
            assert found["alto_replica_up", "chat", "chat/0"] == 1
            assert found["alto_replica_running_calls", "chat", "chat/0"] == 0
            assert found["alto_pool_waiting_calls", "chat"] == 0
            assert found["alto_pool_hedged_calls_total", "chat"] == 0
            assert ("alto_replica_slots", "chat", "chat/0") not in found

    run(main())


def test_it_stands_beside_other_metrics_and_is_read_from_another_thread() -> None:
    async def main() -> None:
        chat = alto.Simulated(respond=lambda call: "Fleming did.")
        async with alto.Runtime(alto.Config(engines={"chat": chat})) as runtime:
            registry = CollectorRegistry()
            registry.register(PoolMetrics(runtime))
            await runtime.call(asking, "Who?")
            name, labels = "alto_replica_calls_total", {"engine": "chat", "replica": "chat/0"}
            assert await asyncio.to_thread(registry.get_sample_value, name, labels) == 1

    asyncio.run(main())


def test_a_registry_takes_one_runtime() -> None:
    registry = CollectorRegistry()
    registry.register(PoolMetrics(alto.Runtime()))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(PoolMetrics(alto.Runtime()))


def test_failures_and_refusals_are_counted_by_what_they_were() -> None:
    async def main() -> None:
        faults = Faults(refuse=1.0)
        chat = alto.Simulated(respond=lambda call: "Fleming did.", faults=faults)
        async with alto.Runtime(alto.Config(engines={"chat": chat})) as runtime:
            with pytest.raises(alto.StageError):
                await runtime.call(asking, "Who?")
            pool = runtime.engine("chat")
            assert isinstance(pool, Pool)
            assert sum(pool.totals().refused.values()) == 1
            (load,) = pool.load().values()
            assert load.failed + load.turned_away == load.sent > 1
            found = samples(page(runtime))
            (error,) = pool.totals().refused
            assert found["alto_pool_refused_calls_total", "chat", error] == 1

    run(main())


def core(**limits: float) -> CallPool:
    return CallPool("chat", ["r0"], random=Random(1), limits=Limits(**limits))  # type: ignore[arg-type]


def send(pool: CallPool, call: int, now: float) -> CallId:
    pool.handle(Submitted(CallId(call), Prompt(chain(TEXT), len(TEXT))), now)
    return CallId(call)


def test_a_replica_is_open_then_probed_then_well_again() -> None:
    pool = core(failures_max=1)
    (replica,) = pool.replicas

    def state(now: float) -> tuple[str, float]:
        load = load_of_replica(replica, 0.25, now)
        return load.state, load.retry_in_s

    assert state(0.0) == ("well", 0.0)
    pool.handle(Broke(send(pool, 1, 0.0), ZERO, EngineError("gone")), 1.0)
    assert replica.open_until is not None
    assert state(1.0) == ("open", replica.open_until - 1.0)
    assert state(replica.open_until) == ("probing", 0.0)
    assert load_of_replica(replica, 0.25, 1.0).failed == 1


def test_a_replica_that_turned_a_call_away_is_held() -> None:
    pool = core()
    error = EngineError("busy", status=429, retry_after=4.0)
    pool.handle(Broke(send(pool, 1, 0.0), ZERO, error), 1.0)
    load = load_of_replica(pool.replicas[0], 0.25, 2.0)
    assert (load.state, load.retry_in_s, load.turned_away, load.failed) == ("held", 3.0, 1, 0)
    assert load_of_replica(pool.replicas[0], 0.25, 5.0).state == "well"


def test_what_was_expected_of_a_cache_stands_beside_what_it_reports() -> None:
    pool = core()
    (replica,) = pool.replicas
    assert load_of_replica(replica, 0.25, 0.0).hit_ratio is None
    assert load_of_replica(replica, 0.25, 0.0).hit_ratio_expected is None
    for number, cached in ((1, 0), (2, 500)):
        call = send(pool, number, float(number))
        pool.handle(Began(call, ZERO), number + 0.1)
        pool.handle(Ended(call, ZERO, 40, Usage(1000, 10, cached)), number + 0.2)
    load = load_of_replica(replica, 0.25, 3.0)
    assert load.hit_ratio == 0.5
    assert load.hit_ratio_expected == pytest.approx(0.5, abs=0.03)
    assert load.cache_tokens == pytest.approx(200_000, rel=0.01)
    assert load.slots is None
    pool.handle(Reported(ZERO, 3, 0, CacheFacts(slots=4)), 3.0)
    load = load_of_replica(replica, 0.25, 3.0)
    assert (load.cache_tokens, load.slots, load.others) == (None, 4, 3)
    assert load.sequences_limit == 4


def test_resumed_texts_are_counted() -> None:
    pool = core()
    call = send(pool, 1, 0.0)
    pool.handle(Began(call, ZERO), 0.1)
    pool.handle(Broke(call, ZERO, EngineError("gone"), Prompt((), 100)), 0.2)
    assert pool.counts.resumed == 1
    pool.handle(Left(call), 0.3)


def test_alto_itself_loads_no_prometheus() -> None:
    code = "import alto, sys; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
