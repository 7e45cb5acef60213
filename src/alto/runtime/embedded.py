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
import inspect
import itertools
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from ..config import Config
from ..core.calls import Usage
from ..core.graph import Graph, Kind
from ..core.path import Path
from ..engines.protocol import Engine
from ..errors import ConfigError, DeadlineExceeded
from ..pipeline import Pipeline
from ..stages import LM, Stage
from ..structs import Reader, reader_for
from . import threads
from .barrier import BarrierRun
from .boundaries import Boundaries
from .driver import Event, Run
from .units import Unit

THREADS_MAX = 64
"""Threads for blocking stages that read no stream; sessions have a thread each."""


class Request:
    """A request that has been started. `id` names it in logs and traces."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.id = run.id

    @property
    def usage(self) -> Usage:
        """Tokens that the request's LM calls have used so far."""
        return self._run.usage

    @property
    def reasoning(self) -> dict[tuple[str, Path], str]:
        """Reasoning text of LM stages, by stage and path."""
        return dict(self._run.reasoning)

    @property
    def finished(self) -> bool:
        """Whether the request is over."""
        return self._run.done.is_set()

    async def result(self) -> Any:
        """The outputs, when the request is over: a value, or a dict of them; items below the
        request's level as lists in path order. Raises what the request failed with.

        Cancelling the wait does not cancel the request; `cancel()` does.
        """
        await self._run.closed()
        return result_of(self._run)

    async def events(self) -> AsyncIterator[Event]:
        """Every output item as soon as it exists, then the end. Raises what the request failed
        with. For one reader."""
        while events := await self._run.next_events():
            for event in events:
                yield event
        await self._run.closed()
        if self._run.error is not None:
            raise self._run.error

    def cancel(self) -> None:
        """Stop the request; `result()` and `events()` raise `asyncio.CancelledError`."""
        self._run.cancel(asyncio.CancelledError(f"request {self.id} was cancelled"))


def result_of(run: Run) -> Any:
    """What `call` returns for a request that is over."""
    if run.error is not None:
        raise run.error
    results = run.execution.results()
    return results["result"] if run.pipeline.graph.single else results


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
        streaming do (for comparisons). `durations`: seconds that blocking stages take on virtual
        time. `name` begins the ids of requests (the process id by default).
        """
        self.config = config or Config()
        self.barrier = barrier
        self.seed = self.config.seed
        self.units: dict[str, Unit] = {}
        self._by_graph: dict[int, tuple[Graph, list[Unit | None]]] = {}
        self._engines: dict[str, Engine] = {}
        self._readers: dict[int, tuple[LM[Any, Any], Reader[Any]]] = {}
        self._boundaries: dict[int, Boundaries] = {}
        self._requests: set[Run] = set()
        self._checked: set[Pipeline[Any, Any]] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._names = itertools.count(1)
        self._prefix = f"{os.getpid():x}" if name is None else name
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._inline = False
        self.durations = dict(durations or {})

    # ---------------------------------------------------------------- life

    async def __aenter__(self) -> Runtime:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what still runs, close instances and engines, end the threads."""
        self._closed = True
        for run in list(self._requests):
            run.cancel(asyncio.CancelledError("the runtime was closed"))
            await run.closed()
        for task in list(self._background):
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
        for unit in self.units.values():
            await unit.aclose()
        for engine in self._engines.values():
            await engine.aclose()
        self._engines.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The engines that have been opened, by name."""
        return dict(self._engines)

    @property
    def open_requests(self) -> int:
        """How many requests are under way."""
        return len(self._requests)

    # ---------------------------------------------------------------- requests

    async def call(
        self, pipeline: Pipeline[Any, Any], *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Run a pipeline and wait for its outputs: one value, or a dict of them.

        Outputs below the request's level are lists in path order; an absent one at that level is
        None. `timeout` is in seconds, for the whole request. Cancelling the call cancels the
        request. Raises `StageError`, `DeadlineExceeded` and the other `AltoError`s.
        """
        run = self._begin(pipeline, args, kwargs, timeout, stream=False)
        try:
            await run.closed()
        except asyncio.CancelledError as error:
            run.cancel(error)
            await run.closed()
            raise
        return result_of(run)

    async def stream(
        self,
        pipeline: Pipeline[Any, Any],
        *args: Any,
        timeout: float | None = None,
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
            stream=True,
            keep=False,
            committed=delivery == "committed",
            bounded=True,
        )
        try:
            while events := await run.next_events():
                for event in events:
                    yield event
            await run.closed()
            if run.error is not None:
                raise run.error
        finally:
            if not run.done.is_set():
                run.cancel(asyncio.CancelledError("the reader of the stream has gone"))
                await run.closed()

    def start(
        self, pipeline: Pipeline[Any, Any], *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Request:
        """Start a request and go on: `result()`, `events()`, `cancel()`, `usage`."""
        return Request(self._begin(pipeline, args, kwargs, timeout, stream=True))

    def _begin(
        self,
        pipeline: Pipeline[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
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
        loop = asyncio.get_running_loop()
        self._inline = bool(getattr(loop, "virtual", False))
        timeout = self.config.timeout if timeout is None else timeout
        if timeout is not None and timeout <= 0:
            raise DeadlineExceeded(
                f"pipeline {pipeline.name}: timeout={timeout:g} s leaves no time."
            )
        kind = BarrierRun if self.barrier else Run
        run = kind(
            self,
            pipeline,
            f"{self._prefix}-{next(self._names)}",
            deadline=None if timeout is None else loop.time() + timeout,
            stream=stream,
            keep=keep,
            committed=committed,
            bounded=bounded,
        )
        self._requests.add(run)
        run.begin(arguments)
        return run

    def forget(self, run: Run) -> None:
        """A request is over."""
        self._requests.discard(run)

    def check(self, pipeline: Pipeline[Any, Any]) -> None:
        """Raise `ConfigError` for what the configuration lacks for this pipeline."""
        if pipeline not in self._checked:
            problems = self.problems(pipeline)
            if problems:
                raise ConfigError("\n\n".join(problems))
            self._checked.add(pipeline)

    def problems(self, pipeline: Pipeline[Any, Any]) -> list[str]:
        """What the configuration lacks for this pipeline, each in words."""
        return [
            str(self._unknown_engine(name, use.name, pipeline.name))
            for use in pipeline.graph.uses
            if isinstance(use.stage, LM)
            for name in use.stage.engines
            if name not in self.config.engines
        ]

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
        return known[1]

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
        if not self._inline or (stage.fans_out and stage.item_type is str):
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

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that belongs to no single request."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ---------------------------------------------------------------- blocking code

    def _executor(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="alto")
        return self._pool

    async def offload(self, function: Callable[[], Any]) -> Any:
        """Run blocking code off the loop."""
        if self._inline:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._executor(), function)

    async def call_plain(
        self,
        unit: Unit,
        function: Callable[..., Any],
        arguments: dict[str, Any],
        held: list[Future[Any]],
        session: bool = False,
    ) -> Any:
        """Call a stage's function, in a thread if it blocks. A thread goes into `held`: whoever
        took a place for it waits for it before the place is free."""
        args, kwargs = threads.split(unit.positional, arguments)
        if unit.is_async:
            return await function(*args, **kwargs)
        if self._inline:
            args, kwargs = await _whole(args), await _whole_dict(kwargs)
            await self._pretend(unit)
            return function(*args, **kwargs)
        context = copy_context()
        if session:
            future = threads.start_thread(unit.name, lambda: context.run(function, *args, **kwargs))
        else:
            future = self._executor().submit(context.run, function, *args, **kwargs)
        held.append(future)
        value = await asyncio.wrap_future(future)
        if inspect.isawaitable(value):
            return await value
        return value

    def iterate(
        self,
        unit: Unit,
        function: Callable[..., Any],
        arguments: dict[str, Any],
        held: list[Future[Any]],
    ) -> AsyncIterator[Any]:
        """The items of a blocking generator."""
        args, kwargs = threads.split(unit.positional, arguments)
        if self._inline:
            return self._inline_items(unit, function, args, kwargs)
        return threads.ThreadedItems(unit.name, lambda: function(*args, **kwargs), held)

    async def _inline_items(
        self, unit: Unit, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        args, kwargs = await _whole(args), await _whole_dict(kwargs)
        await self._pretend(unit)
        for item in function(*args, **kwargs):
            yield item

    async def _pretend(self, unit: Unit) -> None:
        duration = self.durations.get(unit.name)
        if duration:
            await asyncio.sleep(duration)

    def release_after(self, unit: Unit, place: int, held: list[Future[Any]]) -> None:
        """Give a place back once the threads that use it have ended."""
        pending = [future for future in held if not future.done()]
        if not pending:
            unit.release(place)
            return
        loop = asyncio.get_running_loop()
        left = len(pending)
        lock = threading.Lock()

        def ended(_: Future[Any]) -> None:
            nonlocal left
            with lock:
                left -= 1
                last = left == 0
            if last and not loop.is_closed():
                loop.call_soon_threadsafe(unit.release, place)

        for future in pending:
            future.add_done_callback(ended)


async def _whole(args: list[Any]) -> list[Any]:
    return [await _whole_one(value) for value in args]


async def _whole_dict(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: await _whole_one(value) for name, value in kwargs.items()}


async def _whole_one(value: Any) -> Any:
    """On virtual time blocking code runs inline: a stream is read to its end before."""
    from ..annotations import Stream
    from .readers import LiveStream

    if isinstance(value, LiveStream):
        return Stream.of(*[item async for item in value])
    return value


def run(
    pipeline: Pipeline[Any, Any],
    *args: Any,
    config: Config | None = None,
    timeout: float | None = None,
    **kwargs: Any,
) -> Any:
    """Run a pipeline once and wait for its outputs. Works where an event loop is already running,
    too (in a notebook): then in a thread with a loop of its own."""

    async def main() -> Any:
        async with Runtime(config) as runtime:
            return await runtime.call(pipeline, *args, timeout=timeout, **kwargs)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    return threads.start_thread("run", lambda: asyncio.run(main())).result()
