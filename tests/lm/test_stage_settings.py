"""What a deployment changes about an LM stage."""

from __future__ import annotations

import pytest

import alto
from alto import StageConfig, lm, pipeline, stage


@lm(engine="chat", model="own", max_tokens=100, temperature=0.5)
def answer(question: str) -> str:
    return question


@lm(engine="chat")
def judge(text: str) -> str:
    return text


@stage
def count(text: str) -> int:
    return len(text)


@pipeline
def asking(question: str):  # type: ignore[no-untyped-def]
    return judge(answer(question))


@pipeline
def counting(question: str):  # type: ignore[no-untyped-def]
    return count(answer(question))


def asked(**stages: StageConfig) -> dict[str, tuple[object, ...]]:
    """How each stage called which engine."""
    seen = {}

    def engine(name: str) -> alto.Simulated:
        def respond(call: alto.Call) -> str:
            seen[call.stage] = (name, call.model, call.max_tokens, call.temperature)
            return "yes"

        return alto.Simulated(respond=respond)

    engines = {name: engine(name) for name in ("chat", "backup")}
    assert alto.run(asking, "?", config=alto.Config(engines=engines, stages=stages)) == "yes"
    return seen


def test_a_stage_keeps_what_is_not_changed() -> None:
    own = {"answer": ("chat", "own", 100, 0.5), "judge": ("chat", None, None, None)}
    assert asked() == own
    assert asked(answer=StageConfig(), other=StageConfig(model="x")) == own


def test_a_deployment_changes_engine_model_and_sampling() -> None:
    changed = StageConfig(engine="backup", model="large", max_tokens=7, temperature=0.0)
    assert asked(judge=changed, answer=StageConfig(model="small")) == {
        "answer": ("chat", "small", 100, 0.5),
        "judge": ("backup", "large", 7, 0.0),
    }


def test_a_changed_engine_must_be_configured() -> None:
    config = alto.Config(
        engines={"chat": alto.Simulated()}, stages={"judge": StageConfig(engine=["chat", "chta"])}
    )
    with pytest.raises(alto.ConfigError, match=r"stage judge: engine 'chta' is not.*'chat'"):
        alto.run(asking, "?", config=config)


def test_only_lm_stages_have_these_settings() -> None:
    config = alto.Config(
        engines={"chat": alto.Simulated()},
        stages={"count": StageConfig(model="large", max_tokens=3, instances=2)},
    )
    with pytest.raises(alto.ConfigError) as raised:
        alto.run(counting, "?", config=config)
    assert str(raised.value) == (
        "pipeline counting, stage count: [stages.count] sets model and max_tokens, and it is no "
        "@lm stage. Take that out, or name the @lm stage that is meant."
    )
