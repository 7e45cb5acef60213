"""Who is let in under overload: rules as examples, and a shared server in a seeded world."""

from __future__ import annotations

from random import Random

import pytest
from shared_server import Job, World, arrivals, counted, goodput, size

from alto.core.admission import LOAD_MIN, SEEN_MIN, Admission, PipelineLoad

PLACES = 20.0
MEAN_S = 2.0
CAPACITY = PLACES / MEAN_S
"""Requests per second that the server can end."""
TIMEOUT_S = 4.0


def poisson(
    world: World, rate: float, stop: float, seed: int, cv: float = 1.0, start: float = 0.0
) -> list[Job]:
    random = Random(seed)
    times = arrivals(rate, start, stop, random, cv)
    return [world.job(at, size(MEAN_S, random), TIMEOUT_S) for at in times]


# --- The world


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("cv", [1.0, 3.0])
def test_goodput_holds_at_twice_and_thrice_the_capacity(cv: float, seed: int) -> None:
    found: dict[tuple[float, bool], float] = {}
    for load in (0.9, 2.0, 3.0):
        for shed in (True, False):
            world = World(PLACES, shed)
            found[load, shed] = goodput(
                world.run(poisson(world, load * CAPACITY, 70.0, seed, cv)), 20.0, 70.0
            )
            world.admission.check()
    peak = max(found.values())
    assert found[2.0, True] >= 0.8 * peak
    assert found[3.0, True] >= 0.8 * peak
    assert found[2.0, False] < 0.4 * peak  # that is what it is for


@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_refused_at_half_the_capacity(seed: int) -> None:
    world = World(PLACES)
    jobs = world.run(poisson(world, 0.5 * CAPACITY, 60.0, seed))
    assert counted(jobs, "refused") == counted(jobs, "dropped") == 0
    assert counted(jobs, "good") > 0.97 * len(jobs)  # some take longer than that by themselves


def test_nobody_is_refused_before_anything_is_known() -> None:
    world = World(PLACES)
    random = Random(1)
    jobs = world.run([world.job(0.01 * n, size(MEAN_S, random), TIMEOUT_S) for n in range(200)])
    assert counted(jobs, "refused") == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_a_spike_all_is_as_before(seed: int) -> None:
    world = World(PLACES)
    calm = poisson(world, 0.5 * CAPACITY, 90.0, seed)
    spike = poisson(world, 4.0 * CAPACITY, 40.0, seed + 10, start=20.0)
    jobs = world.run([*calm, *spike])
    assert counted(jobs, "refused", 20.0, 40.0) > 200
    assert counted(jobs, "refused", 41.0) == counted(jobs, "dropped", 41.0) == 0
    assert goodput(jobs, 45.0, 90.0) > 0.9 * 0.5 * CAPACITY


def test_a_server_that_gets_slower_and_recovers_is_used_as_far_as_it_goes() -> None:
    world = World(PLACES)
    jobs = poisson(world, 2.0 * CAPACITY, 180.0, seed=1)
    halves = [(0.0, PLACES), (60.0, PLACES / 2), (120.0, PLACES)]
    for number, (start, places) in enumerate(halves):
        stop = halves[number + 1][0] if number < 2 else 180.0
        world.places = places
        world.run([job for job in jobs if start <= job.arrival < stop], stop)
    world.run([])
    assert goodput(jobs, 20.0, 60.0) > 0.7 * CAPACITY
    assert goodput(jobs, 80.0, 120.0) > 0.3 * CAPACITY
    assert goodput(jobs, 140.0, 180.0) > 0.7 * CAPACITY


@pytest.mark.parametrize("factor", [0.25, 2.5])
def test_stages_that_become_shorter_or_longer_are_learned_anew(factor: float) -> None:
    """Before and after, the load is twice what can be done."""
    world = World(PLACES)
    random = Random(1)
    first = arrivals(2.0 * CAPACITY, 0.0, 60.0, random)
    later = arrivals(2.0 * CAPACITY / factor, 60.0, 120.0, random)
    jobs = [world.job(at, size(MEAN_S, random), 6.0) for at in first]
    jobs += [world.job(at, size(MEAN_S * factor, random), 6.0) for at in later]
    world.run(jobs)
    feasible = (
        1.0 if factor < 1 else 0.75
    )  # of the long ones the others take too long by themselves
    assert goodput(jobs, 85.0, 120.0) > 0.5 * feasible * CAPACITY / factor


@pytest.mark.parametrize("rate", [1.0, 4.0])
def test_a_deadline_that_nobody_could_meet_is_no_overload(rate: float) -> None:
    world = World(PLACES)
    random = Random(1)
    jobs = [world.job(at, size(3.0, random), 1.5) for at in arrivals(rate, 0.0, 120.0, random)]
    world.run(jobs)
    assert counted(jobs, "late") > 0.8 * len(jobs)
    assert counted(jobs, "refused", 40.0) == counted(jobs, "dropped", 40.0) == 0


def test_a_fast_pipeline_beside_a_slow_one_is_not_refused_for_it() -> None:
    """The slow one alone is twice what the server can do; the fast one has time enough."""
    world = World(PLACES)
    random = Random(1)
    slow = [
        world.job(at, size(4.0, random), 8.0, name="slow")
        for at in arrivals(2.0 * PLACES / 4.0, 0.0, 90.0, random)
    ]
    fast = [
        world.job(at, size(0.2, random), 2.0, name="fast")
        for at in arrivals(5.0, 0.0, 90.0, random)
    ]
    world.run([*slow, *fast])
    assert counted(fast, "good", 25.0) >= 0.98 * len([job for job in fast if job.arrival >= 25.0])
    assert goodput(slow, 25.0, 90.0) > 0.6 * PLACES / 4.0


def test_more_important_requests_are_let_in_first() -> None:
    world = World(PLACES)
    random = Random(1)
    jobs = [
        world.job(at, size(MEAN_S, random), TIMEOUT_S, priority=number % 2)
        for number, at in enumerate(arrivals(1.2 * CAPACITY, 0.0, 90.0, random))
    ]
    world.run(jobs)
    high = [job for job in jobs if job.priority and job.arrival > 20.0]
    low = [job for job in jobs if not job.priority and job.arrival > 20.0]
    assert counted(high, "refused") == 0
    assert counted(low, "refused") > 0.15 * len(low)


# --- The rules


def seen(
    admission: Admission, *loads: int, took: float = 2.0, engine: str = "chat"
) -> PipelineLoad:
    """A pipeline of which `SEEN_MIN` requests took `took` times the load, at each of these."""
    pipeline = admission.add("p", "p", [engine])
    for load in loads:
        tickets = [admission.begin(pipeline, None, 0, 0.0) for _ in range(max(load, SEEN_MIN))]
        for ticket in tickets[load:]:
            admission.end(ticket, None, 0.0, 0.0)
        for _ in range(SEEN_MIN):
            pipeline.forecast.observe(float(load), took * load, True, 0.0)
        for ticket in tickets[:load]:
            admission.end(ticket, None, 0.0, 0.0)
    return pipeline


def test_a_refusal_says_what_was_expected_and_when_to_try_again() -> None:
    admission = Admission()
    pipeline = seen(admission, 1, 8)
    for _ in range(7):
        admission.begin(pipeline, None, 0, 0.0)
    refusal = admission.ask(pipeline, 10.0, 0, 0.0)
    assert str(refusal) == (
        "pipeline p: the request was not started, as it would end too late: with 7 requests under "
        "way one takes 17.74 s or less in three of four cases, and 10.00 s remain. Try later, give "
        "requests more time, or the engines more replicas."
    )
    assert refusal is not None and refusal.retry_after == pytest.approx(
        1.25 * 14.19 - 10.0, abs=0.01
    )
    assert admission.ask(pipeline, 20.0, 0, 0.0) is None


def test_few_requests_are_never_too_many() -> None:
    admission = Admission()
    pipeline = seen(admission, 1, 8, took=100.0)
    for _ in range(LOAD_MIN):
        assert admission.ask(pipeline, 1.0, 0, 0.0) is None
        admission.begin(pipeline, None, 0, 0.0)
    assert admission.ask(pipeline, 1.0, 0, 0.0) is not None


def test_an_overload_of_one_engine_is_not_felt_on_another() -> None:
    admission = Admission()
    busy = seen(admission, 1, 8)
    other = admission.add("other", "other", ["embed"])
    both = admission.add("both", "both", ["chat", "embed"])
    for _ in range(8):
        admission.begin(busy, None, 0, 0.0)
    assert other.load() == 0.0
    assert both.load() == 8.0
    admission.begin(both, None, 0, 0.0)
    assert other.load() == 1.0


def test_a_pipeline_counts_by_the_tokens_that_it_takes() -> None:
    admission = Admission()
    heavy = admission.add("heavy", "heavy", ["chat"])
    light = admission.add("light", "light", ["chat"])
    for pipeline, tokens in ((heavy, 4000.0), (light, 100.0)):
        for _ in range(50):
            admission.end(admission.begin(pipeline, None, 0, 0.0), True, tokens, 2.0)
    admission.begin(heavy, None, 0, 2.0)
    assert light.load() == pytest.approx(40.0, rel=0.01)
    assert heavy.load() == 1.0


def test_those_of_lower_priority_are_no_load() -> None:
    admission = Admission()
    pipeline = admission.add("p", "p", [])
    for priority in (-1, 0, 0, 2):
        admission.begin(pipeline, None, priority, 0.0)
    assert [pipeline.load(least) for least in (-1, 0, 1, 2, 3)] == [4, 3, 1, 1, 0]


def test_a_request_in_mid_flight_is_dropped_when_even_quick_ones_would_be_late() -> None:
    admission = Admission()
    pipeline = seen(admission, 1, 8)
    alone = pipeline.forecast.expected(1.0, 0.0)
    beside = pipeline.forecast.expected(8.0, 0.0)
    assert alone is not None and beside is not None
    quick = admission.begin(pipeline, 100.0, 0, 0.0)
    admission.reached(quick, "write", alone / 2)
    admission.end(quick, True, 0.0, alone)  # half of a request follows a call of write
    for _ in range(7):
        admission.begin(pipeline, None, 0, 1.0)
    ticket = admission.begin(pipeline, 11.0, 0, 1.0)
    assert admission.reached(ticket, "write", 2.0) is None
    assert ticket.rest_s == pytest.approx(beside / 2, rel=0.05)
    assert admission.reached(ticket, "other", 10.0) is None  # nothing is known of that
    refusal = admission.reached(ticket, "write", 6.0)
    assert refusal is not None and "was given up after 5.00 s" in str(refusal)
    without = admission.begin(pipeline, None, 0, 1.0)
    assert admission.reached(without, "write", 1e9) is None
