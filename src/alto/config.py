"""What a runtime needs to know besides the pipeline: engines, stages, limits.

In Python a `Config` holds engines as values (`alto.OpenAI(...)`, `alto.Simulated(...)`);
`Config.load` reads the same from `alto.toml` and the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
