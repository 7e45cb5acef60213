"""Items that are passed on before their producer is over, and what happens when it changes its mind.

A producer that fails half-way is run again. What it says the second time is compared with the first:
equal items keep the work that was done for them, different ones replace it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import alto
from alto import AsCompleted, Stream, pipeline, stage
from alto.testing.loop import run as run_virtually


@dataclass
class World:
    """What the attempts of `writes` give, and the stages that watch them. `None` is a failure."""

    attempts: list[list[str | None]]
    worked: list[str] = field(default_factory=list)
    read: list[list[str]] = field(default_factory=list)
    tick: float = 1.0

    def writes(self, **options: Any) -> Any:
        @stage(name="writes", retries=len(self.attempts), backoff=0, **options)
        async def writes(x: str) -> AsyncIterator[str]:
            for item in self.attempts[min(alto.current().attempt, len(self.attempts)) - 1]:
                await asyncio.sleep(self.tick)
                if item is None:
                    raise ConnectionError("lost")
                yield item

        return writes

    def works(self) -> Any:
        @stage(name="works")
        async def works(item: str) -> str:
            self.worked.append(item)
            await asyncio.sleep(0.1)
            return item.upper()

        return works

    def reads(self) -> Any:
        @stage(name="reads")
        async def reads(items: Stream[str]) -> str:
            mine: list[str] = []
            self.read.append(mine)
            async for item in items:
                mine.append(item)
            return ",".join(mine)

        return reads


def first_of() -> Any:
    @stage(name="first")
    async def first(items: Stream[str]) -> str:
        async for item in items:
            return item
        return "nothing"

    return first


def slowly() -> Any:
    @stage(name="slow")
    async def slow(x: str) -> str:
        await asyncio.sleep(10)
        return "slow"

    return slow


def call(flow: Any, *args: Any) -> Any:
    async def main() -> Any:
        async with alto.Runtime() as runtime:
            return await runtime.call(flow, *args)

    return run_virtually(main())


def events_of(flow: Any, *args: Any, **options: Any) -> list[alto.Event]:
    async def main() -> list[alto.Event]:
        async with alto.Runtime() as runtime:
            return [event async for event in runtime.stream(flow, *args, **options)]

    return run_virtually(main())


def told(events: list[alto.Event], output: str = "result") -> list[Any]:
    """Each event as `(path, value)`, with what became of it before."""
    found: list[Any] = []
    for event in events:
        if event.output == output:
            change = ("revised",) * event.revised + ("withdrawn",) * event.withdrawn
            found.append((event.path, event.value, *change))
    return found


ATTEMPTS = {
    "equal": [["a", "b", None], ["a", "b"]],
    "longer": [["a", None], ["a", "b", "c"]],
    "shorter": [["a", "b", "c", None], ["a"]],
    "changed in the middle": [["a", "b", "c", None], ["a", "x", "c"]],
    "changed at the start": [["a", "b", None], ["x", "b"]],
    "empty": [["a", "b", None], []],
    "empty at first": [[None], ["a", "b"]],
    "three attempts": [["a", "b", None], ["a", "x", "y", None], ["a", "b", "y"]],
}


@pytest.mark.parametrize("attempts", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_call_returns_what_the_last_attempt_gave(attempts: list[list[str | None]]) -> None:
    world = World(attempts)
    writes, works, reads = world.writes(), world.works(), world.reads()

    @stage
    async def unordered(items: AsCompleted[str]) -> list[str]:
        return sorted([item async for item in items])

    @stage
    async def listed(items: list[str]) -> list[str]:
        return items

    @stage
    async def letters(item: str) -> AsyncIterator[str]:
        yield item
        yield item

    @stage
    async def beside(x: str, item: str, all_: Stream[str]) -> str:
        return f"{x}{item}:" + "".join([i async for i in all_])

    @pipeline
    def p(x: str):
        items = writes(x)
        worked = works(items)
        below = letters(worked)
        return {
            "items": items,
            "worked": worked,
            "read": reads(worked),
            "unordered": unordered(worked),
            "listed": listed(worked),
            "below": below,
            "deep": reads(below),
            "joined": beside(x, worked, below),
            "merged": listed(alto.merge(worked, x, items)),
            "either": alto.either(worked.where(lambda i: i != "B"), items),
        }

    final = [item for item in attempts[-1] if item is not None]
    upper = [item.upper() for item in final]
    twice = [item for item in upper for _ in range(2)]
    assert call(p, "q") == {
        "items": final,
        "worked": upper,
        "read": ",".join(upper),
        "unordered": sorted(upper),
        "listed": upper,
        "below": twice,
        "deep": ",".join(twice),
        "joined": [f"q{item}:{item}{item}" for item in upper],
        "merged": [*upper, "q", *final],
        "either": ["b" if item == "B" else item for item in upper],
    }


@pytest.mark.parametrize("attempts", ATTEMPTS.values(), ids=ATTEMPTS.keys())
@pytest.mark.parametrize("delivery", ["provisional", "committed"])
def test_replayed_events_are_what_call_returns(
    attempts: list[list[str | None]], delivery: str
) -> None:
    world = World(attempts)
    writes, works, reads = world.writes(), world.works(), world.reads()

    @pipeline
    def p(x: str):
        worked = works(writes(x))
        return {"worked": worked, "read": reads(worked)}

    known: dict[Any, Any] = {}
    for event in events_of(p, "q", delivery=delivery):
        key = (event.output, event.path)
        assert (key in known) == (event.revised or event.withdrawn), "nothing is given twice"
        assert not (event.revised and known[key] == event.value)
        assert delivery == "provisional" or key not in known
        known[key] = event.value
        if event.withdrawn:
            del known[key]
    final = [item.upper() for item in attempts[-1] if item is not None]
    expected: dict[Any, Any] = {("worked", (k,)): item for k, item in enumerate(final)}
    assert known == expected | {("read", ()): ",".join(final)}


def test_the_equal_prefix_keeps_its_work() -> None:
    world = World([["a", "b", "c", None], ["a", "b", "x", "d"]])
    writes, works, reads = world.writes(), world.works(), world.reads()

    @pipeline
    def p(x: str):
        return reads(works(writes(x)))

    assert call(p, "q") == "A,B,X,D"
    assert world.worked == ["a", "b", "c", "x", "d"]


def test_a_session_that_read_nothing_wrong_reads_on() -> None:
    world = World([["a", "b", None], ["a", "b", "c"]])
    writes, reads = world.writes(), world.reads()

    @pipeline
    def p(x: str):
        return reads(writes(x))

    assert call(p, "q") == "a,b,c"
    assert world.read == [["a", "b", "c"]]


def test_a_session_that_read_a_changed_item_starts_over() -> None:
    world = World([["a", "b", None], ["a", "x", "c"]])
    writes, reads = world.writes(), world.reads()

    @pipeline
    def p(x: str):
        return reads(writes(x))

    assert call(p, "q") == "a,x,c"
    assert world.read == [["a", "b"], ["a", "x", "c"]]


def test_a_session_that_is_run_again_reads_in_the_order_in_which_it_was_given() -> None:
    orders: list[list[str]] = []

    @stage
    async def slow(x: str) -> str:
        await asyncio.sleep(5 - int(x))
        return x

    @stage
    async def numbers(x: str) -> AsyncIterator[str]:
        for k in range(5):
            yield str(k)

    @stage(retries=1, backoff=0)
    async def gather(items: AsCompleted[str]) -> str:
        mine: list[str] = []
        orders.append(mine)
        async for item in items:
            mine.append(item)
            if len(mine) == 3 and alto.current().attempt == 1:
                raise ConnectionError("lost")
        return "".join(mine)

    @pipeline
    def p(x: str):
        return gather(slow(numbers(x)))

    assert call(p, "q") == "43210"
    assert orders == [["4", "3", "2"], ["4", "3", "2", "1", "0"]]


def test_a_value_that_changes_is_completed_once() -> None:
    world = World([["a", "b", None], ["x", "b"]])
    writes = world.writes()

    @stage
    async def fan(x: str) -> AsyncIterator[str]:
        yield x

    @stage
    async def first(x: str, items: Stream[str]) -> str:
        async for item in items:
            return item
        return "nothing"

    @stage
    async def gather(items: AsCompleted[str]) -> list[str]:
        return [item async for item in items]

    @pipeline
    def p(x: str):
        place = fan(x)
        items = writes(place)
        return {"items": items, "gather": gather(first(place, items))}

    assert call(p, "q") == {"items": ["x", "b"], "gather": ["x"]}


def test_a_client_hears_of_what_changed_and_of_nothing_else() -> None:
    world = World([["a", "b", "c", "d", None], ["a", "x", "c"]])
    writes = world.writes()

    @pipeline
    def p(x: str):
        return writes(x)

    assert told(events_of(p, "q")) == [
        ((0,), "a"),
        ((1,), "b"),
        ((2,), "c"),
        ((3,), "d"),
        ((1,), "x", "revised"),
        ((3,), None, "withdrawn"),
    ]


def test_committed_delivery_to_a_client_waits_for_the_producer() -> None:
    world = World([["a", "b", None], ["a", "x"]])
    writes = world.writes()

    @pipeline
    def p(x: str):
        return writes(x)

    assert told(events_of(p, "q", delivery="committed")) == [((0,), "a"), ((1,), "x")]


def test_a_committed_stage_passes_nothing_on_before_it_has_closed() -> None:
    world = World([["a", "b", None], ["a", "x"]])
    writes, works, reads = world.writes(delivery="committed"), world.works(), world.reads()

    @pipeline
    def p(x: str):
        return reads(works(writes(x)))

    assert call(p, "q") == "A,X"
    assert world.worked == ["a", "x"]
    assert world.read == [["A", "X"]]


def test_work_for_an_item_that_is_taken_back_is_cancelled() -> None:
    world = World([["a", "b", None], ["a", "x"]], tick=0.1)
    writes = world.writes()
    ended: list[str] = []

    @stage
    async def works(item: str) -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            ended.append(item)
            raise
        return item

    @pipeline
    def p(x: str):
        return works(writes(x))

    assert call(p, "q") == ["a", "x"]
    assert ended == ["b"]


def test_a_session_content_with_a_first_item_that_changes_runs_again() -> None:
    world = World([["a", "b", None], ["x", "b"]])
    writes, works = world.writes(), world.works()

    @stage
    async def first(items: Stream[str]) -> str:
        async for item in items:
            return item
        return "nothing"

    @pipeline
    def p(x: str):
        items = writes(x)
        return {"first": first(items), "all": works(items)}

    assert call(p, "q") == {"first": "x", "all": ["X", "B"]}


def test_a_stage_that_was_dropped_runs_again_when_its_input_changes() -> None:
    world = World([["bad", "b", None], ["good", "b"]])
    writes = world.writes()

    @stage(on_error="drop")
    async def echo(items: Stream[str]) -> AsyncIterator[str]:
        async for item in items:
            if item == "bad":
                raise ValueError(item)
            yield item

    @pipeline
    def p(x: str):
        items = writes(x)
        return {"echo": echo(items), "items": items}

    assert call(p, "q") == {"echo": ["good", "b"], "items": ["good", "b"]}


def test_a_walk_through_a_merge_is_walked_again() -> None:
    world = World([["1", "2", None], ["1", "3"]])
    writes = world.writes()

    @stage
    async def fan(x: str) -> AsyncIterator[str]:
        yield x + "0"
        yield x + "1"

    @pipeline
    def p(x: str):
        return writes(alto.merge(fan(x), fan(x)))

    assert call(p, "q") == ["1", "3"] * 4


def test_a_value_that_stands_for_nothing_any_more_reaches_no_join() -> None:
    world = World([["a", "b", "c", None], ["a"]])
    writes, works = world.writes(), world.works()

    @stage
    async def pair(item: str, worked: str) -> str:
        return f"{item}{worked}"

    @pipeline
    def p(x: str):
        items = writes(x)
        return pair(items, works(items))

    assert told(events_of(p, "q"))[-2:] == [((1,), None, "withdrawn"), ((2,), None, "withdrawn")]
    assert call(p, "q") == ["aA"]


@pytest.mark.parametrize("attempts", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_what_is_held_no_longer_cannot_be_run_again(attempts: list[list[str | None]]) -> None:
    world = World(attempts)
    writes, works, reads = world.writes(), world.works(), world.reads()

    @pipeline
    def p(x: str):
        worked = works(writes(x))
        return {"read": reads(worked), "worked": worked}

    async def main() -> Any:
        config = alto.Config(limits=alto.Limits(replay_bytes=0))
        async with alto.Runtime(config) as runtime:
            return await runtime.call(p, "q")

    if attempts in (ATTEMPTS["empty"], ATTEMPTS["empty at first"]):  # nothing has to be compared
        assert run_virtually(main())["worked"] == [str(item).upper() for item in attempts[-1]]
        return
    with pytest.raises(alto.StageError) as caught:
        run_virtually(main())
    assert "is no longer held (replay_bytes=0). Raise [limits] replay_bytes" in str(caught.value)


def test_a_committed_item_is_held_while_anything_that_it_came_from_may_change() -> None:
    world = World([["a", "b", None], ["x", "b"]])
    writes = world.writes()

    @stage
    async def first(items: Stream[str]) -> str:
        async for item in items:
            return item
        return "nothing"

    @stage
    async def echo(item: str) -> AsyncIterator[str]:
        yield item

    @pipeline
    def p(x: str):
        items = writes(x)
        return {"first": first(items), "below": echo(first(items)), "items": items}

    events = events_of(p, "q", delivery="committed")
    assert told(events, "first") == [((), "x")]
    assert told(events, "below") == [((0,), "x")]


def test_a_reader_that_is_content_does_not_wait_for_a_producer_nobody_else_reads() -> None:
    world = World([["a", "b", None], ["x", "b"]])
    writes = world.writes()

    @stage(delivery="committed")
    async def first(items: Stream[str]) -> str:
        async for item in items:
            return item
        return "nothing"

    @pipeline
    def p(x: str):
        return first(writes(x))

    assert told(events_of(p, "q", delivery="committed")) == [((), "a")]


@pytest.mark.parametrize("on_error", ["drop", alto.Default(["?"])], ids=["drop", "default"])
@pytest.mark.parametrize("again", [["x", "b", "c"], ["a", "x"], [], ["a", "b", "c"]])
def test_a_committed_stage_that_gives_up_on_what_may_change_waits_for_it(
    on_error: Any, again: list[str | None]
) -> None:
    world = World([["a", "b", None], again])
    writes = world.writes()

    @stage(delivery="committed", on_error=on_error)
    async def echo(items: Stream[str]) -> AsyncIterator[str]:
        async for item in items:
            yield item
            if item == "b":
                raise ValueError(item)

    @stage(delivery="committed", on_error="drop" if on_error == "drop" else alto.Default("?"))
    async def check(item: str) -> str:
        if item == "b":
            raise ValueError(item)
        return item

    @pipeline
    def p(x: str):
        items = writes(x)
        return {"echo": echo(items), "check": check(items), "items": items}

    events = events_of(p, "q")
    stands_in = [] if on_error == "drop" else ["?"]
    echoed = [*again[: again.index("b") + 1], *stands_in] if "b" in again else again
    assert told(events, "echo") == [((k,), item) for k, item in enumerate(echoed)]
    checked = {(k,): item for k, item in enumerate(again) if item != "b"}
    checked |= {(k,): "?" for k, item in enumerate(again) if item == "b" and stands_in}
    assert sorted(told(events, "check")) == sorted(checked.items())


def test_a_committed_item_waits_for_what_an_empty_stream_may_yet_bring() -> None:
    world = World([["a", None], ["x"]])
    writes, reads = world.writes(), world.reads()

    @stage
    async def all_but_a(items: Stream[str]) -> AsyncIterator[str]:
        async for item in items:
            if item != "a":
                yield item
            return

    @pipeline
    def p(x: str):
        items = writes(x)
        few = all_but_a(items)
        return {"read": reads(few), "merged": reads(alto.merge(x, few)), "items": items}

    events = events_of(p, "q", delivery="committed")
    assert told(events, "read") == [((), "x")]
    assert told(events, "merged") == [((), "q,x")]


def test_a_committed_stage_waits_no_longer_for_the_stream_of_an_item_that_was_taken_back() -> None:
    world = World([["a", None], ["x"]])
    writes = world.writes()

    @stage
    async def slow(item: str) -> AsyncIterator[str]:
        yield "first"
        await asyncio.sleep(10)
        yield "second"

    @stage
    async def first(items: Stream[str]) -> str:
        return await anext(aiter(items))

    @stage(delivery="committed")
    async def keeps(item: str) -> str:
        return item

    @pipeline
    def p(x: str):
        items = slow(writes(x))
        return {"kept": keeps(first(items)), "items": items}

    assert call(p, "q") == {"kept": "first", "items": ["first", "second"]}


@pytest.mark.parametrize("below", [False, True], ids=["merged", "below the merged"])
def test_a_walk_through_a_merge_goes_back_for_what_an_argument_brings_later(below: bool) -> None:
    world = World([["a", None], ["x"]])
    writes, works = world.writes(), world.works()

    @stage
    async def early(items: Stream[str]) -> AsyncIterator[str]:
        async for item in items:
            if item != "a":
                yield item
            return

    @stage
    async def late(x: str) -> str:
        await asyncio.sleep(60)
        return x

    @pipeline
    def p(x: str):
        items = writes(x)
        merged = alto.merge(x, early(items), late(x))
        return {"all": works(merged) if below else merged, "items": items}

    assert call(p, "q")["all"] == (["Q", "X", "Q"] if below else ["q", "x", "q"])


@pytest.mark.parametrize("shared", [False, True], ids=["cancelled", "under way"])
def test_an_either_waits_for_its_next_argument_when_the_chosen_one_is_taken_back(
    shared: bool,
) -> None:
    world = World([["a", None], ["x"]])
    writes, first, slow = world.writes(), first_of(), slowly()

    @pipeline
    def p(x: str):
        items, other = writes(x), slow(x)
        chosen = first(items).where(lambda item: item == "a")
        outputs = {"either": alto.either(chosen, other), "items": items}
        return outputs | {"other": other} if shared else outputs

    assert call(p, "q")["either"] == "slow"
    assert told(events_of(p, "q"), "either") == [((), "a"), ((), "slow", "revised")]
    assert told(events_of(p, "q", delivery="committed"), "either") == [((), "slow")]


def test_a_join_that_was_absent_waits_for_its_other_items_when_the_missing_one_comes() -> None:
    world = World([["a", None], ["x"]])
    writes, first, slow = world.writes(), first_of(), slowly()

    @stage
    async def pair(a: str, b: str) -> str:
        return a + b

    @stage
    async def pairs(a: str, b: str) -> AsyncIterator[str]:
        yield a + b

    @stage
    async def listed(items: list[str]) -> list[str]:
        return items

    @pipeline
    def p(x: str):
        items, other = writes(x), slow(x)
        one = first(items).where(lambda item: item != "a")
        return {"pair": pair(one, other), "listed": listed(pairs(one, other)), "items": items}

    assert call(p, "q") == {"pair": "xslow", "listed": ["xslow"], "items": ["x"]}
    events = events_of(p, "q", delivery="committed")
    assert told(events, "pair") == [((), "xslow")]
    assert told(events, "listed") == [((), ["xslow"])]


def test_a_reader_that_runs_again_keeps_the_producers_it_reads() -> None:
    world = World([["a", None], ["x"]])
    writes, works, first = world.writes(), world.works(), first_of()

    @stage
    async def numbers(x: str) -> AsyncIterator[str]:
        for number in "123":
            await asyncio.sleep(5)
            yield number

    @stage
    async def perhaps_all(items: Stream[str], more: Stream[str]) -> str:
        item = await anext(aiter(items))
        return item if item == "a" else item + "".join([number async for number in more])

    @pipeline
    def p(x: str):
        items, more = writes(x), numbers(x)
        return {"all": works(perhaps_all(items, more)), "first": first(more), "items": items}

    assert call(p, "q") == {"all": "X123", "first": "1", "items": ["x"]}


def test_a_reader_that_runs_again_and_reads_further_revives_its_producer() -> None:
    world = World([["1", None], ["3"]])
    writes, first = world.writes(), first_of()

    @stage
    async def numbers(x: str) -> AsyncIterator[str]:
        for number in "1234":
            yield number
            await asyncio.sleep(world.tick)

    @stage
    async def so_many(count: str, more: Stream[str]) -> str:
        read = ""
        async for number in more:
            read += number
            if number == count:
                break
        return read

    @pipeline
    def p(x: str):
        items = writes(x)
        return {"read": so_many(first(items), numbers(x)), "items": items}

    assert call(p, "q") == {"read": "123", "items": ["3"]}


def test_what_was_read_of_a_cancelled_producer_is_held_while_another_reader_may_revive_it() -> None:
    world = World([["a", "b", "c", None], ["x", "y"]])
    writes, first = world.writes(), first_of()

    @stage(retries=1, backoff=0)
    async def counts(x: str) -> AsyncIterator[str]:
        yield "1" if alto.current().attempt == 1 else "2"
        await asyncio.sleep(5)
        if alto.current().attempt == 1:
            raise ConnectionError("lost")

    @stage
    async def so_many(items: Stream[str], count: str) -> str:
        read: list[str] = []
        async for item in items:
            read.append(item)
            if len(read) == int(count) * 2 - 1:
                break
        return "".join(read)

    @pipeline
    def p(x: str):
        items, count = writes(x), counts(x)
        return {"first": first(items), "read": so_many(items, first(count)), "counts": count}

    assert call(p, "q") == {"first": "x", "read": "xy", "counts": ["2"]}
    events = events_of(p, "q", delivery="committed")
    assert told(events, "first") == [((), "x")]
    assert told(events, "read") == [((), "xy")]


def test_a_list_that_was_given_up_half_way_is_filled_anew() -> None:
    world = World([["a", "b", None], ["x"]])
    writes, first = world.writes(), first_of()

    @stage
    async def listed(items: list[str]) -> str:
        return ",".join(items)

    @pipeline
    def p(x: str):
        items = writes(x)
        chosen = first(items).where(lambda item: item == "a")
        return {"either": alto.either(chosen, listed(items)), "items": items}

    assert call(p, "q") == {"either": "x", "items": ["x"]}


@pytest.mark.parametrize("kind", [Stream, list], ids=["stream", "list"])
def test_what_was_cancelled_can_be_run_with_inputs_that_never_change(kind: Any) -> None:
    world = World([["a", "b", None], ["x"]], tick=3.0)
    writes, first = world.writes(), first_of()

    @stage
    async def numbers(x: str) -> AsyncIterator[str]:
        for number in "12345":
            await asyncio.sleep(1)
            yield number

    @stage
    async def streamed(items: Stream[str]) -> str:
        return ",".join([item async for item in items])

    @stage
    async def listed(items: list[str]) -> str:
        return ",".join(items)

    joined = listed if kind is list else streamed

    @pipeline
    def p(x: str):
        items, more = writes(x), numbers(x)
        chosen = first(items).where(lambda item: item == "a")
        return {"either": alto.either(chosen, joined(more)), "items": items, "more": more}

    assert call(p, "q") == {"either": "1,2,3,4,5", "items": ["x"], "more": list("12345")}


def test_an_either_that_is_decided_by_a_revision_is_told_once() -> None:
    world = World([["a", None], ["x"]])
    writes, works, first, slow = world.writes(), world.works(), first_of(), slowly()

    @pipeline
    def p(x: str):
        items = writes(x)
        chosen = first(items).where(lambda item: item != "a")
        return {"worked": works(alto.either(chosen, slow(x))), "items": items}

    assert call(p, "q") == {"worked": "X", "items": ["x"]}
    assert world.worked == ["x"]
