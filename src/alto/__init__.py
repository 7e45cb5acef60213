"""ALTO serves compound AI systems: pipelines whose stages stream into each other.

    from alto import Sentence, Stream, lm, pipeline, stage

Importing this package opens nothing and loads no network, server or cluster library; what needs
one is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .annotations import AsCompleted, Stream
from .config import Config, StageConfig
from .core.calls import Call, Delta, Usage
from .core.default import Default
from .core.encode import Ranked
from .core.execution import Limits
from .core.texts import Line, Paragraph, Sentence
from .errors import (
    AltoError,
    ConfigError,
    DeadlineExceeded,
    EngineError,
    GraphError,
    OrchestratorLost,
    Overloaded,
    ParseError,
    StageError,
)
from .pipeline import Pipeline, either, merge, pipeline
from .placeholder import Flow
from .runtime.current import Current, current
from .runtime.embedded import Request, Runtime, run
from .runtime.events import Event
from .runtime.free_calls import EngineHandle
from .stages import LM, Stage, lm, stage

if TYPE_CHECKING:
    from .engines.openai import OpenAI
    from .engines.recorded import Recorded
    from .engines.simulated import Simulated

_LATER = {
    "OpenAI": ".engines.openai",
    "Recorded": ".engines.recorded",
    "Simulated": ".engines.simulated",
}

__version__ = "0.1.0"


def engine(name: str) -> EngineHandle:
    """A handle for free calls of an engine from inside a stage; see `EngineHandle`."""
    return EngineHandle(name)


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module 'alto' has no attribute {name!r}")


__all__ = [
    "LM",
    "AltoError",
    "AsCompleted",
    "Call",
    "Config",
    "ConfigError",
    "Current",
    "DeadlineExceeded",
    "Default",
    "Delta",
    "EngineError",
    "EngineHandle",
    "Event",
    "Flow",
    "GraphError",
    "Limits",
    "Line",
    "OpenAI",
    "OrchestratorLost",
    "Overloaded",
    "Paragraph",
    "ParseError",
    "Pipeline",
    "Ranked",
    "Recorded",
    "Request",
    "Runtime",
    "Sentence",
    "Simulated",
    "Stage",
    "StageConfig",
    "StageError",
    "Stream",
    "Usage",
    "current",
    "either",
    "engine",
    "lm",
    "merge",
    "pipeline",
    "run",
    "stage",
]
