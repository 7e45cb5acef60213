"""Plan without a GPU: load on a pipeline, on virtual time.

    from alto.simulation import Poisson, simulate
    report = simulate(factcheck, questions, arrivals=Poisson(rate=4.0, seed=1), duration=120.0,
                      config=config)
    report.latency(99), report.throughput, report.engines["chat"].prefix_hit_rate

`simulate` runs the production driver on a clock that jumps from event to event: nothing waits, an
hour of load takes as long as its work takes, and the same seed gives the same report. Engines
must live in this process (`alto.Simulated`, `alto.Recorded`). Blocking stages run inline and take
no time, unless `durations` says how many seconds each takes; a blocking stage that reads a stream
gets it whole. `durations` of asynchronous stages come on top of what they wait for. Where one waits
for a thread or a socket, that is `alto.testing.Stuck`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

from .config import Config
from .core.calls import Usage
from .errors import AltoError, ConfigError, DeadlineExceeded, Overloaded
from .orchestrators import Orchestrators
from .pipeline import Pipeline
from .report_text import summary_of, table_of
from .runtime.embedded import Request, Runtime
from .runtime.threads import start_thread
from .settings import whole
from .stages import LM
from .testing.loop import Stuck, VirtualLoop

__all__ = ["EngineReport", "Poisson", "Report", "RequestReport", "Trace", "simulate"]


class Arrivals(Protocol):
    """When requests come: seconds from the start, in order, without end or until they end."""

    def times(self) -> Iterator[float]: ...


def _is_time(given: object) -> bool:
    return _is_number(given) and math.isfinite(given)


def _above_0(given: object) -> bool:
    return _is_number(given) and given > 0


def _is_whole(given: object) -> TypeGuard[int]:
    return isinstance(given, int) and not isinstance(given, bool)


def _is_number(given: object) -> TypeGuard[float]:
    return isinstance(given, int | float) and not isinstance(given, bool)


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals, on average `rate` a second."""

    rate: float
    seed: int = 0

    def times(self) -> Iterator[float]:
        # At an infinite rate time would stand still, and requests would come for ever.
        if not _above_0(self.rate) or not _is_time(self.rate):
            raise ConfigError(f"Poisson: rate={self.rate!r}, expected requests per second above 0.")
        whole("Poisson: seed", self.seed, None)
        rng = random.Random(self.seed)
        now = 0.0
        while True:
            now += rng.expovariate(self.rate)
            yield now


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrivals at recorded times, `speed` times as fast: seconds from the start, in any order."""

    at: Sequence[float]
    speed: float = 1.0

    def times(self) -> Iterator[float]:
        if isinstance(self.at, str | bytes) or not isinstance(self.at, Collection):
            raise ConfigError(f"Trace: at is {self.at!r}, expected a list of times in seconds.")
        for at in self.at:
            if not _is_time(at) or at < 0:
                raise ConfigError(
                    f"Trace: at has {at!r}, expected times in seconds from the start, 0 or more."
                )
        if not _above_0(self.speed):
            raise ConfigError(f"Trace: speed={self.speed!r}, expected a number above 0.")
        for at in sorted(self.at):
            yield at / self.speed


@dataclass(slots=True)
class RequestReport:
    """One request: seconds of virtual time. `first` is when each output first gave an item."""

    arrival: float
    finish: float | None = None
    first: dict[str, float] = field(default_factory=dict)
    outputs: Any = None
    error: BaseException | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def latency(self) -> float | None:
        """Seconds from arrival to the end; None if it failed."""
        if self.finish is None or self.error is not None:
            return None
        return self.finish - self.arrival


@dataclass(slots=True)
class EngineReport:
    """What the replicas of one engine did."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    cache_queries: int = 0
    cache_hits: int = 0
    preemptions: int = 0
    embedded: int = 0
    """Texts that were embedded."""
    reranked: int = 0
    """Documents that were scored."""
    busy_seconds: float = 0.0
    replicas: int = 0

    @property
    def prefix_hit_rate(self) -> float:
        """The part of the prompt tokens that the prefix caches had."""
        return self.cache_hits / self.cache_queries if self.cache_queries else 0.0


@dataclass(slots=True)
class Report:
    """What came of a simulated load. `print` shows it in a few lines."""

    requests: list[RequestReport]
    engines: dict[str, EngineReport]
    duration: float
    end: float

    def __str__(self) -> str:
        outputs = dict.fromkeys(name for request in self.requests for name in request.first)
        return table_of(summary_of(self, sorted(outputs)))

    def latency(self, percentile: float) -> float:
        """The latency that so many per cent of the finished requests had at most (nearest rank)."""
        return _percentile([r.latency for r in self.requests if r.latency is not None], percentile)

    def time_to_first(self, output: str, percentile: float = 50) -> float:
        """The same for the time from arrival to an output's first item."""
        times = [r.first[output] - r.arrival for r in self.requests if output in r.first]
        return _percentile(times, percentile)

    @property
    def mean_latency(self) -> float:
        """The mean latency of the finished requests."""
        latencies = [r.latency for r in self.requests if r.latency is not None]
        return math.fsum(latencies) / len(latencies) if latencies else math.nan

    @property
    def throughput(self) -> float:
        """Requests finished without an error per second, from the start to the last finish (or
        `duration`, if that is later)."""
        return len([r for r in self.requests if r.latency is not None]) / max(self.end, 1e-9)

    def goodput(self, within: float) -> float:
        """Requests per second that ended without an error at most `within` seconds after they came
        (per second of `duration`, in which they came)."""
        good = [r for r in self.requests if r.latency is not None and r.latency <= within]
        return len(good) / self.duration

    @property
    def shed(self) -> int:
        """How many requests ended with `Overloaded`: refused or given up before their deadline."""
        return sum(isinstance(error, Overloaded) for error in self.errors)

    @property
    def late(self) -> int:
        """How many requests ended with `DeadlineExceeded`."""
        return sum(isinstance(error, DeadlineExceeded) for error in self.errors)

    @property
    def errors(self) -> list[BaseException]:
        """What failed requests failed with."""
        return [r.error for r in self.requests if r.error is not None]


def _percentile(values: Iterable[float], percentile: float) -> float:
    if not _is_number(percentile) or not 0 <= percentile <= 100:
        raise ConfigError(f"a percentile is between 0 and 100; got {percentile!r}.")
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(percentile / 100 * len(ordered)) - 1)]


def simulate(
    pipeline: Pipeline[Any, Any],
    inputs: Iterable[Any],
    *,
    arrivals: Arrivals,
    duration: float,
    config: Config,
    streaming: bool = True,
    durations: Mapping[str, float] | None = None,
    timeout: float | None = None,
    progress: Callable[[float, int], None] | None = None,
    orchestrators: int = 1,
    exchange_s: float | None = 0.1,
) -> Report:
    """Send requests for `duration` seconds of virtual time and wait until all are over. Works where
    an event loop is running, too (in a notebook).

    Args:
        inputs: the argument of each request, from the start again when they run out; a tuple is
            several arguments, a dict keyword arguments.
        streaming: False puts a barrier after every stage.
        durations: seconds that a stage takes, by name; one that is asynchronous takes them beside
            what it waits for itself.
        timeout: the time of each request.
        progress: called with (virtual seconds, finished requests) after each request.
        orchestrators: so many runtimes take the requests in turn and share the replicas of all
            engines. They know of each other what they tell each other, so this shows what is lost
            against one that knows all.
        exchange_s: how often they do so, and how old it is when it arrives; None: never.
    """
    wrong = (
        _wrong_pipeline(pipeline, durations or {})
        or _wrong_load(inputs, arrivals, duration, timeout)
        or _wrong_orchestrators(orchestrators, exchange_s)
        or _wrong_engines(pipeline, config)
    )
    if wrong is not None:
        name = pipeline.name if isinstance(pipeline, Pipeline) else pipeline
        raise ConfigError(f"simulate({name}): {wrong}")
    given = list(inputs)
    if not given:
        raise ConfigError(
            f"simulate({pipeline.name}): inputs is empty; expected one argument or more."
        )
    Runtime(config).check(pipeline)
    for each in given:
        args, kwargs = _arguments(each)
        pipeline.bind(args, kwargs)
    load = _Load(
        pipeline,
        given,
        config,
        streaming,
        durations,
        timeout,
        progress,
        orchestrators,
        exchange_s,
    )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return load.play(arrivals, duration)
    # In a notebook: then in a thread with a loop of its own.
    running = start_thread("simulate", lambda: load.play(arrivals, duration))
    report: Report = running.result()
    return report


def _wrong_pipeline(pipeline: Any, durations: Mapping[str, float]) -> str | None:
    """What is wrong with the pipeline, and the times of its stages, as they were given."""
    if not isinstance(pipeline, Pipeline):
        return "expected a pipeline, a function with @pipeline."
    stages = {use.stage.name: use.stage for use in pipeline.graph.uses if use.stage}
    unknown = sorted(set(durations) - set(stages))
    if unknown:
        return f"durations names {unknown}, which are no stages of it."
    for name, seconds in durations.items():
        if not _is_time(seconds) or seconds < 0:
            return f"durations has {seconds!r} for {name}, expected seconds, 0 or more."
        if isinstance(stages[name], LM):
            return (
                f"durations names {name}, an LM stage: its engine says how long it takes. Leave it "
                "out, or give the engine another profile or speed."
            )
    return None


def _wrong_load(inputs: Any, arrivals: Any, duration: Any, timeout: Any) -> str | None:
    """What is wrong with the load as it was asked for."""
    if isinstance(inputs, str | bytes | Mapping) or not isinstance(inputs, Iterable):
        return f"inputs is {inputs!r}, expected a list with the argument of each request."
    if not callable(getattr(arrivals, "times", None)):
        return f"arrivals={arrivals!r}, expected Poisson(...), Trace(...) or what has times()."
    if not _above_0(duration):
        return f"duration={duration!r}, expected seconds above 0."
    if isinstance(arrivals, Poisson) and duration == math.inf:
        return f"duration={duration!r}, and Poisson arrivals never end. Expected seconds."
    if timeout is not None and not _above_0(timeout):
        return f"timeout={timeout!r}, expected seconds above 0."
    return None


def _wrong_orchestrators(count: Any, exchange_s: Any) -> str | None:
    if _is_whole(count) and count >= 1 and (exchange_s is None or _above_0(exchange_s)):
        return None
    return (
        f"orchestrators={count!r}, exchange_s={exchange_s!r}; expected at least one, and seconds "
        "above 0 or None."
    )


def _wrong_engines(pipeline: Pipeline[Any, Any], config: Any) -> str | None:
    """What is wrong with the engines of its LM stages, where there are any."""
    from .engines.openai import OpenAI

    if not isinstance(config, Config):
        return f"config is {config!r}, expected alto.Config(...)."
    for use in pipeline.graph.uses:
        for name in config.engines_of(use.stage) if isinstance(use.stage, LM) else ():
            if isinstance(config.engines.get(name), OpenAI):
                return (
                    f"engine {name} is alto.OpenAI, and servers do not answer on virtual time. "
                    "Give alto.Simulated(...) or alto.Recorded(...) in its place."
                )
    return None


def _arguments(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An input as the arguments of a request."""
    if isinstance(given, dict):
        return (), given
    return (given if isinstance(given, tuple) else (given,)), {}


class _Load:
    def __init__(
        self,
        pipeline: Pipeline[Any, Any],
        inputs: list[Any],
        config: Config,
        streaming: bool,
        durations: Mapping[str, float] | None,
        timeout: float | None,
        progress: Callable[[float, int], None] | None,
        orchestrators: int,
        exchange_s: float | None,
    ) -> None:
        self.pipeline = pipeline
        self.inputs = inputs
        self.timeout = timeout
        self.progress = progress
        self.finished = 0
        self.runtimes: Sequence[Runtime] = ()
        self.config = config
        self.runtime_options: dict[str, Any] = {
            "barrier": not streaming,
            "durations": durations,
        }
        self.orchestrators = orchestrators
        self.exchange_s = exchange_s

    def play(self, arrivals: Arrivals, duration: float) -> Report:
        """Run it on a loop of its own."""
        stuck: Stuck | None = None
        try:
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                try:
                    return runner.run(self.run(arrivals, duration))
                except Stuck:
                    stuck = self._stuck()
                    raise
        except Stuck:  # closing the loop got stuck: once more, or on a thread that was quick
            raise stuck or self._stuck() from None

    def _stuck(self) -> Stuck:
        """What waits, while it still does."""
        stories = [story for runtime in self.runtimes for story in runtime.stories()]
        return Stuck(
            f"simulate({self.pipeline.name}): something is waited for that does not come on "
            "virtual time, such as a thread, a socket or another process. "
            f"{stories[0] if stories else 'No stage is running.'} Give the stage a stand-in, or "
            "make it an ordinary function, which is run inline."
        )

    async def run(self, arrivals: Arrivals, duration: float) -> Report:
        loop = asyncio.get_running_loop()
        start = loop.time()
        requests: list[RequestReport] = []
        tasks: list[asyncio.Task[None]] = []
        several = Orchestrators(
            self.config, self.orchestrators, self.exchange_s, self.runtime_options
        )
        self.runtimes = several.runtimes
        async with several:
            runtimes = itertools.cycle(several.runtimes)
            feed = itertools.cycle(self.inputs)
            for at in arrivals.times():
                if at >= duration:
                    break
                await asyncio.sleep(start + at - loop.time())
                report = RequestReport(loop.time() - start)
                requests.append(report)
                tasks.append(loop.create_task(self._one(next(runtimes), next(feed), report, start)))
            if not requests and isinstance(arrivals, Trace) and len(arrivals.at):
                raise ConfigError(
                    f"Trace: its first time is {min(arrivals.at)} at speed {arrivals.speed}, and "
                    f"duration is {duration} s, so nothing comes. Times are seconds from the "
                    "start: take the first off them all, if they are another clock's."
                )
            for task in tasks:
                await task
            engines = {name: _engine(each) for name, each in several.replicas().items()}
        end = max([duration, *(r.finish for r in requests if r.finish is not None)])
        return Report(requests, engines, duration, end)

    async def _one(self, runtime: Runtime, given: Any, report: RequestReport, start: float) -> None:
        loop = asyncio.get_running_loop()
        args, kwargs = _arguments(given)
        request: Request | None = None
        try:
            request = runtime.start(self.pipeline, *args, timeout=self.timeout, **kwargs)
            async for event in request.events():
                if not event.progress and not event.withdrawn:
                    report.first.setdefault(event.output, loop.time() - start)
            report.outputs = await request.result()
        except AltoError as error:
            report.error = error
        report.finish = loop.time() - start
        if request is not None:
            report.usage = request.usage
        self.finished += 1
        if self.progress is not None:
            self.progress(report.finish, self.finished)


def _engine(replicas: Sequence[Any]) -> EngineReport:
    report = EngineReport()
    for replica in replicas:
        measures = getattr(replica, "measures", None)
        if measures is None:
            continue
        report.replicas += 1
        report.prompt_tokens += measures.prompt_tokens
        report.generation_tokens += measures.generation_tokens
        report.cache_queries += measures.cache_queries
        report.cache_hits += measures.cache_hits
        report.preemptions += measures.preemptions
        report.embedded += measures.embedded
        report.reranked += measures.reranked
        report.busy_seconds += measures.busy_seconds
    return report
