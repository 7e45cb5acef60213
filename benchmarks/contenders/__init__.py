"""The contenders: the same two jobs, each in the form its own documentation teaches.

A contender is a module with two async context managers; what is built once per process (a graph, a
runtime) is built on entering them, outside the measured time:

    fanout()          gives `run(n)`: makes the numbers 0..n-1 one item each, passes every item
                      through three trivial async stages (each adds one) and gathers n results in
                      order
    verification(lm)  gives `serve(question)`: one verification request (benchmarks.workload) on
                      that LM; returns the tally

Modules are loaded by name, in a process of their own, so that none pays for another's imports.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, cast

from ..workload import ScheduledLM

Fanout = Callable[[int], Awaitable[list[int]]]
Serve = Callable[[str], Awaitable[dict[str, int]]]


class Contender(Protocol):
    """What a module in this package must have."""

    def fanout(self) -> AbstractAsyncContextManager[Fanout]: ...

    def verification(self, lm: ScheduledLM) -> AbstractAsyncContextManager[Serve]: ...


BASELINE = "handwritten"
SUBJECT = "alto"
INTERPRETED = "alto-interpreted"
MODULES = {
    BASELINE: "handwritten",
    SUBJECT: "alto_",
    INTERPRETED: "alto_",
    "pydantic-graph": "pydantic_graph_",
    "langgraph": "langgraph_",
    "llamaindex": "llamaindex_",
}
"""Display name and module, in the order in which they are run and shown. `SUBJECT` is ALTO as an
installation on this machine gives it, which is compiled where there is a C compiler: `measure.py`
puts that on its path. `INTERPRETED` is the same code as plain Python."""


def load(name: str) -> Contender:
    """Import a contender by its display name."""
    if name not in MODULES:
        raise ValueError(f"no contender named {name!r}; there are {', '.join(MODULES)}")
    return cast(Contender, importlib.import_module(f".{MODULES[name]}", __package__))
