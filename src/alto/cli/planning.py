"""`alto simulate` and `alto sim-engine`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..config import Config
from ..engines.profiles import profiles
from ..errors import ConfigError
from ..pipeline import Pipeline
from ..report_text import summary_of, table_of
from ..stages import LM
from . import subject
from .running import config_option

PROFILE = "llama-3-8b_h100_tp1"
POLICIES = ["round-robin", "least-outstanding", "prefix-affinity", "prompt-aware"]


@click.command()
@click.argument("pipeline")
@click.argument("arguments", nargs=-1)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Requests per second (Poisson).",
)
@click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds of load.",
)
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="LM servers of each engine.",
)
@click.option(
    "--profile",
    type=click.Choice(profiles()),
    default=PROFILE,
    show_default=True,
    metavar="NAME",
    help="The model and GPU of each.",
)
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default="prompt-aware",
    show_default=True,
    help="How calls are placed.",
)
@click.option(
    "--inputs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Arguments, a line for each request; taken in turn.",
)
@click.option(
    "--stage-time",
    "stage_times",
    multiple=True,
    metavar="STAGE=SECONDS",
    help="What a stage takes that is no LM stage.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds for each request; under overload those that cannot make it are refused.",
)
@click.option("--barrier", is_flag=True, help="Put a barrier after every stage, to compare.")
@click.option(
    "--orchestrators",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="So many share the replicas and tell each other ten times a second what they sent.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@config_option
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.pass_context
def simulate(
    ctx: click.Context,
    pipeline: str,
    arguments: tuple[str, ...],
    rate: float,
    duration: float,
    replicas: int,
    profile: str,
    policy: str,
    inputs: Path | None,
    stage_times: tuple[str, ...],
    timeout: float | None,
    barrier: bool,
    orchestrators: int,
    seed: int,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Put load on PIPELINE (module:object) on virtual time: how many GPUs does it need?

    LM stages are answered with made-up text of their return type at the speed of a measured GPU
    profile, and so are calls of configured engines from inside stages, with made-up vectors and
    scores; everything else is your code. Engines that the configuration simulates stay as they are,
    but for the options that you give. Without arguments the inputs are made up, too. The exit code
    is 1 if every request failed.

    \b
    alto simulate app:factcheck "Who was first?" --rate 4 --replicas 4
    alto simulate app:factcheck --inputs questions.txt --rate 2 --profile llama-3-8b_a100_tp1
    """
    from ..simulation import Poisson
    from ..simulation import simulate as run_simulation
    from ..testing import Stuck

    target = subject.load(pipeline)
    settings = {"profile": profile, "replicas": replicas, "policy": policy, "seed": seed}
    given_ones = {name for name in settings if _is_given(ctx, name)}
    config = _simulated(target, Config.load(config_path), settings, given_ones)
    given = _inputs(target, arguments, inputs, seed)
    progress = None if as_json else _Progress(duration)
    try:
        report = run_simulation(
            target,
            given,
            arrivals=Poisson(rate, seed),
            duration=duration,
            config=config,
            streaming=not barrier,
            durations=_times(stage_times),
            timeout=timeout,
            progress=progress,
            orchestrators=orchestrators,
        )
    except Stuck as stuck:
        raise ConfigError(str(stuck)) from None
    finally:
        if progress is not None:
            progress.end()
    summary = summary_of(report, [output.name for output in target.graph.outputs])
    click.echo(json.dumps(_finite(summary)) if as_json else table_of(summary))
    if report.errors and not as_json:
        click.echo(f"the first failure: {report.errors[0]}", err=True)
    ctx.exit(1 if report.errors and len(report.errors) == len(report.requests) else 0)


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _simulated(
    target: Pipeline[Any, Any], config: Config, settings: dict[str, Any], given: set[str]
) -> Config:
    """The configuration with simulated engines in place of live ones. Those that are simulated
    already get what was given on the command line."""
    from dataclasses import fields, replace

    from ..engines.batch_options import BatchOptions
    from ..engines.sim_settings import ServerSettings
    from ..engines.simulated import Simulated

    engines: dict[str, Any] = dict(config.engines)
    for use in target.graph.uses:
        if isinstance(use.stage, LM):
            for name in config.engines_of(use.stage):
                engines.setdefault(name, None)
    for name, spec in engines.items():
        if isinstance(spec, ServerSettings):
            engines[name] = replace(spec, **{each: settings[each] for each in sorted(given)})
            continue
        batches = {}
        if isinstance(spec, BatchOptions):
            batches = {each.name: getattr(spec, each.name) for each in fields(BatchOptions)}
        engines[name] = Simulated(**settings, **batches)
    return replace(config, engines=engines, seed=settings["seed"])


def _inputs(
    target: Pipeline[Any, Any], arguments: tuple[str, ...], inputs: Path | None, seed: int
) -> list[dict[str, Any]]:
    if inputs is None:
        if arguments or not subject.needed(target):
            return [subject.arguments(target, arguments)]
        click.echo("inputs are made up; give arguments, or --inputs FILE, for real ones", err=True)
        return subject.made_up(target, seed)
    try:
        lines = inputs.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{inputs}: cannot be read as UTF-8 text: {error}.") from None
    given = [_input(target, inputs, line, arguments) for line in lines if line.strip()]
    if not given:
        raise ConfigError(f"{inputs}: has no lines; expected the argument of one request on each.")
    return given


def _input(
    target: Pipeline[Any, Any], inputs: Path, line: str, arguments: tuple[str, ...]
) -> dict[str, Any]:
    """The arguments in one line: an object with all of them, or the text of the first."""
    if not line.lstrip().startswith("{"):
        return subject.arguments(target, (line, *arguments))
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{inputs}: {line[:80]!r} is not JSON: {error}.") from None
    names = target.signature.parameters
    values = {name: subject.typed(target, name, entry[name]) for name in entry if name in names}
    missing = [name for name in subject.needed(target) if name not in values]
    if missing:
        raise ConfigError(f"{inputs}: {line[:80]!r} lacks {', '.join(missing)}.")
    return values


def _times(given: tuple[str, ...]) -> dict[str, float]:
    times = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            times[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"--stage-time {text}: expected STAGE=SECONDS, as in search=0.02.")
    return times


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Progress:
    """One line on stderr that says how far the virtual clock has come."""

    def __init__(self, duration: float) -> None:
        from rich.console import Console
        from rich.progress import Progress, TextColumn

        self._bar = Progress(
            *Progress.get_default_columns(),
            TextColumn("{task.fields[finished]} requests"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("simulating", total=duration, finished=0)
        self._bar.start()

    def __call__(self, now: float, finished: int) -> None:
        self._bar.update(self._task, completed=now, finished=finished)

    def end(self) -> None:
        self._bar.stop()


@click.command("sim-engine")
@click.option(
    "--profile",
    type=click.Choice(profiles()),
    default=PROFILE,
    show_default=True,
    metavar="NAME",
    help="The model and GPU whose step times are kept.",
)
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Servers behind the one address.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option("--model", default="sim", show_default=True, help="The model's name in /v1/models.")
@click.option(
    "--dimensions",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="The length of vectors.",
)
@click.option(
    "--answers",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Recorded answers (JSON lines).",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--list-profiles", is_flag=True, help="Show the profiles there are.")
def sim_engine(
    profile: str,
    replicas: int,
    host: str,
    port: int,
    model: str,
    dimensions: int,
    answers: Path | None,
    seed: int,
    list_profiles: bool,
) -> None:
    """Serve a simulated LM: OpenAI-compatible, with a real GPU's timing and vLLM's metrics.
    Embeddings and reranking are served too.

    \b
    alto sim-engine --port 8001
    curl localhost:8001/v1/models
    """
    from ..engines.recorded import Recorded
    from ..engines.sim_server import serve
    from ..engines.sim_settings import ServerSettings
    from ..engines.simulated import Simulated

    if list_profiles:
        click.echo("\n".join(profiles()))
        return
    settings: dict[str, Any] = {
        "profile": profile,
        "replicas": replicas,
        "seed": seed,
        "dimensions": dimensions,
    }
    spec: ServerSettings
    spec = Recorded(path=answers, **settings) if answers is not None else Simulated(**settings)

    def announce(url: str) -> None:
        click.echo(f"{profile}, simulated: {url}, model {model}. Ctrl-C ends it.")

    serve(spec, host, port, model, announce=announce)
