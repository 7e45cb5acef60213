"""The compiled form against the interpreted one. Runs where the compiled form is on the path:
`make test-compiled`."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import native  # noqa: E402

REPORTS = """
import json
from dataclasses import asdict
from alto import Config, Sentence, Simulated, Stream, lm, pipeline, stage
from alto.cli import form
from alto.simulation import Poisson, simulate
from alto.values import to_jsonable

@lm(engine="chat")
def answer(question: str) -> Stream[Sentence]:
    return f"Answer {question}."

@lm(engine="chat")
def judge(sentence: Sentence) -> str:
    return f"Judge {sentence}"

@stage
async def tally(verdicts: list[str]) -> int:
    return len(verdicts)

@pipeline
def check(question: str):
    return tally(judge(answer(question)))

config = Config(engines={"chat": Simulated()}, seed=7)
questions = [f"Why {n}?" for n in range(50)]
arrivals = Poisson(rate=6.0, seed=7)
report = simulate(check, questions, arrivals=arrivals, duration=10.0, config=config)
print(form())
print(json.dumps(to_jsonable(asdict(report)), sort_keys=True))
"""


@pytest.mark.parametrize("name", native.MODULES)
def test_every_listed_module_is_the_compiled_one(name: str) -> None:
    module = importlib.import_module("alto." + name.removesuffix(".py").replace("/", "."))
    assert not str(module.__file__).endswith(".py")


def test_the_same_seed_gives_the_same_simulation() -> None:
    def told(path: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", REPORTS],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    here, there = told(os.environ["PYTHONPATH"]), told(str(ROOT / "src"))
    assert (here[0], there[0]) == ("compiled", "interpreted")
    assert len(here[1]) > 200 and here[1:] == there[1:]
