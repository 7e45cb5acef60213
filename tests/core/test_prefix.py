"""Prompts as chains of blocks, and the index of what a replica has read."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alto.core.calls import Call
from alto.core.prefix import ENDS, PrefixIndex, chain, matched_bytes
from alto.core.prompt import PART_BYTES, read


def user(text: object) -> Call:
    return Call(messages=[{"role": "user", "content": text}])


@given(st.binary(max_size=3000), st.binary(max_size=3000), st.binary(max_size=3000))
def test_equal_beginnings_give_equal_chains(start: bytes, one: bytes, other: bytes) -> None:
    first, second = chain(start + one), chain(start + other)
    whole = sum(1 for end in ENDS if end <= len(start))
    assert first[:whole] == second[:whole] == chain(start)


def test_a_difference_changes_every_block_from_there_on() -> None:
    data = bytes(2000)
    changed = data[:300] + b"x" + data[301:]
    first, second = chain(data), chain(changed)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True] + [False] * 6


def test_a_megabyte_is_a_few_hundred_blocks_and_the_last_is_a_few_percent_of_it() -> None:
    blocks = chain(bytes(1 << 20))
    assert len(blocks) < 200
    size = matched_bytes(len(blocks))
    assert (size - matched_bytes(len(blocks) - 1)) / size < 0.07


def test_a_prompt_shorter_than_a_block_has_none() -> None:
    assert read(user("hi")).blocks == ()
    assert read(user("hi")).size > 2


def test_roles_models_and_tools_are_part_of_the_prompt() -> None:
    text = "a" * 600
    plain = read(user(text)).blocks
    system = Call(messages=[{"role": "system", "content": text}])
    tools = Call(messages=user(text).messages, tools=[{"name": "search"}])
    model = Call(messages=user(text).messages, model="adapter")
    others = [read(call).blocks[0] for call in (system, tools, model)]
    assert len({plain[0], *others}) == 4


def test_text_parts_read_like_text_and_pictures_count_a_fixed_size() -> None:
    text = "a" * 600
    assert read(user([{"type": "text", "text": text}])) == read(user(text))
    picture = {"type": "image_url", "image_url": {"url": "data:" + "x" * 100_000}}
    prompt = read(user([picture, {"type": "text", "text": text}]))
    assert PART_BYTES + 600 < prompt.size < PART_BYTES + 700


def test_tool_calls_in_a_message_are_part_of_the_prompt() -> None:
    def call(argument: str) -> Call:
        message = {"role": "assistant", "content": None, "tool_calls": [{"arguments": argument}]}
        return Call(messages=[message])

    assert read(call("a" * 400)).blocks != read(call("b" * 400)).blocks


def test_without_hashing_only_the_size_is_read() -> None:
    call = user("a" * 600)
    assert read(call, hashed=False).blocks == ()
    assert read(call, hashed=False).size == read(call).size


def test_the_longest_known_beginning_is_found() -> None:
    index = PrefixIndex(10_000)
    index.add(chain(b"a" * 2560))
    assert index.match(chain(b"a" * 2560 + b"b" * 2560)) == 10
    assert index.match(chain(b"a" * 1280 + b"b" * 1280)) == 5
    assert index.match(chain(b"b" * 2560)) == 0
    assert index.match(()) == 0


def test_the_least_recently_used_prompt_goes_first_and_from_its_end() -> None:
    index = PrefixIndex(2560)
    old, new = chain(b"o" * 1280), chain(b"n" * 1280)
    index.add(old)
    index.add(new)
    index.add(chain(b"x" * 512))
    assert (index.match(old), index.match(new)) == (3, 5)
    index.add(old)
    index.add(chain(b"y" * 512))
    assert index.match(old) == 5
    index.check()


def test_a_prompt_longer_than_the_index_keeps_its_beginning() -> None:
    index = PrefixIndex(2560)
    blocks = chain(b"l" * 5000)
    index.add(blocks)
    assert index.match(blocks) == 10
    index.check()


@pytest.mark.parametrize("seed", range(20))
def test_bisection_finds_what_a_scan_finds(seed: int) -> None:
    random = Random(seed)
    index = PrefixIndex(random.randrange(0, 8000))
    prompts = [chain(bytes(random.choices(b"ab", k=1)) * 700)]
    for _ in range(200):
        data = bytes(random.choice((b"a", b"b"))[0] for _ in range(4))
        blocks = chain(b"".join(bytes([byte]) * 256 for byte in data))
        prompts.append(blocks)
        if random.random() < 0.5:
            index.add(random.choice(prompts))
        scan = 0
        while scan < len(blocks) and index.match(blocks[: scan + 1]) == scan + 1:
            scan += 1
        assert index.match(blocks) == scan
        index.check()


def test_broken_promises_shrink_the_index_and_kept_ones_widen_it() -> None:
    index = PrefixIndex(100_000)
    index.add(chain(b"a" * 50_000))
    index.correct(promised=10_000, found=0)
    assert index.bytes_max < 50_000
    index.check()
    shrunk = index.bytes_max
    index.correct(promised=10_000, found=9_900)
    assert index.bytes_max > shrunk
    for _ in range(10_000):
        index.correct(promised=10_000, found=10_000)
    assert index.bytes_max == index.bytes_top
    for _ in range(1000):
        index.correct(promised=10_000, found=0)
    assert index.bytes_max == index.bytes_min


def test_nothing_is_learned_where_nothing_was_promised() -> None:
    index = PrefixIndex(100_000)
    index.correct(promised=0, found=0)
    assert index.bytes_max == 100_000


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes_max is -1"):
        PrefixIndex(-1)
