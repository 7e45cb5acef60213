"""Does what a request came to agree with what the interpreter says?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from alto.errors import StageError

from .draw import Case, describe
from .interpreter import Expected, Interpreter


def expect(case: Case) -> Expected:
    return Interpreter(case.pipeline.graph, case.seed, case.plans).expect(case.arguments)


def judge(
    case: Case,
    expected: Expected,
    results: Mapping[str, Any] | None,
    error: BaseException | None,
    events: Iterable[Any] | None,
) -> None:
    """Raises AssertionError with the whole story if they do not agree."""
    complaint = _failure(expected, error)
    if complaint is None and error is None and results is not None:
        complaint = _results(case, expected, results)
    if complaint is None and events is not None:
        complaint = _events(case, expected, events, error)
    if complaint is not None:
        raise AssertionError(f"{complaint}\n{describe(case)}\nexpected {expected}")


def _failure(expected: Expected, error: BaseException | None) -> str | None:
    if error is None:
        return "it should have failed" if expected.must else None
    if not isinstance(error, StageError):
        return f"it raised {error!r}"
    if (error.stage, error.path) not in expected.may:
        return f"it failed at {error.stage} {error.path}, which nobody should have reached: {error}"
    return None


def _results(case: Case, expected: Expected, results: Mapping[str, Any]) -> str | None:
    for output in case.pipeline.graph.outputs:
        values = list(expected.outputs[output.name].values())
        wanted: Any = values
        if output.flow.level.parent is None:
            wanted = values[0] if values else None
        if results[output.name] != wanted:
            return f"output {output.name}: got {results[output.name]}, expected {wanted}"
    return None


def _events(
    case: Case, expected: Expected, events: Iterable[Any], error: BaseException | None
) -> str | None:
    """Replayed, the events are the outputs; nothing was given twice."""
    known: dict[tuple[str, tuple[int, ...]], Any] = {}
    for event in events:
        key = (event.output, event.path)
        if case.committed and (event.revised or event.withdrawn):
            return f"{key} was committed and changed"
        if event.withdrawn:
            if key not in known:
                return f"{key} was withdrawn and had not been given"
            del known[key]
        elif event.revised:
            if key not in known or known[key] == event.value:
                return f"{key} was revised to {event.value} from {known.get(key, 'nothing')}"
            known[key] = event.value
        else:
            if key in known:
                return f"{key} was given twice: {known[key]}, then {event.value}"
            known[key] = event.value
    if error is not None:
        return None
    for name, values in expected.outputs.items():
        told = {path: value for (output, path), value in known.items() if output == name}
        if told != values:
            return f"events of {name}: {told}, expected {values}"
    return None
