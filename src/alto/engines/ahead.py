"""A call whose prompt is still growing, and the prewarm that reads its beginning somewhere.

`Pool.ahead()` makes one. It is told what is known of the prompt (`grow`), and goes along with the
call in the end (`Call.ahead`). When and where something is sent is decided by the pool's core
(`core/prewarm.py`); this reads what a replica answers, one token, and throws it away.

Always true:
    A1  no error of a prewarm leaves it, and nobody ever waits for one, but to have it closed
    A2  once the call is submitted, or `aclose` has returned, no prewarm is under way
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from ..core.calls import Call, Usage
from ..core.pool import CallPool
from ..core.pool_events import Event, Grew, Left, Warmed
from ..core.prompt import read
from ..core.scheduling import CallId, ReplicaId
from .protocol import Replica

Used = Callable[[Usage], None]


class Ahead:
    """One growing call, seen from its pool. `used` is told what its prewarms cost; None: no call
    follows, and it is told of once."""

    def __init__(
        self,
        number: CallId,
        core: CallPool,
        tell: Callable[[Event], None],
        replicas: Sequence[Replica],
        growing: dict[CallId, Ahead],
        used: Used | None,
    ) -> None:
        self.number = number
        self._growing = growing
        """Of its pool. It stands there until its call is submitted, or gone."""
        growing[number] = self
        self._core = core
        self._tell = tell
        self._replicas = replicas
        self._used = used
        self._alone = used is None
        self._call: Call | None = None
        """As the core was last told of it."""
        self._size = 0
        """Bytes of its prompt."""
        self._soon: asyncio.Handle | None = None
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        """The prewarm under way, and those that are being closed."""

    def grow(self, size: int, call: Callable[[], Call]) -> None:
        """The prompt has grown to about `size` bytes; `call` makes the call with what is known.

        Nothing is done before the loop comes by: what is known by then counts, and while parts
        come one after the other there is nothing to wait for.
        """
        tokens = (size - self._size) * self._core.texts.tokens_per_byte.value
        if self._soon is None and tokens >= self._core.limits.prewarm_tokens_min:
            self._soon = asyncio.get_running_loop().call_soon(self._grew, call)

    def _grew(self, make: Callable[[], Call]) -> None:
        self._soon = None
        call = self._call = make()
        prompt = read(call, hashed=self._core.uses_prefix)
        self._size = prompt.size
        self._tell(
            Grew(
                self.number,
                prompt,
                call.stage,
                call.request,
                call.deadline,
                call.max_tokens,
                self._alone,
            )
        )

    def warm(self, replica: ReplicaId) -> None:
        """Let this replica read what is known."""
        assert self._call is not None and self._task is None
        call = replace(
            self._call,
            max_tokens=1,
            stop=(),
            schema=None,
            schema_name="",
            boundaries=None,
            prewarm=True,
        )
        self._task = asyncio.get_running_loop().create_task(self._read(replica, call, self._size))
        self._tasks.add(self._task)
        self._task.add_done_callback(self._tasks.discard)

    async def _read(self, replica: ReplicaId, call: Call, size: int) -> None:
        usage: Usage | None = None
        failed = False
        try:
            async with aclosing(self._replicas[replica].stream(call)) as deltas:
                async for delta in deltas:
                    usage = delta.usage or usage
        except asyncio.CancelledError:
            self._cost(usage, size)
            raise
        except Exception:
            failed = True
        self._cost(usage, 0 if failed else size)
        self._task = None
        if self._alone:
            self._growing.pop(self.number, None)
        self._tell(Warmed(self.number, replica, usage, failed))

    def _cost(self, usage: Usage | None, size: int) -> None:
        """What a prewarm used: as told, else estimated."""
        if usage is not None:
            tokens = usage.total_tokens
        else:
            tokens = round(size * self._core.texts.tokens_per_byte.value)
        if tokens and self._used is not None:
            self._used(Usage(prewarm_tokens=tokens))

    def stop(self) -> None:
        """End the prewarm that is under way. What has been read stays in the engine's cache."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def submitted(self) -> None:
        """The prompt is complete."""
        self._growing.pop(self.number, None)
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self.stop()

    @property
    def is_over(self) -> bool:
        """No call follows, and nothing will be read any more: it has been, or is not worth it."""
        busy = self._soon is not None or self._tasks
        return self._alone and not busy and self.number not in self._core.ahead.calls

    async def aclose(self) -> None:
        """The call is over, or will never be: wait until nothing is under way."""
        if self.number in self._growing:
            self.submitted()
            self._tell(Left(self.number))
        if self._tasks:
            await asyncio.wait(self._tasks)
