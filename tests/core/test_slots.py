"""The prompts in the slots of a replica that keeps one prompt a slot."""

from __future__ import annotations

from random import Random

import pytest

from alto.core.prefix import STEP_BYTES, chain
from alto.core.slots import KEPT_MAX, SLOT_BYTES, Slot, SlotIndex

A, B, C, D = (chain(letter * 4096) for letter in (b"a", b"b", b"c", b"d"))


def own(template: bytes, number: int) -> tuple[int, ...]:
    """A prompt that begins with a template and goes on with something of its own."""
    return chain(template * 4096 + str(number).encode() * 2048)


def ran(index: SlotIndex, *prompts: tuple[int, ...]) -> None:
    """One call after the other."""
    for prompt in prompts:
        index.end(index.add(prompt))
        index.check()


def test_a_prompt_is_found_when_its_call_is_over_and_not_before() -> None:
    index = SlotIndex(2)
    slot = index.add(A)
    assert (index.match(A), index.held(A)) == (0, len(A))
    index.end(slot)
    assert (index.match(A), index.held(A)) == (len(A), len(A))


def test_a_prompt_goes_to_the_slot_that_has_most_of_it_and_overwrites_the_rest() -> None:
    index = SlotIndex(2)
    ran(index, own(b"a", 1), B, own(b"a", 2))
    assert index.match(own(b"a", 1)) == len(A)
    assert index.match(own(b"a", 2)) == len(own(b"a", 2))
    assert index.match(B) == len(B)


def test_a_new_prompt_takes_the_slot_left_longest_ago() -> None:
    index = SlotIndex(3)
    ran(index, A, B, C, A, D)
    assert [index.match(prompt) > 0 for prompt in (A, B, C, D)] == [True, False, True, True]


def test_a_second_call_with_a_prompt_takes_another_slot_from_somebody() -> None:
    index = SlotIndex(2)
    ran(index, A, B)
    index.add(A)
    index.add(A)
    assert index.held(B) == 0


def test_a_trifle_in_common_does_not_choose_a_slot() -> None:
    index = SlotIndex(2)
    start = b"x" * STEP_BYTES
    long, other = chain(start + b"a" * 8192), chain(start + b"b" * 8192)
    ran(index, long, B, other)
    assert index.match(B) == len(B)
    assert index.match(long) == 1


def test_calls_beyond_the_slots_leave_no_more_than_the_slots() -> None:
    index = SlotIndex(2)
    for slot in [index.add(prompt) for prompt in (A, B, C, D)]:
        index.end(slot)
        index.check()
    assert [index.match(prompt) > 0 for prompt in (A, B, C, D)] == [False, False, True, True]


def test_empty_slots_count_as_room() -> None:
    index = SlotIndex(3)
    assert index.free_bytes == 3 * SLOT_BYTES
    ran(index, A, B)
    assert index.free_bytes == SLOT_BYTES
    index.clear()
    assert index.free_bytes == 3 * SLOT_BYTES
    assert index.held(A) == 0


def test_prompts_kept_beside_the_slots_are_noticed_and_doubted_again() -> None:
    index = SlotIndex(2)
    ran(index, A, B, C)
    index.correct(promised=0, found=4000)
    index.correct(promised=0, found=4000)
    assert index.kept == 4
    ran(index, A, B, C, D)
    assert all(index.match(prompt) for prompt in (A, B, C, D))
    index.correct(promised=4000, found=0)
    index.check()
    assert index.kept == 3
    for _ in range(2 * KEPT_MAX):
        index.correct(promised=4000, found=0)
    assert index.kept == 2
    for _ in range(2 * KEPT_MAX):
        index.correct(promised=0, found=4000)
    assert index.kept == KEPT_MAX


@pytest.mark.parametrize(("promised", "found"), [(4000, 3900), (4000, 4200), (100, 0), (0, 100)])
def test_what_was_about_promised_changes_nothing(promised: float, found: float) -> None:
    index = SlotIndex(2)
    index.correct(promised=0, found=4000)
    index.correct(promised, found)
    assert index.kept == 3


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_sent_there_are_never_more_idle_slots_than_kept(seed: int) -> None:
    random = Random(seed)
    index = SlotIndex(random.randint(1, 4))
    under_way: list[Slot] = []
    for step in range(300):
        if under_way and random.random() < 0.5:
            index.end(under_way.pop(random.randrange(len(under_way))))
        else:
            prompt = own(random.choice((b"a", b"b", b"c", b"d")), step)
            assert index.match(prompt) <= index.held(prompt)
            under_way.append(index.add(prompt))
        index.correct(random.choice((0, 4000)), random.choice((0, 4000)))
        index.check()
