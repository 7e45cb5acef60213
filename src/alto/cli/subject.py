"""`module:object` on a command line: what it names, and how its arguments are read."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..annotations import stream_element, strip
from ..errors import ConfigError, GraphError
from ..pipeline import Pipeline
from ..schemas import NotJson, read, schema_of


def load(subject: str) -> Pipeline[Any, Any]:
    """The pipeline that `module:object` (or `path/file.py:object`) names."""
    module_name, _, name = subject.partition(":")
    module = _module(subject, module_name)
    pipelines = {key: value for key, value in vars(module).items() if isinstance(value, Pipeline)}
    if not name:
        if len(pipelines) == 1:
            return next(iter(pipelines.values()))
        raise ConfigError(
            f"{subject}: name the pipeline, as {module_name}:NAME. There "
            f"{'is no pipeline' if not pipelines else 'are ' + ', '.join(sorted(pipelines))} in it."
        )
    if name not in pipelines:
        near = difflib.get_close_matches(name, pipelines, 1)
        kind = type(vars(module)[name]).__name__ if name in vars(module) else None
        what = f"{name} is a {kind}, not a pipeline" if kind else f"there is no {name}"
        hint = f" Did you mean {near[0]}?" if near else ""
        known = ", ".join(sorted(pipelines)) or "none"
        raise ConfigError(f"{subject}: {what} in {module_name}; pipelines in it: {known}.{hint}")
    return pipelines[name]


def _module(subject: str, name: str) -> Any:
    if not name:
        raise ConfigError(f"{subject}: expected module:pipeline, as in app:factcheck.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    path = Path(name)
    if path.suffix == ".py" and not path.is_file():
        raise ConfigError(f"{subject}: there is no file {path}.")
    try:
        if path.suffix == ".py":
            return _file(path)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(
                f"{subject}: there is no module {name}. Run this where it can be imported, or name "
                "the file: path/to/app.py:pipeline."
            ) from None
        raise ConfigError(f"{subject}: importing {name} failed: {error}.") from error
    except GraphError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{subject}: importing {name} raised {type(error).__name__}: {error}."
        ) from error


def _file(path: Path) -> Any:
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def arguments(pipeline: Pipeline[Any, Any], given: tuple[str, ...]) -> dict[str, Any]:
    """Arguments from the command line: in order, or as `name=value`; see `value`."""
    names = list(pipeline.signature.parameters)
    values: dict[str, Any] = {}
    for position, text in enumerate(given):
        name, equals, rest = text.partition("=")
        if equals and name in names:
            text = rest
        elif position < len(names):
            name = names[position]
        else:
            raise ConfigError(
                f"{pipeline.name} takes {', '.join(names) or 'no arguments'}; {text!r} is one too "
                "many."
            )
        values[name] = value(pipeline, name, text)
    missing = [name for name in needed(pipeline) if name not in values]
    if missing:
        raise ConfigError(
            f"{pipeline.name} needs {', '.join(missing)}: give "
            f"{'it' if len(missing) == 1 else 'them'} in order or as {missing[0]}=VALUE."
        )
    return values


def needed(pipeline: Pipeline[Any, Any]) -> list[str]:
    """The parameters that have no default."""
    parameters = pipeline.signature.parameters.values()
    return [each.name for each in parameters if each.default is each.empty]


def value(pipeline: Pipeline[Any, Any], name: str, text: str) -> Any:
    """One argument as its parameter's type: from JSON, or from the bare text if that fits."""
    annotation = _item_type(pipeline, name)
    if annotation is str or annotation is Any:
        return text
    try:
        return read(annotation, text)
    except NotJson as error:
        reason = str(error)
    try:
        return read(annotation, json.dumps(text))
    except NotJson:
        raise ConfigError(f"{pipeline.name}, argument {name}: {reason}.") from None


def typed(pipeline: Pipeline[Any, Any], name: str, data: Any) -> Any:
    """One argument as its parameter's type, from what JSON held."""
    annotation = _item_type(pipeline, name)
    return data if annotation is Any else value(pipeline, name, json.dumps(data))


MADE_UP = 16
"""How many different inputs are made up; they are taken in turn."""


def made_up(pipeline: Pipeline[Any, Any], seed: int) -> list[dict[str, Any]]:
    """Arguments of the types of the parameters that have no default."""
    from ..core.calls import Call
    from ..engines.synthesis import Lengths, synthesize

    lengths = Lengths(sentences=1)
    wanted = {name: _item_type(pipeline, name) for name in needed(pipeline)}
    calls = {
        name: Call(messages=[], stage=name, returns=str)
        if annotation in (str, Any)
        else Call(messages=[], stage=name, schema=schema_of(annotation))
        for name, annotation in wanted.items()
    }
    return [
        {
            name: value(pipeline, name, synthesize(replace(call, path=(k,)), lengths, seed))
            for name, call in calls.items()
        }
        for k in range(MADE_UP)
    ]


def _item_type(pipeline: Pipeline[Any, Any], name: str) -> Any:
    """A parameter's type; that of a `Stream[T]` is a list."""
    annotation = strip(pipeline.hints.get(name, Any))
    element = stream_element(annotation)
    return annotation if element is None else list[element]  # type: ignore[valid-type]
