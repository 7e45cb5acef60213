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

from .core.execution import Limits
from .engines.protocol import EngineSpec
from .errors import ConfigError
from .stages import LM


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
        names = (self.engine,) if isinstance(self.engine, str) else self.engine
        if names is not None:
            if not names or not all(isinstance(name, str) and name for name in names):
                raise ConfigError(
                    f"StageConfig: engine is {self.engine!r}, expected the name of an engine, or a "
                    "list of names."
                )
            object.__setattr__(self, "engine", tuple(names))
        if self.model is not None and not (isinstance(self.model, str) and self.model):
            raise ConfigError(f"StageConfig: model is {self.model!r}, expected a model's name.")
        tokens, heat = self.max_tokens, self.temperature
        if tokens is not None and (type(tokens) is not int or tokens < 1):
            raise ConfigError(
                f"StageConfig: max_tokens is {tokens!r}, expected a whole number, 1 or more."
            )
        if heat is not None and (isinstance(heat, bool) or not isinstance(heat, int | float)):
            raise ConfigError(f"StageConfig: temperature is {heat!r}, expected a number.")

    @property
    def for_lm(self) -> list[str]:
        """The settings here that only LM stages have."""
        return [name for name in LM_SETTINGS if getattr(self, name) is not None]


LM_SETTINGS = ("engine", "model", "max_tokens", "temperature")


@dataclass(frozen=True, slots=True)
class Config:
    """A runtime's configuration.

    `engines` maps the names that stages use to engines; `stages` changes stages by name; `limits`
    bounds each request; `timeout` is the default time of a request in seconds, `token_budget` what
    its LM calls may spend by default; `seed` seeds every choice by chance.
    """

    engines: Mapping[str, EngineSpec] = field(default_factory=dict)
    stages: Mapping[str, StageConfig] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    timeout: float | None = None
    token_budget: int | None = None
    seed: int = 0

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
