"""What `structure` measures holds for every single question, not only for the median."""

from __future__ import annotations

import pytest
from benchmarks.critical import critical_path, respond

from alto import Simulated
from alto.testing.loop import run
from benchmarks import structure, workload

QUESTIONS = workload.questions(3)


@pytest.mark.parametrize("question", QUESTIONS)
def test_unloaded_a_request_takes_its_critical_path(question: str) -> None:
    many = Simulated(replicas=32, respond=respond, prefix_caching=False)
    limit = run(critical_path(many, question, workload.SEARCH_S))
    took = structure.alto(structure.checked, many, question, True)
    assert limit.first <= took.first * (1 + 1e-9) <= limit.first * 1.02
    assert limit.last <= took.last * (1 + 1e-9) <= limit.last * 1.02


@pytest.mark.parametrize("question", QUESTIONS)
def test_with_two_calls_at_a_time_streaming_is_as_soon_as_by_hand(question: str) -> None:
    two = Simulated(replicas=1, max_num_seqs=2, respond=respond)
    took = structure.alto(structure.checked_one_search, two, question, True)
    assert took.last <= structure.by_hand(two, question) * 1.02
