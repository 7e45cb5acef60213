"""The priority of a request, from the caller to its LM calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest
from leaks import on_virtual_time, watched

import alto
from alto import Delta, lm, pipeline, stage


@dataclass
class Noting:
    """An engine that notes what it is asked."""

    calls: list[alto.Call] = field(default_factory=list)

    def open(self, name: str) -> Noting:
        return self

    async def stream(self, call: alto.Call) -> AsyncGenerator[Delta, None]:
        self.calls.append(call)
        yield Delta("yes", finish_reason="stop")

    async def aclose(self) -> None:
        pass


@lm(engine="chat")
def say(word: str) -> str:
    return word


@stage
async def think(word: str) -> str:
    return await alto.engine("chat").complete(word)


@pipeline
def both(word: str) -> dict[str, Any]:
    return {"said": say(word), "thought": think(word)}


def test_every_call_of_a_request_has_its_priority() -> None:
    engine = Noting()
    config = alto.Config(engines={"chat": engine})

    async def main() -> None:
        async with watched(config) as runtime:
            await runtime.call(both, "tea", priority=2)
            await runtime.start(both, "tea", priority=-1).result()
            async for _ in runtime.stream(both, "tea"):
                pass

    on_virtual_time(main)
    assert [call.priority for call in engine.calls] == [2, 2, -1, -1, 0, 0]
    engine.calls.clear()
    alto.run(both, "tea", config=config, priority=3)
    assert [call.priority for call in engine.calls] == [3, 3]


@pytest.mark.parametrize("priority", [1.5, True, "high"])
def test_a_priority_is_a_whole_number(priority: Any) -> None:
    with pytest.raises(
        alto.ConfigError, match=r"pipeline both: priority is .*, expected a whole num"
    ):
        alto.run(both, "tea", config=alto.Config(engines={"chat": Noting()}), priority=priority)
