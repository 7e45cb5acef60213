"""`alto demo`, `run`, `check`, `graph`."""

from __future__ import annotations

import asyncio
import difflib
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click

from .. import drawing
from ..config import Config
from ..errors import AltoError, ConfigError, GraphError, StageError
from ..pipeline import Pipeline
from ..runtime.embedded import Runtime
from ..runtime.events import Event
from ..stages import LM
from ..values import to_jsonable
from . import subject


def config_option(command: Any) -> Any:
    """`--config`, with `alto.toml` as the default where there is one."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The configuration; alto.toml in this directory if there is one.",
    )(command)


@click.command()
@click.argument("question", required=False)
@click.option(
    "--engine", "engine_url", metavar="URL", help="A live OpenAI-compatible server, .../v1."
)
@click.option("--model", metavar="NAME", help="The model of that server.")
@click.option(
    "--profile", metavar="NAME", help="The GPU at whose speed recorded answers are played."
)
@click.option("--no-barrier", is_flag=True, help="Do not run it a second time stage by stage.")
@click.option("--list", "list_questions", is_flag=True, help="Show the recorded questions.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_context
def demo(
    ctx: click.Context,
    question: str | None,
    engine_url: str | None,
    model: str | None,
    profile: str | None,
    no_barrier: bool,
    list_questions: bool,
    as_json: bool,
) -> None:
    """Watch a real chatbot answer being fact-checked claim by claim while it is written.

    Answers are recorded and played at the speed of a real GPU, unless --engine names a live server.

    \b
    alto demo
    alto demo --list
    alto demo "Who was the oldest justice on the US supreme court in 1980?"
    alto demo --engine http://localhost:8000/v1 --model llama-3-8b "Who discovered penicillin?"
    """
    from ..demo import app

    if list_questions:
        app.list_questions()
        return
    ctx.exit(
        app.main(
            question,
            engine_url,
            model,
            profile or app.PROFILE,
            as_json,
            not no_barrier,
        )
    )


@click.command()
@click.argument("pipeline")
@click.argument("arguments", nargs=-1)
@config_option
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for the request."
)
@click.option(
    "--token-budget",
    type=click.IntRange(min=1),
    help="Tokens that the request's LM calls may spend, prompts and answers.",
)
@click.option(
    "--priority",
    type=int,
    default=0,
    show_default=True,
    help="Requests of higher priority go first.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object per event, then one with the result or the error.",
)
def run(
    pipeline: str,
    arguments: tuple[str, ...],
    config_path: Path | None,
    timeout: float | None,
    token_budget: int | None,
    priority: int,
    as_json: bool,
) -> None:
    """Run PIPELINE (module:object) once; items are shown as soon as they exist.

    Arguments come in order or as name=value. A parameter annotated str takes its text as it is; any
    other takes JSON, or the bare text if that fits (a Literal, an Enum, str | None).

    \b
    alto run app:factcheck "Who discovered penicillin?"
    alto run app:rank query="best pizza" limit=3 --json
    """
    try:
        target = subject.load(pipeline)
        values = subject.arguments(target, arguments)
        config = Config.load(config_path)
        asyncio.run(_run(target, values, config, timeout, token_budget, priority, as_json))
    except AltoError as error:
        if as_json:
            click.echo(json.dumps({"error": _error(error)}, ensure_ascii=False))
        raise


async def _run(
    target: Pipeline[Any, Any],
    values: dict[str, Any],
    config: Config,
    timeout: float | None,
    token_budget: int | None,
    priority: int,
    as_json: bool,
) -> None:
    async with Runtime(config) as runtime:
        request = runtime.start(
            target, timeout=timeout, token_budget=token_budget, priority=priority, **values
        )
        async with aclosing(request.events()) as events:  # type: ignore[type-var]
            async for event in events:
                click.echo(_json_line(event) if as_json else _line(event))
        result = await request.result()
    if as_json:
        usage = request.usage
        click.echo(
            json.dumps(
                {
                    "result": to_jsonable(result),
                    "usage": {
                        "calls": usage.calls,
                        "prompt_tokens": usage.prompt_tokens,
                        "completion_tokens": usage.completion_tokens,
                        "cached_tokens": usage.cached_tokens,
                    },
                },
                ensure_ascii=False,
            )
        )


def _error(error: AltoError) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, StageError):
        entry |= {"stage": error.stage, "path": list(error.path), "attempts": error.attempts}
    return entry


def _json_line(event: Event) -> str:
    entry: dict[str, Any] = {
        "output": event.output,
        "path": list(event.path),
        "value": to_jsonable(event.value),
    }
    for flag in ("revised", "withdrawn", "progress"):
        if getattr(event, flag):
            entry[flag] = True
    if event.stage:
        entry["stage"] = event.stage
    return json.dumps(entry, ensure_ascii=False)


def _line(event: Event) -> str:
    place = ".".join(map(str, event.path))
    name = f"{event.output} {place}".strip()
    if event.withdrawn:
        return f"{name}: withdrawn"
    shown = to_jsonable(event.value)
    text = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
    mark = " (revised)" if event.revised else ""
    return f"{name}{mark}: {text}"


@click.command()
@click.argument("pipeline")
@config_option
@click.option("--json", "as_json", is_flag=True, help="The problems as JSON.")
@click.pass_context
def check(ctx: click.Context, pipeline: str, config_path: Path | None, as_json: bool) -> None:
    """Check PIPELINE (module:object): its graph, and its engines if a configuration is given. No
    server is asked.

    All problems are printed at once; the exit code is 1 if there are any.

    \b
    alto check app:factcheck
    alto check app:factcheck --config alto.toml
    """
    target, config, problems = _loaded(pipeline, config_path)
    warnings: list[str] = []
    if target is not None:
        warnings += target.graph.warnings
    if target is not None and config is not None:
        warnings += _misnamed(target, config)
        if config_path is not None or config.engines:
            problems += Runtime(config).problems(target)
    if config is not None:
        problems += asyncio.run(_unopened(config))
    if as_json:
        click.echo(json.dumps({"problems": problems, "warnings": warnings}, ensure_ascii=False))
    else:
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
        for problem in problems:
            click.echo(f"error: {problem}", err=True)
        if target is not None and not problems:
            stages = [use for use in target.graph.uses if use.stage is not None]
            calls = [use for use in stages if isinstance(use.stage, LM)]
            click.echo(
                f"{target.name}: {len(stages)} stages ({len(calls)} of them LM), no problems."
            )
    ctx.exit(1 if problems else 0)


def _loaded(
    pipeline: str, config_path: Path | None
) -> tuple[Pipeline[Any, Any] | None, Config | None, list[str]]:
    """The pipeline and the configuration, and what is wrong with each."""
    problems: list[str] = []
    target = config = None
    try:
        target = subject.load(pipeline)
    except GraphError as error:
        problems += error.problems
    except AltoError as error:
        problems.append(str(error))
    try:
        config = Config.load(config_path)
    except AltoError as error:
        problems.append(str(error))
    return target, config, problems


async def _unopened(config: Config) -> list[str]:
    """What keeps engines from being opened, such as a recording that is not there. Nothing is
    connected to for it."""
    problems = []
    for name, spec in config.engines.items():
        try:
            await spec.open(name).aclose()
        except AltoError as error:
            problems.append(str(error))
    return problems


def _misnamed(target: Pipeline[Any, Any], config: Config) -> list[str]:
    """Settings of stages that are not here, and are called nearly like one that is. (The others may
    be for another pipeline.)"""
    stages = {use.stage.name for use in target.graph.uses if use.stage is not None}
    warnings = []
    for name in config.stages:
        near = [] if name in stages else difflib.get_close_matches(name, stages, 1)
        if near:
            warnings.append(
                f"[stages.{name}] is for no stage of {target.name}. Did you mean {near[0]!r}?"
            )
    return warnings


@click.command()
@click.argument("pipeline")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "mermaid", "svg"]),
    default="text",
    show_default=True,
)
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file."
)
def graph(pipeline: str, form: str, output: Path | None) -> None:
    """Draw PIPELINE (module:object).

    \b
    alto graph app:factcheck
    alto graph app:factcheck --format svg -o factcheck.svg
    """
    draw = {"text": drawing.as_text, "mermaid": drawing.as_mermaid, "svg": drawing.as_svg}[form]
    drawn = draw(subject.load(pipeline).graph)
    if output is None:
        click.echo(drawn, nl=False)
        return
    try:
        output.write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written: {error.strerror}.") from None
