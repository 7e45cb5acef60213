"""What a runtime needs to know besides the pipeline: engines, stages, limits.

In Python a `Config` holds engines as values (`alto.OpenAI(...)`, `alto.Simulated(...)`);
`Config.load` reads the same from `alto.toml` and the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .core.execution import Limits
from .engines.protocol import EngineSpec


@dataclass(frozen=True, slots=True)
class StageConfig:
    """`[stages.NAME]`: what a deployment changes about a stage. None keeps its own value."""

    instances: int | None = None
    max_concurrency: int | None = None
    batch: int | None = None
    max_wait: float | None = None
    init: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    """A runtime's configuration.

    `engines` maps the names that stages use to engines; `stages` changes stages by name; `limits`
    bounds each request; `timeout` is the default time of a request in seconds; `seed` seeds every
    choice by chance.
    """

    engines: Mapping[str, EngineSpec] = field(default_factory=dict)
    stages: Mapping[str, StageConfig] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    timeout: float | None = None
    seed: int = 0

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
