"""Policies as tables, and what is learned about replicas and stages."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from alto.core.cost import costs
from alto.core.learning import DURATION_S_PRIOR, OUTPUT_TOKENS_PRIOR, Line, Mean, Texts
from alto.core.policies import NAMED, resolve
from alto.core.policies.prompt_aware import need_of, place_of
from alto.core.scheduling import Candidate, Facts, Finished, Placed, Policy, ReplicaId, needs_prefix
from alto.errors import ConfigError


def candidate(
    replica: int,
    *,
    sequences: int = 0,
    prefill: float = 0.0,
    cached: float = 0.0,
    free: float = 1e6,
    prefill_s: float = 1e-4,
    step_s: float = 0.01,
    rise_s: float = 1e-4,
    weight: float | None = None,
) -> Candidate:
    return Candidate(
        ReplicaId(replica),
        f"r{replica}",
        sequences,
        prefill,
        cached,
        free,
        prefill_s,
        step_s + rise_s * sequences,
        rise_s,
        sequences if weight is None else weight,
    )


FACTS = Facts("verify", prompt_tokens=2000.0, output_tokens=100.0)


def chosen(policy: Policy, candidates: Sequence[Candidate], facts: Facts = FACTS) -> set[int]:
    """Every replica that the lot may fall on."""
    return {
        candidates[policy.choose(candidates, facts, 0.0, Random(seed))].replica
        for seed in range(40)
    }


@pytest.mark.parametrize("name", NAMED)
def test_a_policy_chooses_an_index_and_changes_nothing(name: str) -> None:
    policy = resolve(name)
    candidates = [candidate(2), candidate(5, sequences=1), candidate(7)]
    first = [policy.choose(candidates, FACTS, 0.0, Random(seed)) for seed in range(10)]
    second = [policy.choose(candidates, FACTS, 0.0, Random(seed)) for seed in range(10)]
    assert first == second
    assert set(first) <= {0, 1, 2}
    assert policy.choose(candidates[:1], FACTS, 0.0, Random(0)) == 0


def test_round_robin_goes_round_and_skips_who_has_no_room() -> None:
    policy = resolve("round-robin")
    all_four = [candidate(n) for n in range(4)]
    order = []
    for candidates in (all_four, all_four, [all_four[0], all_four[3]], all_four, all_four[1:]):
        replica = candidates[policy.choose(candidates, FACTS, 0.0, Random(0))].replica
        policy.observe(Placed(replica, FACTS, 0.0))
        order.append(replica)
    assert order == [0, 1, 3, 0, 1]


LEAST_OUTSTANDING = [
    ("the idle one", [candidate(0, sequences=2), candidate(1)], {1}),
    ("a lot among equals", [candidate(0), candidate(1), candidate(2, sequences=1)], {0, 1}),
    ("whatever is cached", [candidate(0, sequences=1, cached=2000), candidate(1)], {1}),
]

PREFIX_AFFINITY = [
    ("the warm one", [candidate(0), candidate(1, cached=1500, sequences=3)], {1}),
    ("the warmest", [candidate(0, cached=1900), candidate(1, cached=1500)], {0}),
    ("not a swamped one", [candidate(0), candidate(1, cached=1900, sequences=5)], {0}),
    (
        "the other warm one, when the first is swamped",
        [candidate(0), candidate(1, cached=1900, sequences=5), candidate(2, cached=1900)],
        {2},
    ),
    (
        "busy is not swamped where all are busy",
        [candidate(0, sequences=20), candidate(1, sequences=28, cached=1900)],
        {1},
    ),
    ("a trifle is not warm", [candidate(0, cached=100, sequences=1), candidate(1)], {1}),
    ("cold: the emptiest cache", [candidate(0, free=1e4), candidate(1, free=5e4)], {1}),
    ("cold: a lot among equals", [candidate(0), candidate(1)], {0, 1}),
]

PROMPT_AWARE = [
    ("a lot among equals", [candidate(0), candidate(1)], {0, 1}),
    ("the warm one", [candidate(0), candidate(1, cached=1500)], {1}),
    ("the short queue", [candidate(0, prefill=4000), candidate(1, prefill=100)], {1}),
    ("the fast one", [candidate(0), candidate(1, prefill_s=5e-5, step_s=0.005)], {1}),
    (
        "the fast one, though it has more to do",
        [candidate(0, sequences=5), candidate(1, sequences=8, prefill_s=5e-5, step_s=0.005)],
        {1},
    ),
    (
        "the warm one, though it is busier",
        [candidate(0), candidate(1, cached=1900, sequences=4)],
        {1},
    ),
    (
        "a cold one, when the warm one has a long queue",
        [candidate(0), candidate(1, cached=1900, sequences=4, prefill=9000)],
        {0},
    ),
    (
        "the second warm one, when the first has a long queue",
        [
            candidate(0, sequences=1),
            candidate(1, cached=1900, sequences=9, prefill=9000),
            candidate(2, cached=1900, sequences=1),
        ],
        {2},
    ),
    (
        "where a long prompt stalls nobody",
        [candidate(0, sequences=10), candidate(1, prefill=1500)],
        {1},
    ),
    (
        "where crowds of calls of one request run, rather than calls that are waited for",
        [candidate(0, sequences=6, weight=6.0), candidate(1, sequences=8, weight=2.0)],
        {1},
    ),
    (
        "where nothing must be forgotten for it",
        [candidate(0, free=100), candidate(1, free=1e5)],
        {1},
    ),
]


@pytest.mark.parametrize(("why", "candidates", "expected"), LEAST_OUTSTANDING)
def test_least_outstanding_takes(why: str, candidates: list[Candidate], expected: set[int]) -> None:
    assert chosen(resolve("least-outstanding"), candidates) == expected


@pytest.mark.parametrize(("why", "candidates", "expected"), PREFIX_AFFINITY)
def test_prefix_affinity_takes(why: str, candidates: list[Candidate], expected: set[int]) -> None:
    assert chosen(resolve("prefix-affinity"), candidates) == expected


@pytest.mark.parametrize(("why", "candidates", "expected"), PROMPT_AWARE)
def test_prompt_aware_takes(why: str, candidates: list[Candidate], expected: set[int]) -> None:
    assert chosen(resolve("prompt-aware"), candidates) == expected


def test_one_of_a_crowd_leaves_the_fast_replica_to_calls_that_are_waited_for() -> None:
    fast = candidate(0, sequences=2, weight=2.0)
    slow = candidate(1, sequences=9, weight=1.0)
    alone = Facts("draft", prompt_tokens=200.0, output_tokens=200.0)
    one_of_sixteen = Facts("verify", prompt_tokens=200.0, output_tokens=200.0, weight=0.25)
    assert chosen(resolve("prompt-aware"), [fast, slow], alone) == {0}
    assert chosen(resolve("prompt-aware"), [fast, slow], one_of_sixteen) == {1}


def test_the_cost_of_the_worked_example_in_the_docs() -> None:
    warm = candidate(0, sequences=6, cached=1500, prefill=500, step_s=0.0094)
    cold = candidate(1, sequences=2, step_s=0.0098)
    of_warm, of_cold = costs([place_of(warm), place_of(cold)], need_of(FACTS))
    assert of_warm == pytest.approx(0.05 + 0.05 + 1.0 + 6 * (0.05 + 0.01))
    assert of_cold == pytest.approx(0.0 + 0.2 + 1.0 + 2 * (0.2 + 0.01))
    assert of_warm < of_cold


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'fastest' is not known.*prompt-aware"):
        resolve("fastest")


def test_an_object_without_the_verbs_is_told_which_is_missing() -> None:
    class Half:
        def choose(self) -> int:
            return 0

    with pytest.raises(ConfigError, match=r"has no observe\(\)"):
        resolve(Half())  # type: ignore[arg-type]


def test_an_own_object_is_taken_as_it_is_and_is_given_prefixes() -> None:
    class First:
        def choose(
            self, candidates: Sequence[Candidate], facts: Facts, now: float, random: Random
        ) -> int:
            return 0

        def observe(self, seen: Placed | Finished) -> None: ...

    policy = First()
    assert resolve(policy) is policy
    assert needs_prefix(policy)
    assert not needs_prefix(resolve("round-robin"))


def test_a_line_knows_the_scale_after_one_point_and_the_shape_after_many() -> None:
    line = Line(0.02, 2e-4, (1.0, 64.0))
    assert line.at(10) == pytest.approx(0.022)
    line.observe(10, 0.011)
    assert line.at(10) == pytest.approx(0.011, rel=0.05)
    for n in range(200):
        line.observe(n % 40, 0.005 + 0.001 * (n % 40))
    assert line.at(5) == pytest.approx(0.010, rel=0.25)
    assert line.at(20) == pytest.approx(0.025, rel=0.05)
    assert line.slope == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_a_line_stays_positive_whatever_it_sees(seed: int) -> None:
    random = Random(seed)
    line = Line(0.02, 2e-4, (1.0, 64.0))
    for _ in range(300):
        line.observe(random.uniform(0, 60), random.choice((0.0, 1e-9, 1.0, 50.0)), random.random())
        assert line.slope > 0
        assert line.intercept > 0


def test_a_mean_fades() -> None:
    mean = Mean(100.0)
    for _ in range(200):
        mean.observe(10.0)
    assert mean.value == pytest.approx(10.0, abs=0.5)
    for _ in range(100):
        mean.observe(50.0)
    assert mean.value == pytest.approx(50.0, abs=3)


def test_the_stage_longest_unseen_is_forgotten() -> None:
    texts = Texts(stages_max=2)
    for stage in ("a", "b", "a", "c"):
        texts.wrote(stage, 7.0, 3.0)
    lengths = [texts.expected_tokens(stage, None) for stage in ("a", "b", "c")]
    assert lengths == [7.0, OUTPUT_TOKENS_PRIOR, 7.0]
    assert [texts.expected_s(stage) for stage in ("a", "b", "c")] == [3.0, DURATION_S_PRIOR, 3.0]
