"""A stage as this process runs it: its instances, the places in them, and its batches.

A `Unit` is shared by all requests of a runtime. An invocation that finds no free place waits in the
queue of `places`. Instances of a class are made once, off the loop, when the first invocation needs
them; whoever gives up waiting for them does not disturb the others.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..annotations import stream_element
from ..config import StageConfig
from ..core.calls import Call
from ..core.execution import Invocation
from ..engines.protocol import Ask
from ..errors import StageError, StageMistake
from ..stages import LM, Stage
from .batches import Batch, given
from .places import Place, Places

if TYPE_CHECKING:
    from .driver import Run
    from .embedded import Runtime


DRAIN_S = 5.0
"""How long closing an instance waits for threads that are still in its code."""


class Unit:
    """One stage in one runtime."""

    def __init__(
        self, runtime: Runtime, stage: Stage[Any, Any], config: StageConfig | None
    ) -> None:
        self.runtime = runtime
        self.stage = stage
        self.name = stage.name
        self.instances = (config.instances if config else None) or stage.instances
        limit = (config.max_concurrency if config else None) or stage.max_concurrency
        self.batch = (config.batch if config else None) or stage.batch
        if stage.batch is None:
            self.batch = None
        wait = config.max_wait if config else None
        self.max_wait = stage.max_wait if wait is None else wait
        self.init = dict(config.init) if config else {}
        self.gated = limit is not None or stage.is_class
        self.places = Places(self, self.instances, limit)
        self.objects: list[Any] | None = None
        self._making: asyncio.Task[list[Any]] | None = None
        self.is_lm = isinstance(stage, LM)
        if isinstance(stage, LM):
            here = config or StageConfig()
            self.engines = runtime.config.engines_of(stage)
            self.model = stage.model if here.model is None else here.model
            self.max_tokens = stage.max_tokens if here.max_tokens is None else here.max_tokens
            self.temperature = stage.temperature if here.temperature is None else here.temperature
        self.is_async = stage.is_async
        self.is_generator = stage.is_generator
        self.fans_out = stage.fans_out
        parameters = stage.signature.parameters.values()
        self.reads_streams = any(
            stream_element(stage.hints.get(p.name)) is not None for p in parameters
        )
        self.positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
        self.writes = (
            self.is_lm and not self.is_generator and not self.reads_streams and not self.positional
        )
        """An LM stage whose prompt comes from just calling its function."""
        self.reader = runtime.reader(stage) if isinstance(stage, LM) else None
        self.template: Call | None = None
        """Of an LM stage: what its calls have in common, once there was one."""
        self.ask: Ask | None = None
        """How its engine is asked, if that is the only one, once it has been."""
        self.batches: dict[Any, Batch] = {}
        self.pretends = stage.name in runtime.durations
        """It is said to take some time, on virtual time."""
        self.direct = not self.gated and self.batch is None
        """What is ready starts: it waits for no place and no batch."""
        self.plain = (
            self.is_async
            and self.direct
            and not self.pretends
            and not self.is_generator
            and not self.is_lm
            and not self.fans_out
            and not self.positional
        )

    async def function(self, place: Place | None) -> Callable[..., Any]:
        """What to call for an invocation at this place."""
        if not self.stage.is_class:
            return self.stage.function
        assert place is not None
        if self.objects is None:
            if self._making is None:
                self._making = asyncio.create_task(self._make())
            making = self._making
            try:
                self.objects = await asyncio.shield(making)
            except Exception as error:
                if self._making is making:
                    self._making = None  # the next one tries again
                raise self._unmade(error) from error
        made: Callable[..., Any] = self.objects[place.number]
        return made

    async def _make(self) -> list[Any]:
        """Every instance; if one of them cannot be made, the others are closed again."""
        made: list[Any] = []
        try:
            for _ in range(self.instances):
                made.append(await self.runtime.offload(self._one))
        except BaseException:
            for instance in made:
                await self._close(instance)
            raise
        return made

    def _one(self) -> Any:
        return self.stage.function(**self.init)

    def _unmade(self, error: Exception) -> StageMistake:
        return StageMistake(
            f"making an instance with init {self.init!r} raised "
            f"{type(error).__name__}: {error}. Init arguments come from "
            f"[stages.{self.name}.init].",
            stage=self.name,
        )

    async def aclose(self) -> None:
        """Close the instances that have a `close()`; all of them, even if one raises."""
        for batch in list(self.batches.values()):
            batch.cancel()
        self.batches.clear()
        making, self._making = self._making, None
        if making is not None:  # a thread makes it, and cannot be stopped
            await asyncio.wait([making])
            if not making.cancelled() and making.exception() is None:
                self.objects = making.result()
        objects, self.objects = self.objects or [], None
        if any(hasattr(made, "close") for made in objects):
            await self.places.drained(DRAIN_S)
        errors = []
        for made in objects:
            try:
                await self._close(made)
            except Exception as error:
                errors.append(error)
        if errors:
            raise StageError(
                f"stage {self.name}: closing an instance raised {type(errors[0]).__name__}: "
                f"{errors[0]}. Everything else has been closed.",
                stage=self.name,
            ) from errors[0]

    async def _close(self, made: Any) -> None:
        close = getattr(made, "close", None)
        if close is None:
            return
        if inspect.iscoroutinefunction(close):
            await close()
            return
        closed = await self.runtime.offload(close)
        if inspect.isawaitable(closed):
            await closed

    def enqueue(self, run: Run, invocation: Invocation) -> None:
        """Put an invocation into the batch that is forming."""
        use = invocation.use
        key: Any = use if use.constants else given(use)
        batch = self.batches.get(key)
        if batch is None:
            batch = self.batches[key] = Batch(self, key)
        batch.add(run, invocation)
