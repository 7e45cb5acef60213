"""A pipeline inside a pipeline: like a stage, with its own idea of the request.

Inside, the request is one invocation: its root is the path of the deepest item argument, and the
levels of its outputs append below.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import alto
from alto import Stream, pipeline, stage
from alto.testing.loop import run as run_virtually


def call(flow: Any, *args: Any, **kwargs: Any) -> Any:
    async def main() -> Any:
        async with alto.Runtime() as runtime:
            return await runtime.call(flow, *args, **kwargs)

    return run_virtually(main())


def paths_of(flow: Any, *args: Any) -> dict[str, list[tuple[int, ...]]]:
    async def main() -> dict[str, list[tuple[int, ...]]]:
        found: dict[str, list[tuple[int, ...]]] = {}
        async with alto.Runtime() as runtime:
            async for event in runtime.stream(flow, *args):
                found.setdefault(event.output, []).append(event.path)
        return found

    return run_virtually(main())


@stage
async def split(x: str) -> AsyncIterator[str]:
    yield x + "0"
    yield x + "1"


@stage
async def upper(x: str) -> str:
    return x.upper()


@stage
async def join(items: Stream[str]) -> str:
    return ",".join([item async for item in items])


@stage
async def pair(a: str, b: str) -> str:
    return f"{a}-{b}"


@pipeline
def check(sentence: str):
    words = split(sentence)
    return {"words": upper(words), "all": join(words)}


def test_it_runs_once_for_each_item() -> None:
    @pipeline
    def p(x: str):
        found = check(split(x))
        return {"words": found["words"], "all": found["all"]}

    assert call(p, "a") == {
        "words": ["A00", "A01", "A10", "A11"],
        "all": ["a00,a01", "a10,a11"],
    }
    assert paths_of(p, "a")["words"] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_it_runs_alone_just_as_well() -> None:
    assert call(check, "a") == {"words": ["A0", "A1"], "all": "a0,a1"}


def test_a_single_flow_is_returned_as_it_is() -> None:
    @pipeline
    def shout(x: str):
        return upper(x)

    @pipeline
    def p(x: str):
        return join(shout(split(x)))

    assert call(p, "a") == "A0,A1"


def test_outputs_that_nobody_uses_do_not_run() -> None:
    ran: list[str] = []

    @stage
    async def costly(x: str) -> str:
        ran.append(x)
        return x

    @pipeline
    def inner(x: str):
        return {"cheap": upper(x), "costly": upper(costly(x))}

    @pipeline
    def p(x: str):
        return inner(x)["cheap"]

    assert call(p, "a") == "A"
    assert ran == []
    assert [use.name for use in p.graph.uses] == ["upper"]


def test_constants_and_defaults() -> None:
    @pipeline
    def inner(x: str, y: str = "default", *, z: str = "z"):
        return pair(pair(x, y), z)

    @pipeline
    def p(x: str):
        return {"one": inner(x), "two": inner(split(x), "constant"), "three": inner(x, z=x)}

    assert call(p, "a") == {
        "one": "a-default-z",
        "two": ["a0-constant-z", "a1-constant-z"],
        "three": "a-default-a",
    }


def test_its_root_is_the_deepest_item_argument() -> None:
    @pipeline
    def inner(x: str, y: str):
        return {"x": join(split(x)), "y": join(split(y)), "pair": pair(x, y)}

    @pipeline
    def p(x: str):
        return inner(x, split(x))

    assert call(p, "a") == {
        "x": ["a0,a1", "a0,a1"],
        "y": ["a00,a01", "a10,a11"],
        "pair": ["a-a0", "a-a1"],
    }
    assert paths_of(p, "a") == {"x": [(0,), (1,)], "y": [(0,), (1,)], "pair": [(0,), (1,)]}


def test_it_does_not_happen_where_an_argument_is_missing() -> None:
    @stage
    async def config() -> str:
        return "c"

    @pipeline
    def inner(x: str, y: str):
        return {"x": upper(x), "none": config(), "both": pair(x, y)}

    @pipeline
    def p(x: str):
        items = split(x)
        return inner(items, upper(items.where(lambda item: item.endswith("1"))))

    assert call(p, "a") == {"x": ["A1"], "none": ["c"], "both": ["a1-A1"]}


def test_a_stage_without_arguments_runs_once_for_each_invocation() -> None:
    ran: list[tuple[int, ...]] = []

    @stage
    async def config() -> str:
        ran.append(alto.current().path)
        return "c"

    @pipeline
    def inner(x: str):
        return pair(x, config())

    @pipeline
    def p(x: str):
        return inner(split(x))

    assert call(p, "a") == ["a0-c", "a1-c"]
    assert sorted(ran) == [(0,), (1,)]


def test_a_merge_inside_does_not_reach_above_it() -> None:
    @pipeline
    def inner(x: str):
        both = alto.merge(x, upper(x))
        return {"both": both, "joined": join(both)}

    @pipeline
    def p(x: str):
        return inner(split(x))

    assert call(p, "a") == {"both": ["a0", "A0", "a1", "A1"], "joined": ["a0,A0", "a1,A1"]}
    assert sorted(paths_of(p, "a")["both"]) == [(0, 0), (0, 1), (1, 0), (1, 1)]


# ---------------------------------------------------------------- Stream parameters


@pipeline
def summary(topic: str, items: Stream[str]):
    return {"each": upper(items), "all": pair(topic, join(items))}


def test_a_stream_parameter_alone_takes_a_list() -> None:
    assert call(summary, "t", ["a", "b"]) == {"each": ["A", "B"], "all": "t-a,b"}
    assert paths_of(summary, "t", ["a", "b"])["each"] == [(0,), (1,)]


def test_a_stream_parameter_brings_what_lies_below() -> None:
    @pipeline
    def p(x: str):
        sentences = split(x)
        return summary(sentences, split(sentences))

    assert call(p, "a") == {
        "each": ["A00", "A01", "A10", "A11"],
        "all": ["a0-a00,a01", "a1-a10,a11"],
    }
    assert paths_of(p, "a")["each"] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_stream_parameter_may_be_a_constant() -> None:
    @pipeline
    def p(x: str):
        return summary(split(x), ["u", "v"])

    assert call(p, "a") == {"each": ["U", "V", "U", "V"], "all": ["a0-u,v", "a1-u,v"]}


def test_a_stream_parameter_without_items_belongs_to_the_request() -> None:
    @pipeline
    def inner(items: Stream[str]):
        return join(upper(items))

    @pipeline
    def p(x: str):
        return inner(split(split(x)))

    assert call(p, "") == "00,01,10,11"


def test_what_comes_from_a_stream_alone_is_absent_where_it_is_not_invoked() -> None:
    @pipeline
    def inner(x: str, items: Stream[str]):
        kept = items.where(lambda item: True)
        return {"kept": kept, "upper": upper(items), "merged": alto.merge(items, kept)}

    @pipeline
    def p(x: str):
        sentences = split(x)
        some = sentences.where(lambda item: item.endswith("1"))
        return inner(some, split(sentences))

    assert call(p, "a") == {
        "kept": ["a10", "a11"],
        "upper": ["A10", "A11"],
        "merged": ["a10", "a11", "a10", "a11"],
    }


def test_a_sibling_as_a_stream_is_told_at_once() -> None:
    with pytest.raises(alto.GraphError) as caught:

        @pipeline
        def p(x: str):
            return summary(split(x), split(x))

    assert caught.value.problems[0] == (
        "pipeline p, pipeline summary, parameter items: it gathers split#2, which does not lie "
        "below topic (from split), the item that summary runs for. Take split#2 as an item, or "
        "gather something derived from topic (from split)."
    )


# ---------------------------------------------------------------- deeper


def test_three_deep() -> None:
    @pipeline
    def inner(x: str):
        return upper(split(x))

    @pipeline
    def middle(x: str):
        return {"all": join(inner(split(x))), "each": inner(x)}

    @pipeline
    def p(x: str):
        return middle(split(x))

    assert call(p, "") == {
        "all": ["000,001,010,011", "100,101,110,111"],
        "each": ["00", "01", "10", "11"],
    }


def test_the_same_pipeline_twice() -> None:
    @pipeline
    def shout(x: str):
        return upper(split(x))

    @pipeline
    def p(x: str):
        return shout(shout(x))

    assert call(p, "a") == ["A00", "A01", "A10", "A11"]


def test_an_inner_failure_names_the_stage_and_the_path() -> None:
    @stage
    async def broken(x: str) -> str:
        if x == "a1":
            raise ValueError(x)
        return x

    @pipeline
    def inner(x: str):
        return broken(x)

    @pipeline
    def p(x: str):
        return inner(split(x))

    with pytest.raises(alto.StageError, match=r"pipeline p, stage broken at \(1,\)"):
        call(p, "a")


def test_inner_stages_stream_into_outer_ones() -> None:
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
    def inner(x: str):
        return upper(ticks(x))

    @pipeline
    def p(x: str):
        return watch(inner(x))

    assert call(p, "a") == 3
    assert seen == [(1, "A0"), (2, "A1"), (3, "A2")]
