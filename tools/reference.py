"""Write docs/reference.md from the docstrings: every public name, its signature and what it means.

    python tools/reference.py [--check]

A docstring is written for users, so it is taken as it stands; only its form is changed (arguments
become a list). A public name that is in none of the groups below, or twice, is an error.

Always true: the same code gives the same bytes.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
WIDTH = 88

GROUPS: dict[str, dict[str, list[str]]] = {
    "Writing pipelines": {
        "alto": ["stage", "lm", "pipeline", "either", "merge", "Flow", "Default"],
    },
    "Types in signatures": {
        "alto": ["Stream", "AsCompleted", "Sentence", "Line", "Paragraph"],
    },
    "Running": {
        "alto": ["run", "Runtime", "Request", "Event", "Usage"],
    },
    "Inside a stage": {
        "alto": ["current", "Current", "engine", "EngineHandle", "Ranked"],
        "alto.core.encode": ["Vectors", "Ranking"],
        "alto.runtime.replies": ["Reply"],
    },
    "Configuration": {
        "alto": ["Config", "StageConfig", "Limits"],
    },
    "Engines": {
        "alto": ["OpenAI", "Simulated", "Recorded", "Call", "Delta"],
        "alto.engines.simulated": ["Lengths", "Faults", "Answer"],
        "alto.engines.sim_settings": ["ServerSettings"],
        "alto.engines.batch_options": ["BatchOptions"],
        "alto.engines.encodes": ["Encodes"],
        "alto.engines.recorded": ["Recorder"],
        "alto.engines.protocol": ["EngineSpec", "Engine", "VectorEngine"],
        "alto.core.scheduling": ["Policy", "Candidate", "Facts", "Placed", "Finished"],
    },
    "What decorators make": {
        "alto": ["Stage", "LM", "Pipeline"],
    },
    "Errors": {
        "alto": [
            "AltoError",
            "GraphError",
            "ConfigError",
            "StageError",
            "ParseError",
            "EngineError",
            "DeadlineExceeded",
            "Overloaded",
            "OrchestratorLost",
        ],
    },
    "Simulation": {
        "alto.simulation": [
            "simulate",
            "Poisson",
            "Trace",
            "Report",
            "RequestReport",
            "EngineReport",
        ],
    },
    "Testing": {
        "alto.testing": ["run", "VirtualLoop", "Stuck"],
    },
}

# Made by ALTO, not by users: how to construct them is nobody's business.
MADE_INSIDE = {"Flow", "Request", "Current", "EngineHandle", "Stage", "LM", "Pipeline", "Stream"}
MADE_INSIDE |= {"Encodes", "Reply", "Vectors", "Ranking"}
MADE_INSIDE |= {"AsCompleted", "VirtualLoop"}
INTERNAL = {"settle", "bind", "forget", "spawn", "offload", "call_plain", "iterate", "jump", "time"}
INTERNAL |= {"release_after", "units_of", "reader", "boundaries", "writer", "open_replicas"}
INTERNAL |= {"encoder", "embed_max_wait_s", "send", "throw", "close", "close_batches"}
INTERNAL |= {"replicas", "problems", "check"}


def reference() -> str:
    """The whole page."""
    parts = [
        "# Reference\n",
        "Every public name. Written from the docstrings by `python tools/reference.py`.\n",
    ]
    places = anchors()
    for group, modules in GROUPS.items():
        names = [qualified(module, name) for module, of in modules.items() for name in of]
        links = " · ".join(f"[`{name}`](#{places[name]})" for name in names)
        parts.append(f"- **{group}**: {links}")
    for group, modules in GROUPS.items():
        parts.append(f"\n## {group}")
        for module, of in modules.items():
            loaded = importlib.import_module(module)
            parts += [entry(qualified(module, name), getattr(loaded, name)) for name in of]
    return "\n".join(parts).rstrip() + "\n"


def anchors() -> dict[str, str]:
    """Each heading's anchor as GitHub makes it: `alto.stage` and `alto.Stage` are told apart."""
    found: dict[str, str] = {}
    for modules in GROUPS.values():
        for name in [qualified(module, name) for module, of in modules.items() for name in of]:
            plain = re.sub(r"[^\w\- ]", "", name.lower())
            count = sum(re.sub(r"-\d+$", "", other) == plain for other in found.values())
            found[name] = f"{plain}-{count}" if count else plain
    return found


def qualified(module: str, name: str) -> str:
    return f"{module}.{name}"


def entry(name: str, thing: Any) -> str:
    """One public name."""
    short = name.rpartition(".")[2]
    lines = [f"\n### `{name}`\n"]
    if not inspect.isclass(thing):
        lines.append(fenced(signature(short, thing)))
        lines.append(prose(thing))
        return "\n".join(lines)
    if short not in MADE_INSIDE and not issubclass(thing, str):
        lines.append(fenced(constructor(short, thing)))
    lines.append(prose(thing))
    init = vars(thing).get("__init__")
    if init is not None and init.__doc__ and not dataclasses.is_dataclass(thing):
        lines.append("\n" + markdown(inspect.cleandoc(init.__doc__)))
    lines += [f"\n- `.{field}`  \n  {text}" for field, text in documented_fields(thing)]
    lines += [member(short, attribute, value) for attribute, value in members(thing)]
    return "\n".join(lines)


def documented_fields(thing: type) -> Iterator[tuple[str, str]]:
    """Fields of a dataclass that have a string below them."""
    if not dataclasses.is_dataclass(thing):
        return
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    assert isinstance(body, ast.ClassDef)
    for field, below in itertools.pairwise(body.body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield field.target.id, " ".join(str(below.value.value).split())


def constructor(short: str, thing: type) -> str:
    """How to make one; a protocol is not made."""
    if getattr(thing, "_is_protocol", False):
        return f"class {short}(Protocol)"
    if issubclass(thing, Exception) and "__init__" not in vars(thing):
        return f"class {short}({', '.join(base.__name__ for base in thing.__bases__)})"
    return signature(short, thing)


def members(thing: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class has of its own."""
    own = dict(vars(thing))
    fields = {field.name for field in dataclasses.fields(thing)} if is_dataclass(thing) else set()
    for name, value in own.items():
        if name.startswith("_") or name in fields or name in INTERNAL:
            continue
        if isinstance(value, property | classmethod | staticmethod) or inspect.isfunction(value):
            documented = inspect.getdoc(value)
            if documented:
                yield name, value


def is_dataclass(thing: type) -> bool:
    return dataclasses.is_dataclass(thing)


def member(owner: str, name: str, value: Any) -> str:
    """One method or property, as an item of a list."""
    if isinstance(value, property):
        head = f"`.{name}`"
        text = inspect.getdoc(value.fget) or ""
    else:
        plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        bound = isinstance(value, staticmethod)
        shown = signature(name, plain, skip=0 if bound else 1)
        lead = f"{owner}." if isinstance(value, classmethod | staticmethod) else "."
        head = f"`{lead}{' '.join(shown.removeprefix('async ').split())}`"
        head = head.replace("( ", "(").replace(", )", ")")
        if shown.startswith("async "):
            head = f"`async` {head}"
        text = inspect.getdoc(plain) or ""
    body = textwrap.indent(markdown(text), "  ").strip()
    return f"\n- {head}  \n  {body}"


# ---------------------------------------------------------------- signatures


def signature(name: str, thing: Any, skip: int = 0) -> str:
    """A call as Python would show it, one parameter a line where it is long."""
    overloads = typing.get_overloads(thing) if inspect.isfunction(thing) else []
    found = inspect.signature(overloads[-1] if overloads else thing)
    shown = parameters(list(found.parameters.values())[skip:])
    returns = "" if inspect.isclass(thing) else result(found)
    lead = ""
    if inspect.iscoroutinefunction(thing) or inspect.isasyncgenfunction(thing):
        lead = "async "
    line = f"{lead}{name}({', '.join(shown)}){returns}"
    if len(line) <= WIDTH:
        return line
    inside = "".join(f"    {parameter},\n" for parameter in shown)
    return f"{lead}{name}(\n{inside}){returns}"


def parameters(given: list[inspect.Parameter]) -> list[str]:
    shown: list[str] = []
    starred = False
    for position, parameter in enumerate(given):
        if parameter.kind is parameter.VAR_POSITIONAL:
            starred = True
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            shown.append("*")
            starred = True
        shown.append(parameter_text(parameter))
        following = given[position + 1] if position + 1 < len(given) else None
        if parameter.kind is parameter.POSITIONAL_ONLY and (
            following is None or following.kind is not parameter.POSITIONAL_ONLY
        ):
            shown.append("/")
    return shown


def parameter_text(parameter: inspect.Parameter) -> str:
    stars = 2 * (parameter.kind is parameter.VAR_KEYWORD) or int(
        parameter.kind is parameter.VAR_POSITIONAL
    )
    text = "*" * stars + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {annotation(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        default = repr(parameter.default)
        text += " = ..." if default.startswith("<") else f" = {default}"
    return text


def result(found: inspect.Signature) -> str:
    if found.return_annotation is found.empty:
        return ""
    return f" -> {annotation(found.return_annotation)}"


def annotation(given: Any) -> str:
    if isinstance(given, str):
        return given
    name: str = getattr(given, "__name__", "") or str(given).replace("typing.", "")
    return name


# ---------------------------------------------------------------- docstrings


def prose(thing: Any) -> str:
    return markdown(inspect.getdoc(thing) or "")


def markdown(text: str) -> str:
    """A docstring as Markdown: `Args:` becomes a list, indented code is fenced."""
    text, _, arguments = text.partition("Args:\n")
    lines = textwrap.dedent(text).strip().splitlines()
    parts = [code_fenced(lines)]
    if arguments:
        parts.append("\n" + "\n".join(argument_list(textwrap.dedent(arguments))))
    return "\n".join(parts)


def code_fenced(lines: list[str]) -> str:
    """Blocks that are indented by four stand in a fence."""
    shown: list[str] = []
    inside = False
    for line in lines:
        code = line.startswith("    ") and not line.lstrip().startswith("-")
        if code and not inside and (not shown or shown[-1] == ""):
            shown.append("```text")
            inside = True
        elif inside and line and not line.startswith("    "):
            shown.insert(len(shown) - (shown[-1] == ""), "```")
            inside = False
        shown.append(line[4:] if inside else line)
    if inside:
        shown.append("```")
    return "\n".join(shown)


def argument_list(text: str) -> Iterator[str]:
    for line in text.rstrip().splitlines():
        name, colon, rest = line.partition(": ")
        if colon and not line.startswith(" "):
            yield f"- `{name}`: {rest}"
        else:
            yield f"  {line.strip()}"


def fenced(text: str) -> str:
    return f"```text\n{text}\n```\n"


def main(arguments: list[str]) -> int:
    text = reference()
    if "--check" in arguments:
        current = OUT.read_text(encoding="utf-8") if OUT.exists() else ""
        if current != text:
            print(f"{OUT.name} is not up to date: run python tools/reference.py", file=sys.stderr)
        return int(current != text)
    OUT.write_text(text, encoding="utf-8")
    print(f"{OUT}: {len(text.splitlines()):,} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
