"""`@pipeline`: a function that wires stages becomes a graph.

The function is called once with placeholders (placeholder.py); what it does is recorded and
checked (recorder.py). All problems are reported together, before anything runs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, overload

from .annotations import hints_of
from .errors import GraphError
from .placeholder import Flow
from .recorder import Recorder, signature_text
from .stages import caller_locals, recording

P = ParamSpec("P")
R = TypeVar("R")


class Pipeline(Generic[P, R]):
    """A recorded pipeline. Made by `@pipeline`. `graph` is what a runtime executes.

    Run it with `alto.run(pipeline, ...)` or `Runtime.call`; inside another pipeline call it like
    a stage.
    """

    def __init__(
        self,
        function: Callable[P, R],
        frame_locals: dict[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.name: str = name or str(getattr(function, "__name__", "?"))
        _check_function(self.name, function)
        self.signature = inspect.signature(function)
        self.names = frame_locals
        self.hints = hints_of(function, frame_locals)
        self.graph = Recorder(self).record()
        self.names = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recorder = recording.get()
        if recorder is None:
            raise GraphError(
                f"pipeline {self.name} was called like a function. Run it with "
                f"alto.run({self.name}, ...) or Runtime.call({self.name}, ...)."
            )
        return recorder.nest(self, args, kwargs)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of one request by parameter name, defaults filled in."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise GraphError(
                f"pipeline {self.name}: it takes {signature_text(self.signature)}; the call does "
                f"not fit: {error}. Give each parameter one value."
            ) from None
        bound.apply_defaults()
        return dict(bound.arguments)

    def __repr__(self) -> str:
        return f"<pipeline {self.name}>"


@overload
def pipeline(function: Callable[P, R], /) -> Pipeline[P, R]: ...
@overload
def pipeline(*, name: str | None = None) -> Callable[[Callable[P, R]], Pipeline[P, R]]: ...
def pipeline(function: Any = None, /, *, name: str | None = None) -> Any:
    """Record a pipeline from a function that calls stages and returns flows.

    Raises `GraphError` with every problem found (`.problems` holds them one by one).
    """
    frame_locals = caller_locals()
    if function is not None:
        return Pipeline(function, frame_locals, name)
    return lambda inner: Pipeline(inner, frame_locals, name)


def either(*flows: Any) -> Any:
    """At each path the first of `flows` that is present there: how a conditional comes back
    together. All must lie on one level."""
    return _recorder_of("either", flows).either(flows)


def merge(*flows: Any) -> Any:
    """Put flows one after the other. Opens one level under their nearest common proper ancestor
    (the request, for roots): an item's path is `p + (argument index,) + rest`."""
    return _recorder_of("merge", flows).merge(flows)


def _check_function(name: str, function: Any) -> None:
    kinds: dict[str, Callable[[Any], bool]] = {
        "an async function": inspect.iscoroutinefunction,
        "a generator": inspect.isgeneratorfunction,
        "an async generator": inspect.isasyncgenfunction,
        "a class": inspect.isclass,
    }
    what = next((what for what, is_kind in kinds.items() if is_kind(function)), None)
    if what is None and (not callable(function) or hasattr(function, "graph")):
        what = repr(function)
    if what is not None:
        raise GraphError(
            f"pipeline {name}: got {what}, expected a plain function. It runs once, to wire "
            "stages; whatever waits or loops belongs inside a stage."
        )


def _recorder_of(what: str, flows: Sequence[Any]) -> Recorder:
    recorder = recording.get()
    if recorder is None:
        raise GraphError(
            f"alto.{what} was called outside a pipeline. It joins flows: call it in a function "
            "under @pipeline."
        )
    others = [flow for flow in flows if not isinstance(flow, Flow)]
    if len(flows) < 2 or others:
        given = repr(others[0]) if others else f"{len(flows)} argument" + "s" * (len(flows) != 1)
        raise GraphError(
            f"pipeline {recorder.name}: alto.{what} got {given}, expected two or more flows. Give "
            "it what stages returned."
        )
    return recorder
