"""`module:object` on a command line: what it names, and how its arguments are read."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from ..annotations import strip
from ..errors import ConfigError, GraphError
from ..pipeline import Pipeline


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
    try:
        if path.suffix == ".py":
            return _file(subject, path)
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


def _file(subject: str, path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"{subject}: there is no file {path}.")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def arguments(pipeline: Pipeline[Any, Any], given: tuple[str, ...]) -> dict[str, Any]:
    """Arguments from the command line: in order, or as `name=value`. A parameter annotated `str`
    takes the text as it is; any other takes JSON."""
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
    missing = [
        name
        for name, parameter in pipeline.signature.parameters.items()
        if name not in values and parameter.default is parameter.empty
    ]
    if missing:
        raise ConfigError(
            f"{pipeline.name} needs {', '.join(missing)}: give "
            f"{'it' if len(missing) == 1 else 'them'} in order or as {missing[0]}=VALUE."
        )
    return values


def value(pipeline: Pipeline[Any, Any], name: str, text: str) -> Any:
    """One argument as its parameter's type."""
    annotation = strip(pipeline.hints.get(name, Any))
    if annotation is str or annotation is Any:
        return text
    try:
        return _typed(annotation, json.loads(text))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{pipeline.name}, argument {name}: {text!r} is not JSON for "
            f"{getattr(annotation, '__name__', annotation)}: {error}."
        ) from None


def _typed(annotation: Any, data: Any) -> Any:
    if hasattr(annotation, "model_validate"):
        return annotation.model_validate(data)
    if isinstance(annotation, type) and isinstance(data, annotation):
        return data
    import msgspec

    return msgspec.convert(data, annotation)
