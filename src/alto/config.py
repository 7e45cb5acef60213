"""What a runtime needs to know besides the pipeline: engines, stages, limits.

In Python a `Config` holds engines as values (`alto.OpenAI(...)`, `alto.Simulated(...)`);
`Config.load` reads the same from `alto.toml` and the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .core.calls import mistake
from .core.execution import Limits
from .engines.protocol import EngineSpec
from .errors import ConfigError
from .settings import duration, flag, whole
from .stages import LM, names_of


@dataclass(frozen=True, slots=True)
class StageConfig:
    """`[stages.NAME]`: what a deployment changes about a stage. None keeps its own value.

    `engine` (a name, or several), `model`, `max_tokens` and `temperature` are for LM stages.
    """

    instances: int | None = None
    max_concurrency: int | None = None
    batch: int | None = None
    max_wait: float | None = None
    init: Mapping[str, Any] = field(default_factory=dict)
    engine: str | Sequence[str] | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        for name in ("instances", "max_concurrency", "batch"):
            if getattr(self, name) is not None:
                whole(f"StageConfig: {name}", getattr(self, name), 1)
        object.__setattr__(self, "max_wait", duration("StageConfig: max_wait", self.max_wait))
        if not isinstance(self.init, Mapping):
            raise ConfigError(
                f"StageConfig: init is {self.init!r}, expected a dict of arguments for __init__."
            )
        if self.engine is not None:
            names = names_of(self.engine)
            if not names:
                raise ConfigError(
                    f"StageConfig: engine is {self.engine!r}, expected the name of an engine, or a "
                    "list of names."
                )
            object.__setattr__(self, "engine", names)
        wrong = mistake({name: getattr(self, name) for name in LM_SETTINGS})
        if wrong is not None:
            raise ConfigError(f"StageConfig: {wrong}")

    @property
    def for_lm(self) -> list[str]:
        """The settings here that only LM stages have."""
        return [name for name in LM_SETTINGS if getattr(self, name) is not None]


LM_SETTINGS = ("engine", "model", "max_tokens", "temperature")


def _named(what: str, given: Any, kind: type, example: str) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"Config: {what} is {given!r}, expected a dict of names and values.")
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, kind) or isinstance(value, type):
            raise ConfigError(f"Config: {what}[{name!r}] is {value!r}, expected {example}.")


@dataclass(frozen=True, slots=True)
class Config:
    """A runtime's configuration.

    `engines` maps the names that stages use to engines; `stages` changes stages by name; `limits`
    bounds each request; `timeout` is the default time of a request in seconds, `token_budget` what
    its LM calls may spend by default. `shed`: under overload, requests that will not make their
    deadline are refused early with `Overloaded`. `seed` seeds every choice by chance.
    """

    engines: Mapping[str, EngineSpec] = field(default_factory=dict)
    stages: Mapping[str, StageConfig] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    timeout: float | None = None
    token_budget: int | None = None
    shed: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        _named("engines", self.engines, EngineSpec, "alto.OpenAI(...) or alto.Simulated(...)")
        _named("stages", self.stages, StageConfig, "alto.StageConfig(...)")
        if not isinstance(self.limits, Limits):
            raise ConfigError(f"Config: limits is {self.limits!r}, expected alto.Limits(...).")
        object.__setattr__(self, "timeout", duration("Config: timeout", self.timeout))
        if self.token_budget is not None:
            whole("Config: token_budget", self.token_budget, 1)
        flag("Config: shed", self.shed)
        whole("Config: seed", self.seed, None)

    def engines_of(self, stage: LM[Any, Any]) -> tuple[str, ...]:
        """The names of the engines that a stage uses here: the next one when one fails."""
        changed = self.stages.get(stage.name)
        return stage.engines if changed is None or changed.engine is None else tuple(changed.engine)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Config:
        """Read `alto.toml` and the environment (`ALTO_SECTION__KEY`).

        Without a path: the file that `ALTO_CONFIG` names, else `alto.toml` in the working
        directory if there is one. Raises `ConfigError`, with the nearest valid key for a wrong one.
        """
        from .config_file import load

        if path is None:
            path = os.environ.get("ALTO_CONFIG") or (
                "alto.toml" if Path("alto.toml").is_file() else None
            )
        return load(path, os.environ)
