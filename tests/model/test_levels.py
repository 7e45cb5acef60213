"""Paths and levels: fan-out, fan-in, broadcast, joins by ancestry, down to five levels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import alto
from alto import AsCompleted, Stream, pipeline, stage
from alto.testing.loop import run as run_virtually


def call(flow: Any, *args: Any, **kwargs: Any) -> Any:
    async def main() -> Any:
        async with alto.Runtime() as runtime:
            return await runtime.call(flow, *args, **kwargs)

    return run_virtually(main())


def events_of(flow: Any, *args: Any) -> list[alto.Event]:
    async def main() -> list[alto.Event]:
        async with alto.Runtime() as runtime:
            return [event async for event in runtime.stream(flow, *args)]

    return run_virtually(main())


@stage
async def split(x: str) -> AsyncIterator[str]:
    """Two items below each."""
    yield x + "0"
    yield x + "1"


@stage
async def none(x: str) -> AsyncIterator[str]:
    for item in ():
        yield item


@stage
async def twice(x: str) -> str:
    return x + x


@stage
async def pair(a: str, b: str) -> str:
    return f"{a}-{b}"


@stage
async def joined(items: Stream[str]) -> str:
    return ",".join([item async for item in items])


@stage
async def counted(items: list[str]) -> int:
    return len(items)


@stage
async def under(x: str, items: Stream[str]) -> str:
    return f"{x}:" + ",".join([item async for item in items])


# ---------------------------------------------------------------- the rule


def test_five_levels_deep() -> None:
    @pipeline
    def p(x: str):
        flow = x
        levels = []
        for _ in range(5):
            flow = split(flow)
            levels.append(flow)
        return {f"l{k}": level for k, level in enumerate(levels)} | {"all": joined(flow)}

    result = call(p, "")
    assert [len(result[f"l{k}"]) for k in range(5)] == [2, 4, 8, 16, 32]
    assert result["l4"] == [f"{k:05b}" for k in range(32)]
    assert result["all"] == ",".join(result["l4"])
    paths = {e.value: e.path for e in events_of(p, "") if e.output == "l4"}
    assert paths["01101"] == (0, 1, 1, 0, 1)


def test_once_for_each_item_of_the_deepest_argument() -> None:
    @pipeline
    def p(question: str):
        sentences = split(question)
        words = split(sentences)
        return {"pairs": pair(sentences, words), "with question": pair(question, words)}

    assert call(p, "q") == {
        "pairs": ["q0-q00", "q0-q01", "q1-q10", "q1-q11"],
        "with question": ["q-q00", "q-q01", "q-q10", "q-q11"],
    }


def test_items_of_one_path_meet() -> None:
    @pipeline
    def p(x: str):
        items = split(x)
        return pair(items, twice(items))

    assert call(p, "a") == ["a0-a0a0", "a1-a1a1"]


def test_a_gather_brings_what_lies_below_its_item() -> None:
    @pipeline
    def p(x: str):
        sentences = split(x)
        words = split(split(sentences))
        return {"each": under(sentences, words), "all": under(x, words)}

    assert call(p, "") == {
        "each": ["0:000,001,010,011", "1:100,101,110,111"],
        "all": ":000,001,010,011,100,101,110,111",
    }


def test_a_gather_at_its_own_level_is_one_item_or_none() -> None:
    @pipeline
    def p(x: str):
        items = split(x)
        some = twice(items.where(lambda item: item.endswith("1")))
        return under(items, some)

    assert call(p, "a") == ["a0:", "a1:a1a1"]


def test_streams_are_in_path_order_however_they_finish() -> None:
    @stage
    async def slow(x: str) -> str:
        await asyncio.sleep(10 - int(x, 2))
        return x

    @stage
    async def completed(items: AsCompleted[str]) -> str:
        return ",".join([item async for item in items])

    @pipeline
    def p(x: str):
        items = slow(split(split(x)))
        return {"ordered": joined(items), "completed": completed(items), "output": items}

    assert call(p, "") == {
        "ordered": "00,01,10,11",
        "completed": "11,10,01,00",
        "output": ["00", "01", "10", "11"],
    }


def test_a_session_reads_while_its_producer_writes() -> None:
    seen: list[tuple[float, str]] = []

    @stage
    async def ticks(x: str) -> AsyncIterator[str]:
        for k in range(3):
            await asyncio.sleep(1)
            yield f"{x}{k}"

    @stage
    async def watch(items: Stream[str]) -> int:
        async for item in items:
            seen.append((asyncio.get_running_loop().time(), item))
        return len(seen)

    @pipeline
    def p(x: str):
        return watch(twice(ticks(x)))

    assert call(p, "a") == 3
    assert seen == [(1, "a0a0"), (2, "a1a1"), (3, "a2a2")]


def test_a_session_without_items_starts_with_the_request() -> None:
    started: list[float] = []

    @stage
    async def late(x: str) -> str:
        await asyncio.sleep(5)
        return x

    @stage
    async def watch(items: Stream[str]) -> str:
        started.append(asyncio.get_running_loop().time())
        return ",".join([item async for item in items])

    @pipeline
    def p(x: str):
        return watch(split(late(x)))

    assert call(p, "a") == "a0,a1"
    assert started == [0]


def test_a_session_gets_what_came_before_its_items_did() -> None:
    @stage
    async def late(x: str) -> str:
        await asyncio.sleep(5)
        return x + "!"

    @pipeline
    def p(x: str):
        return under(late(x), split(x))

    assert call(p, "a") == "a!:a0,a1"


# ---------------------------------------------------------------- absence


def test_an_empty_fan_out_completes_at_once_at_every_level() -> None:
    @pipeline
    def p(x: str):
        first = none(x)
        items = split(x)
        second = none(items)
        third = none(split(items))
        return {
            "first": first,
            "below": twice(split(first)),
            "one": joined(first),
            "two": joined(second),
            "three": counted(third),
            "each": under(items, third),
        }

    assert call(p, "a") == {
        "first": [],
        "below": [],
        "one": "",
        "two": "",
        "three": 0,
        "each": ["a0:", "a1:"],
    }


def test_an_absent_item_makes_what_hangs_on_it_absent() -> None:
    @pipeline
    def p(x: str):
        gone = x.where(lambda value: False)
        items = split(x)
        some = items.where(lambda item: item.endswith("0"))
        return {
            "gone": gone,
            "derived": twice(gone),
            "fan out": split(gone),
            "broadcast": pair(items, gone),
            "gathered": joined(split(gone)),
            "session": under(gone, items),
            "some": some,
            "inner join": pair(items, twice(some)),
            "how many": counted(some),
        }

    assert call(p, "a") == {
        "gone": None,
        "derived": None,
        "fan out": [],
        "broadcast": [],
        "gathered": "",
        "session": None,
        "some": ["a0"],
        "inner join": ["a0-a0a0"],
        "how many": 1,
    }
    assert {e.output for e in events_of(p, "a")} == {"gathered", "some", "inner join", "how many"}


def test_where_keeps_paths() -> None:
    @pipeline
    def p(x: str):
        return split(split(x)).where(lambda item: item.endswith("1"))

    assert [(e.path, e.value) for e in events_of(p, "")] == [((0, 1), "01"), ((1, 1), "11")]


def test_where_twice() -> None:
    @pipeline
    def p(x: str):
        ones = split(split(x)).where(lambda item: item.endswith("1"))
        return ones.where(lambda item: item.startswith("1"))

    assert call(p, "") == ["11"]


def test_either_brings_a_conditional_together() -> None:
    @stage
    async def short(x: str) -> str:
        return f"short {x}"

    @stage
    async def long(x: str) -> str:
        await asyncio.sleep(3)
        return f"long {x}"

    @pipeline
    def p(x: str):
        items = split(x)
        a = short(items.where(lambda item: item.endswith("0")))
        b = long(items.where(lambda item: item.endswith("1")))
        nobody = twice(items.where(lambda item: False))
        return {
            "either": alto.either(a, b),
            "ordered": joined(alto.either(a, b)),
            "three": alto.either(nobody, b, items),
            "first wins": alto.either(items, a),
            "none": alto.either(nobody, nobody),
        }

    assert call(p, "") == {
        "either": ["short 0", "long 1"],
        "ordered": "short 0,long 1",
        "three": ["0", "long 1"],
        "first wins": ["0", "1"],
        "none": [],
    }


def test_either_of_roots() -> None:
    @pipeline
    def p(x: str):
        return alto.either(twice(x.where(lambda value: False)), twice(x))

    assert call(p, "a") == "aa"


# ---------------------------------------------------------------- merge


def test_merge_puts_one_after_the_other() -> None:
    @pipeline
    def p(x: str):
        both = alto.merge(split(x), twice(x), split(split(x)))
        return {"both": both, "joined": joined(both), "each": twice(both)}

    assert call(p, "")["joined"] == "0,1,,00,01,10,11"
    paths = [e.path for e in events_of(p, "") if e.output == "both"]
    assert sorted(paths) == [(0, 0), (0, 1), (1,), (2, 0, 0), (2, 0, 1), (2, 1, 0), (2, 1, 1)]


def test_merge_of_roots_opens_a_level_under_the_request() -> None:
    @pipeline
    def p(x: str, y: str):
        return {"both": alto.merge(x, y), "pairs": pair(x, alto.merge(x, y))}

    assert call(p, "a", "b") == {"both": ["a", "b"], "pairs": ["a-a", "a-b"]}
    paths = [(e.path, e.value) for e in events_of(p, "a", "b") if e.output == "both"]
    assert paths == [((0,), "a"), ((1,), "b")]


def test_merge_below_an_item_joins_with_that_item() -> None:
    @pipeline
    def p(x: str):
        items = split(x)
        both = alto.merge(split(items), none(items), split(split(items)))
        return {"each": under(items, both), "broadcast": pair(items, both)}

    result = call(p, "")
    assert result["each"] == ["0:00,01,000,001,010,011", "1:10,11,100,101,110,111"]
    assert result["broadcast"][:3] == ["0-00", "0-01", "0-000"]


def test_merge_of_one_level_goes_to_its_parent() -> None:
    @pipeline
    def p(x: str):
        items = split(x)
        both = alto.merge(items, twice(items))
        return {"both": both, "count": counted(both)}

    assert call(p, "a") == {"both": ["a0", "a1", "a0a0", "a1a1"], "count": 4}
    paths = [e.path for e in events_of(p, "a") if e.output == "both"]
    assert sorted(paths) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_merge_of_a_flow_with_itself() -> None:
    @pipeline
    def p(x: str):
        items = split(x)
        return twice(alto.merge(items, items))

    assert call(p, "a") == ["a0a0", "a1a1"] * 2
    assert {e.path for e in events_of(p, "a")} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_merge_leaves_out_what_is_absent() -> None:
    @pipeline
    def p(x: str):
        return joined(alto.merge(x.where(lambda value: False), split(x).where(lambda i: i == "1")))

    assert call(p, "") == "1"


# ---------------------------------------------------------------- reconvergence


def test_one_fan_out_read_by_two_consumers_one_after_the_other() -> None:
    async def many(x: int) -> AsyncIterator[int]:
        for k in range(5000):
            yield k

    @stage
    async def first(items: Stream[int]) -> int:
        return sum([item async for item in items])

    @stage
    async def second(total: int, items: Stream[int]) -> int:
        return total + sum([item async for item in items])

    numbers = stage(many)

    @pipeline
    def p(x: int):
        items = numbers(x)
        return second(first(items), items)

    assert call(p, 0) == 2 * sum(range(5000))


def test_an_unread_branch_beside_a_live_one() -> None:
    @stage
    async def many(x: int) -> AsyncIterator[int]:
        for k in range(5000):
            yield k

    @stage
    async def unread(x: int, items: Stream[int]) -> str:
        return "did not look"

    @stage
    async def read(items: Stream[int]) -> int:
        return len([item async for item in items])

    @pipeline
    def p(x: int):
        items = many(x)
        return {"unread": unread(x, items), "read": read(items)}

    assert call(p, 0) == {"unread": "did not look", "read": 5000}


def test_two_streams_read_in_the_other_order() -> None:
    @stage
    async def many(x: int) -> AsyncIterator[int]:
        for k in range(3000):
            yield k

    @stage
    async def even(x: int) -> int:
        return x * 2

    @stage
    async def later_first(a: Stream[int], b: Stream[int]) -> int:
        last = [item async for item in b][-1]
        return last - [item async for item in a][-1]

    @pipeline
    def p(x: int):
        items = many(x)
        return later_first(items, even(items))

    assert call(p, 0) == 2999


def test_a_graph_without_outputs_that_are_wanted_is_still_answered() -> None:
    @pipeline
    def p(x: str, y: str):
        return {"y": y, "x": x, "same": x}

    assert call(p, "a", "b") == {"y": "b", "x": "a", "same": "a"}
