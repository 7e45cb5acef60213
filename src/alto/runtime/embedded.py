"""The runtime of one process: requests, stages, engines, threads.

    async with alto.Runtime(config) as runtime:
        result = await runtime.call(factcheck, question, timeout=4.0)
        async for event in runtime.stream(factcheck, question):
            ...

A runtime opens its engines when they are first used and closes everything when it is left. It
belongs to the event loop in which it was entered.
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from ..config import Config
from ..core.admission import Admission
from ..core.budget import Budget
from ..core.calls import Call, Usage
from ..core.graph import Graph, Kind
from ..core.learning import Texts
from ..core.path import Path
from ..engines.protocol import Engine
from ..errors import ConfigError, DeadlineExceeded
from ..pipeline import Pipeline
from ..stages import LM, Stage
from ..structs import Reader, reader_for
from ..templates import prefix_of
from . import shedding, waits
from .barrier import BarrierRun
from .boundaries import Boundaries
from .driver import Run
from .events import Event
from .threads import Threads, start_thread, tell
from .units import Unit


class Request:
    """A request that has been started. `id` names it in logs and traces."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.id = run.id

    @property
    def usage(self) -> Usage:
        """Tokens that the request's LM calls have used so far: as servers told, else by
        estimate."""
        return self._run.usage

    @property
    def reasoning(self) -> dict[tuple[str, Path], str]:
        """Reasoning text of LM stages, by stage and path."""
        return {key: "".join(pieces) for key, pieces in self._run.aside.reasoning.items()}

    @property
    def finished(self) -> bool:
        """Whether the request is over."""
        return self._run.ended

    async def result(self) -> Any:
        """The outputs, when the request is over: a value, or a dict of them; items below the
        request's level as lists in path order. Raises what the request failed with.

        Cancelling the wait does not cancel the request; `cancel()` does.
        """
        await waits.closed(self._run)
        return result_of(self._run)

    async def events(self) -> AsyncIterator[Event]:
        """Every output item as soon as it exists, then the end. Raises what the request failed
        with. For one reader."""
        while events := await waits.next_events(self._run):
            for event in events:
                yield event
        await waits.closed(self._run)
        if self._run.error is not None:
            raise self._run.error

    def cancel(self) -> None:
        """Stop the request; `result()` and `events()` raise `asyncio.CancelledError`."""
        self._run.cancel(asyncio.CancelledError(f"request {self.id} was cancelled"))

    def __repr__(self) -> str:
        state = "over" if self.finished else "under way"
        return f"<request {self.id} of {self._run.pipeline.name}, {state}>"


def result_of(run: Run) -> Any:
    """What `call` returns for a request that is over."""
    if run.error is not None:
        raise run.error
    results = run.execution.results()
    return results["result"] if run.pipeline.graph.single else results


def _rng_of(seed: int, request: str) -> random.Random:
    """What a request draws its luck from."""
    return random.Random(f"{seed}/{request}")


_runtimes = itertools.count(1)
"""Numbers the runtimes of this process."""


class Runtime:
    """Runs pipelines in this process."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        barrier: bool = False,
        durations: Mapping[str, float] | None = None,
        name: str | None = None,
    ) -> None:
        """`barrier`: each stage starts when all before it are complete, as systems without
        streaming do (for comparisons). `durations`: seconds that stages take on virtual time.
        `name` begins the ids of requests (by default the process id, and which runtime of the
        process it is).
        """
        self.config = config or Config()
        self.barrier = barrier
        self.seed = self.config.seed
        self.rng_of = partial(_rng_of, self.seed)
        self.units: dict[str, Unit] = {}
        self._by_graph: dict[int, tuple[Graph, list[Unit | None]]] = {}
        self._engines: dict[str, Engine] = {}
        self._readers: dict[int, tuple[LM[Any, Any], Reader[Any]]] = {}
        self._boundaries: dict[int, Boundaries] = {}
        self._requests: set[Run] = set()
        self._cleaning: set[Run] = set()  # over, but their tasks have not all ended
        self._checked: set[Pipeline[Any, Any]] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._names = itertools.count(1)
        self._prefix = f"{os.getpid():x}.{next(_runtimes)}" if name is None else name
        self.admission = Admission()
        self._texts = Texts()  # what is learned of tokens, for budgets
        self._threads: Threads | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.inline = False
        self.durations = dict(durations or {})

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.open_requests} requests under way"
        return f"<runtime with engines {', '.join(self.config.engines) or 'none'}; {state}>"

    # ---------------------------------------------------------------- life

    async def __aenter__(self) -> Runtime:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what still runs, close instances and engines, end the threads.

        Everything is closed even if something raises; the first error is then raised.
        """
        self._closed = True
        for run in list(self._requests):
            run.cancel(asyncio.CancelledError("the runtime was closed"))
        tasks = {task for run in self._cleaning for task in run.tasks} | self._background
        tasks.discard(asyncio.current_task())
        for task in self._background:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=waits.CLEANUP_S)
        errors: list[Exception] = []
        for unit in self.units.values():
            try:
                await unit.aclose()
            except Exception as error:
                errors.append(error)
        engines, self._engines = self._engines, {}
        for engine in engines.values():
            try:
                await engine.aclose()
            except Exception as error:
                errors.append(error)
        if self._threads is not None:
            self._threads.close()
        if errors:
            raise errors[0]

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The engines that have been opened, by name."""
        return dict(self._engines)

    @property
    def open_requests(self) -> int:
        """How many requests are under way."""
        return len(self._requests)

    def stories(self) -> list[str]:
        """What each request under way is doing, for error messages."""
        return sorted(run.story() for run in self._requests)

    # ---------------------------------------------------------------- requests

    async def call(
        self,
        pipeline: Pipeline[Any, Any],
        *args: Any,
        timeout: float | None = None,
        token_budget: int | None = None,
        priority: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Run a pipeline and wait for its outputs: one value, or a dict of them.

        Outputs below the request's level are lists in path order; an absent one at that level is
        None. `timeout` is in seconds, for the whole request; `token_budget` is what its LM calls
        may spend, in tokens of prompts and answers. LM calls of requests of higher `priority` go
        first, and under overload such requests are refused last. Cancelling the call cancels the
        request. Raises `StageError`, `DeadlineExceeded`, `Overloaded` and the other `AltoError`s.
        """
        run = self._begin(pipeline, args, kwargs, timeout, token_budget, priority, stream=False)
        try:
            await waits.closed(run)
        except asyncio.CancelledError as error:
            run.cancel(error)
            await waits.closed(run)
            raise
        return result_of(run)

    async def stream(
        self,
        pipeline: Pipeline[Any, Any],
        *args: Any,
        timeout: float | None = None,
        token_budget: int | None = None,
        priority: int = 0,
        delivery: str = "provisional",
        **kwargs: Any,
    ) -> AsyncGenerator[Event, None]:
        """Run a pipeline and get each output item as soon as it exists (`Event`).

        A stage that retries may change what it gave: then the item comes again with
        `revised=True`, or `withdrawn=True` if it is gone. With `delivery="committed"` items are
        held until nothing can change them. Leaving the loop early cancels the request.
        """
        if delivery not in ("provisional", "committed"):
            raise ConfigError(
                f"Runtime.stream: delivery is {delivery!r}, expected 'provisional' or 'committed'."
            )
        run = self._begin(
            pipeline,
            args,
            kwargs,
            timeout,
            token_budget,
            priority,
            stream=True,
            keep=False,
            committed=delivery == "committed",
            bounded=True,
        )
        try:
            while events := await waits.next_events(run):
                for event in events:
                    yield event
            await waits.closed(run)
            if run.error is not None:
                raise run.error
        finally:
            if not run.ended:
                run.cancel(asyncio.CancelledError("the reader of the stream has gone"))
                await waits.closed(run)

    def start(
        self,
        pipeline: Pipeline[Any, Any],
        *args: Any,
        timeout: float | None = None,
        token_budget: int | None = None,
        priority: int = 0,
        **kwargs: Any,
    ) -> Request:
        """Start a request and go on: `result()`, `events()`, `cancel()`, `usage`."""
        return Request(
            self._begin(pipeline, args, kwargs, timeout, token_budget, priority, stream=True)
        )

    def _begin(
        self,
        pipeline: Pipeline[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
        token_budget: int | None,
        priority: int,
        *,
        stream: bool,
        keep: bool = True,
        committed: bool = False,
        bounded: bool = False,
    ) -> Run:
        if not isinstance(pipeline, Pipeline):
            raise ConfigError(
                f"Runtime: got {pipeline!r}, expected a pipeline. Decorate the function with "
                "@pipeline."
            )
        if self._closed:
            raise ConfigError(f"Runtime: {pipeline.name} was called after the runtime was closed.")
        arguments = pipeline.bind(args, kwargs)
        self.check(pipeline)
        loop = self._own_loop()
        timeout = self.config.timeout if timeout is None else timeout
        if timeout is not None and (
            isinstance(timeout, bool) or not isinstance(timeout, int | float)
        ):
            raise ConfigError(
                f"pipeline {pipeline.name}: timeout is {timeout!r}, expected a number of seconds."
            )
        if timeout is not None and not timeout > 0:
            raise DeadlineExceeded(
                f"pipeline {pipeline.name}: timeout={timeout:g} s leaves no time."
            )
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise ConfigError(
                f"pipeline {pipeline.name}: priority is {priority!r}, expected a whole number: 0 "
                "for ordinary requests, more for more important ones."
            )
        now = loop.time()
        deadline = None if timeout is None else now + timeout
        budget = self._budget(pipeline, token_budget)
        load = shedding.load_of(self, pipeline, deadline, priority, now)
        kind = BarrierRun if self.barrier else Run
        run = kind(
            self,
            pipeline,
            f"{self._prefix}-{next(self._names)}",
            deadline=deadline,
            stream=stream,
            keep=keep,
            committed=committed,
            bounded=bounded,
        )
        run.budget, run.priority = budget, priority
        if load is not None:
            run.ticket = self.admission.begin(load, deadline, priority, now)
        self._requests.add(run)
        run.safely(run.begin, arguments)
        return run

    def _budget(self, pipeline: Pipeline[Any, Any], tokens: int | None) -> Budget | None:
        """What a request may spend on LM calls, if that is limited."""
        tokens = self.config.token_budget if tokens is None else tokens
        if tokens is None:
            return None
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise ConfigError(
                f"pipeline {pipeline.name}: token_budget is {tokens!r}, expected a whole number of "
                "tokens, 1 or more, or None for no limit."
            )
        return Budget(tokens, self._texts)

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        """The loop in which the runtime was first used; it works in no other."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self.inline = bool(getattr(loop, "virtual", False))
        elif self._loop is not loop:
            raise ConfigError(
                "Runtime: it was used in another event loop before, and its engines and stages "
                "belong to that one. Make a Runtime for each loop."
            )
        return loop

    def over(self, run: Run, cleaning: bool) -> None:
        """A request is over; `cleaning`: its tasks have not all ended."""
        self._requests.discard(run)
        shedding.settle(run)
        if cleaning:
            self._cleaning.add(run)

    def forget(self, run: Run) -> None:
        """The last task of a request that is over has ended."""
        self._cleaning.discard(run)

    def check(self, pipeline: Pipeline[Any, Any]) -> None:
        """Raise `ConfigError` for what the configuration lacks for this pipeline."""
        if pipeline not in self._checked:
            problems = self.problems(pipeline)
            if problems:
                raise ConfigError("\n\n".join(problems))
            self._checked.add(pipeline)

    def prepare(self, pipeline: Pipeline[Any, Any]) -> None:
        """Check a pipeline, and let replicas read what its prompts begin with, where stages want
        that (`@lm(prewarm=True)`), before the first request; else that begins with it. Call it
        in the event loop. What it costs is in no request's usage."""
        self.check(pipeline)
        self._own_loop()
        self.units_of(pipeline.graph)

    def problems(self, pipeline: Pipeline[Any, Any]) -> list[str]:
        """What the configuration lacks for this pipeline, each in words."""
        problems = []
        for use in pipeline.graph.uses:
            stage, changed = use.stage, None
            if isinstance(stage, LM):
                problems += [
                    str(self._unknown_engine(name, use.name, pipeline.name))
                    for name in self.config.engines_of(stage)
                    if name not in self.config.engines
                ]
            elif stage is not None:
                changed = self.config.stages.get(stage.name)
            if changed is not None and changed.for_lm:
                problems.append(
                    f"pipeline {pipeline.name}, stage {use.name}: [stages.{stage.name}] sets "
                    f"{' and '.join(changed.for_lm)}, and it is no @lm stage. Take that out, or "
                    "name the @lm stage that is meant."
                )
        return problems

    def _unknown_engine(self, name: str, stage: str, pipeline: str = "") -> ConfigError:
        known = sorted(self.config.engines)
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        where = f"pipeline {pipeline}, stage {stage}" if pipeline else f"stage {stage}"
        return ConfigError(
            f"{where}: engine {name!r} is not configured; there is "
            f"{', '.join(map(repr, known)) or 'none'}. {hint}Add it to Config(engines={{...}}) or "
            f"as [engines.{name}] to alto.toml."
        )

    # ---------------------------------------------------------------- what a run uses

    def units_of(self, graph: Graph) -> list[Unit | None]:
        """The unit of each use of a graph, by index."""
        known = self._by_graph.get(id(graph))
        if known is None:
            units = [
                self._unit(use.stage) if use.kind is Kind.STAGE else None for use in graph.uses
            ]
            known = self._by_graph[id(graph)] = (graph, units)
            self._read_templates(units)
        return known[1]

    def _read_templates(self, units: list[Unit | None]) -> None:
        """Have read what the prompts of stages begin with, where they want that."""
        for unit in units:
            stage = unit.stage if unit is not None else None
            if unit is None or not isinstance(stage, LM) or not stage.prewarm:
                continue
            messages = prefix_of(stage)
            warm = getattr(self.engine(unit.engines[0], unit.name), "warm", None)
            if messages and warm is not None:
                warm(Call(messages=messages, stage=unit.name, model=unit.model, extra=stage.extra))

    def _unit(self, stage: Stage[Any, Any]) -> Unit:
        unit = self.units.get(stage.name)
        if unit is not None and unit.stage is stage:
            return unit
        key = stage.name
        while key in self.units and self.units[key].stage is not stage:
            key += "'"
        if key not in self.units:
            self.units[key] = Unit(self, stage, self.config.stages.get(stage.name))
        return self.units[key]

    def reader(self, stage: LM[Any, Any]) -> Reader[Any]:
        """How the text of an LM stage is read."""
        known = self._readers.get(id(stage))
        if known is None:
            known = self._readers[id(stage)] = (
                stage,
                reader_for(stage.item_type, stage.fans_out),
            )
        return known[1]

    def boundaries(self, stage: LM[Any, Any]) -> Callable[[str], Sequence[int]] | None:
        """On virtual time: where in a text the reader of this stage has something to do."""
        if not self.inline or (stage.fans_out and stage.item_type is str):
            return None
        known = self._boundaries.get(id(stage))
        if known is None:
            known = self._boundaries[id(stage)] = Boundaries(self.reader(stage), stage.fans_out)
        return known

    def engine(self, name: str, stage: str = "") -> Engine:
        """The engine of that name, opened."""
        engine = self._engines.get(name)
        if engine is None:
            spec = self.config.engines.get(name)
            if spec is None:
                raise self._unknown_engine(name, stage or "?")
            engine = self._engines[name] = spec.open(name)
        return engine

    def spawn(self, work: Coroutine[Any, Any, None], context: Context) -> None:
        """Run something that belongs to no single request."""
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ---------------------------------------------------------------- blocking code

    @property
    def threads(self) -> Threads:
        """The threads of blocking stages."""
        if self._threads is None:
            self._threads = Threads()
        return self._threads

    async def offload(self, function: Callable[[], Any]) -> Any:
        """Run blocking code off the loop."""
        if self.inline:
            return function()
        return await asyncio.wrap_future(self.threads.submit(function))


def run(
    pipeline: Pipeline[Any, Any],
    *args: Any,
    config: Config | None = None,
    timeout: float | None = None,
    token_budget: int | None = None,
    priority: int = 0,
    **kwargs: Any,
) -> Any:
    """Run a pipeline once and wait for its outputs, as `Runtime.call` does. Works where an event
    loop is already running, too (in a notebook): then in a thread with a loop of its own."""

    async def main() -> Any:
        async with Runtime(config) as runtime:
            return await runtime.call(
                pipeline,
                *args,
                timeout=timeout,
                token_budget=token_budget,
                priority=priority,
                **kwargs,
            )

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    tasks: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def aside() -> Any:
        task = asyncio.current_task()
        assert task is not None
        tasks.append((asyncio.get_running_loop(), task))
        return await main()

    context = copy_context()
    future = start_thread("run", lambda: context.run(asyncio.run, aside()))
    try:
        return future.result()
    except BaseException:
        if not future.done() and tasks:  # Ctrl-C in a notebook
            tell(tasks[0][0], tasks[0][1].cancel)
        raise
