"""What a pool learns of a replica's cache from answers and from the engine's own metrics."""

from __future__ import annotations

from random import Random

import pytest

from alto.core.calls import Usage
from alto.core.pool_events import CacheFacts
from alto.core.prefix import PrefixIndex, chain, matched_bytes
from alto.core.prompt_cache import CAPACITY_TOKENS_MAX, SAMPLE_CALLS, SLOTS_MAX, PromptCache
from alto.core.slots import SlotIndex

PROMPT = chain(b"p" * 8000)
PER_BYTE = 0.25


def holding(bytes_max: int = 800_000) -> PromptCache:
    cache = PromptCache(bytes_max)
    cache.add(PROMPT)
    return cache


def size(cache: PromptCache) -> int:
    assert isinstance(cache.index, PrefixIndex)
    return cache.index.bytes_max


def begin(cache: PromptCache, calls: int, promised_tokens: float) -> None:
    for _ in range(calls):
        cache.begun(2000.0, promised_tokens)


def counted(cache: PromptCache, asked: float, found: float) -> None:
    cache.told(CacheFacts(asked_tokens=asked, found_tokens=found), PER_BYTE)


def answer(cache: PromptCache, promised: float, usage: Usage, sent_at: float = 0.0) -> None:
    """To a call that took a second."""
    cache.answered(promised, usage, PER_BYTE, sent_at, sent_at + 1.0)


def test_the_capacity_that_an_engine_tells_is_believed_at_once_and_later_as_the_most() -> None:
    cache = holding()
    cache.told(CacheFacts(capacity_tokens=50_000), PER_BYTE)
    assert size(cache) == 200_000
    for _ in range(60):
        cache.index.correct(promised=8000, found=0)
    learned = size(cache)
    assert learned < 200_000
    cache.told(CacheFacts(capacity_tokens=50_000), PER_BYTE)
    assert size(cache) == learned
    for _ in range(2000):
        cache.index.correct(promised=8000, found=8000)
    assert size(cache) == 200_000
    cache.told(CacheFacts(capacity_tokens=1000), PER_BYTE)
    assert size(cache) == 4096
    cache.index.check()


def test_a_capacity_that_makes_no_sense_bounds_what_is_remembered_all_the_same() -> None:
    cache = holding()
    cache.told(CacheFacts(capacity_tokens=1e17), PER_BYTE)
    assert size(cache) == CAPACITY_TOKENS_MAX / PER_BYTE


def test_counters_that_go_backwards_say_that_the_cache_is_empty() -> None:
    cache = holding()
    counted(cache, 100_000, 50_000)
    begin(cache, SAMPLE_CALLS, 0.0)
    counted(cache, 120_000, 60_000)
    assert cache.index.match(PROMPT) == len(PROMPT)
    counted(cache, 2000, 0)
    assert cache.index.match(PROMPT) == 0
    cache.add(PROMPT)
    begin(cache, SAMPLE_CALLS, 0.0)
    counted(cache, 22_000, 0)
    assert cache.index.match(PROMPT) == len(PROMPT)


@pytest.mark.parametrize(
    ("why", "calls", "promised", "asked", "found", "shrinks"),
    [
        ("promised and not found", SAMPLE_CALLS, 1800.0, 16_000, 0, True),
        ("found a third of it", SAMPLE_CALLS, 1800.0, 16_000, 5000, True),
        ("promised and found", SAMPLE_CALLS, 1800.0, 16_000, 14_000, False),
        ("the same among the calls of others", SAMPLE_CALLS, 1800.0, 160_000, 140_000, False),
        ("nothing was promised", SAMPLE_CALLS, 0.0, 16_000, 0, False),
        ("too few calls to tell", SAMPLE_CALLS - 1, 1800.0, 14_000, 0, False),
        ("nothing was read yet", SAMPLE_CALLS, 1800.0, 0, 0, False),
    ],
)
def test_a_cache_colder_than_believed_is_seen_in_the_counters_alone(
    why: str, calls: int, promised: float, asked: float, found: float, shrinks: bool
) -> None:
    cache = holding()
    counted(cache, 1000, 500)
    before = size(cache)
    begin(cache, calls, promised)
    counted(cache, 1000 + asked, 500 + found)
    assert (size(cache) < before) == shrinks, why


def test_calls_that_are_too_few_are_judged_later_together() -> None:
    cache = holding()
    counted(cache, 0, 0)
    for step in range(1, SAMPLE_CALLS + 1):
        begin(cache, 1, 1800.0)
        before = size(cache)
        counted(cache, 2000 * step, 0)
        assert (size(cache) < before) == (step == SAMPLE_CALLS)


def test_where_answers_say_what_was_found_the_counters_are_not_needed() -> None:
    cache = holding()
    counted(cache, 0, 0)
    answer(cache, 8000.0, Usage(2000, 10, 1900))
    before = size(cache)
    begin(cache, SAMPLE_CALLS, 1800.0)
    counted(cache, 16_000, 0)
    assert size(cache) == before
    answer(cache, 8000.0, Usage(2000, 10, 0))
    assert size(cache) < before


def test_an_engine_that_never_says_that_it_found_something_teaches_nothing() -> None:
    cache = holding()
    before = size(cache)
    answer(cache, 8000.0, Usage(2000, 10, 0))
    assert (size(cache), cache.hit_ratio) == (before, None)


WARM, COLD = Usage(2000, 10, 1900), Usage(2000, 10, 0)


@pytest.mark.parametrize(
    ("sent_at", "counts"),
    [(0.0, False), (0.9, False), (1.0, True), (5.0, True)],
)
def test_of_calls_under_way_together_one_broken_promise_counts(
    sent_at: float, counts: bool
) -> None:
    """The first answer came at 1 s. A burst of calls placed by the same belief is one mistake."""
    cache = holding()
    answer(cache, 8000.0, WARM, -1.0)
    answer(cache, 8000.0, COLD)
    before = size(cache)
    answer(cache, 8000.0, COLD, sent_at)
    assert (size(cache) < before) == counts


def test_where_a_cache_is_too_small_few_promises_stay_broken() -> None:
    """A replica keeps 40 prompts, not the 200 that it is thought to. Two hundred prompts are asked
    for in turn by chance: soon nearly all that is promised is there."""
    random, cache, kept = Random(1), PromptCache(800_000), PrefixIndex(40 * 4096)
    prompts = [chain(bytes([letter]) * 4096) for letter in range(200)]
    broken = promises = 0
    for turn in range(12_000):
        blocks = random.choice(prompts)
        promised, found = (matched_bytes(each.match(blocks)) for each in (cache.index, kept))
        cache.add(blocks)
        kept.add(blocks)
        answer(cache, promised, Usage(1024, 10, round(found * PER_BYTE)), 2.0 * turn)
        if turn >= 8000:
            promises += promised > 0
            broken += found < promised / 2
    assert promises > 300
    assert broken < promises / 25


def test_what_a_broken_promise_teaches_is_told_once() -> None:
    cache = holding()
    answer(cache, 8000.0, WARM, -1.0)
    assert cache.take_lowered() == 0
    answer(cache, 8000.0, COLD)
    assert cache.take_lowered() == size(cache)
    assert cache.take_lowered() == 0


def test_what_it_taught_another_pool_is_taken_over_and_not_told_again() -> None:
    cache = holding()
    cache.heard_lowered(300_000, 5.0)
    assert (size(cache), cache.take_lowered()) == (300_000, 0)
    cache.heard_lowered(500_000, 6.0)
    assert size(cache) == 300_000
    answer(cache, 8000.0, WARM, 5.5)
    before = size(cache)
    answer(cache, 8000.0, COLD, 5.5)  # sent before the news
    assert size(cache) == before
    answer(cache, 8000.0, COLD, 6.0)
    assert size(cache) < before
    cache.heard_lowered(1, 9.0)
    assert size(cache) == 4096
    cache.index.check()


def test_the_hit_ratio_is_that_of_the_answers_or_else_of_the_counters() -> None:
    cache = PromptCache(10_000)
    assert cache.hit_ratio is None
    counted(cache, 1000, 250)
    assert cache.hit_ratio == 0.25
    answer(cache, 0.0, Usage(2000, 10, 1500))
    assert cache.hit_ratio == 0.75


def test_slots_make_another_index_once_and_others_when_their_number_changes() -> None:
    cache = holding()
    assert cache.told(CacheFacts(slots=3), PER_BYTE)
    assert isinstance(cache.index, SlotIndex)
    slot = cache.add(PROMPT)
    assert slot is not None
    cache.end(slot)
    assert not cache.told(CacheFacts(slots=3, capacity_tokens=1000), PER_BYTE)
    assert cache.index.match(PROMPT) == len(PROMPT)
    assert cache.told(CacheFacts(slots=4), PER_BYTE)
    assert cache.index.match(PROMPT) == 0
    cache.end(slot)  # of the old index
    cache.index.check()


@pytest.mark.parametrize("slots", [0, -1, SLOTS_MAX + 1])
def test_a_number_of_slots_that_makes_no_sense_is_ignored(slots: int) -> None:
    cache = holding()
    assert not cache.told(CacheFacts(slots=slots), PER_BYTE)
    assert cache.slots is None
