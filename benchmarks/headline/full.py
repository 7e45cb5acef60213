"""What FULL=1 adds: other models and GPUs, other numbers of replicas, recorded arrivals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .contenders import ENGINE
from .experiment import SHAPES

PROFILES = (
    "llama-2-7b_a100_tp1",
    "llama-3-8b_a100_tp1",
    "llama-3-70b_a100_tp4",
    "llama-3-70b_h100_tp4",
)
REPLICAS = (5, 7, 12, 16)
TRACE = {"arrivals": "azure_2023_conv", "duration": 300.0, "warmup": 30.0}

Run = tuple[str, dict[str, Any], dict[str, Any]]


def variants(shapes: Sequence[str], options: Mapping[str, Any]) -> list[Run]:
    """Every further experiment: shape, engine, options of its runs."""
    return [
        (shape, {**ENGINE, **engine}, {**options, **more})
        for shape in shapes
        for engine, more in _changes()
        if {**ENGINE, **engine}["replicas"] >= len(SHAPES[shape].LM_STAGES)
    ]


def _changes() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for profile in PROFILES:
        yield {"profile": profile}, {}
    for replicas in REPLICAS:
        yield {"replicas": replicas}, {}
    yield {}, TRACE
