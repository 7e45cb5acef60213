"""A server that keeps one prompt a slot, as llama-server does, on virtual time.

Written from that server's own rules, not from ALTO's picture of them (`core/slots.py`): a call gets
the free slot that shares most of its prompt, if more than a tenth, else the one unused for longest;
it waits in line while none is free. All slots are served together, step by step; what is read and
written in a step makes it longer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from alto.core.calls import Call, Delta, Usage

STEP_S = 0.002
TOKENS_PER_S = 1500.0
STEP_TOKENS_MAX = 2048


@dataclass(eq=False)
class Job:
    words: list[str]
    to_write: int
    cached: int = 0
    to_read: int = 0
    written: asyncio.Queue[int] = field(default_factory=asyncio.Queue)


@dataclass(eq=False)
class Place:
    words: list[str] = field(default_factory=list)
    job: Job | None = None
    used_at: int = 0


class SlotReplica:
    """One server; a word is a token."""

    def __init__(self, name: str, slots: int) -> None:
        self.name = name
        self.places = [Place() for _ in range(slots)]
        self.asked = self.found = 0
        self._line: deque[Job] = deque()
        self._ended = 0
        self._running: asyncio.Task[None] | None = None

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        assert call.max_tokens is not None
        job = Job(call.messages[-1]["content"].split(), call.max_tokens)
        self._line.append(job)
        self._seat()
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        for _ in range(job.to_write - 1):
            await job.written.get()
            yield Delta("word ")
        await job.written.get()
        usage = Usage(len(job.words), call.max_tokens, job.cached, calls=1)
        yield Delta("word", finish_reason="length", usage=usage)

    async def aclose(self) -> None: ...

    def _seat(self) -> None:
        while self._line and (free := [place for place in self.places if place.job is None]):
            job = self._line.popleft()
            alike = max(free, key=lambda place: _common(place.words, job.words))
            if _common(alike.words, job.words) <= len(job.words) / 10:
                alike = min(free, key=lambda place: place.used_at)
            job.cached = _common(alike.words, job.words)
            job.to_read = len(job.words) - job.cached
            self.asked += len(job.words)
            self.found += job.cached
            alike.words, alike.job = job.words, job

    async def _run(self) -> None:
        while busy := [place for place in self.places if place.job is not None]:
            tokens = 0
            writing: list[tuple[Place, Job]] = []
            for place in busy:
                assert place.job is not None
                part = min(place.job.to_read, STEP_TOKENS_MAX - tokens)
                place.job.to_read -= part
                tokens += max(part, 1)
                if not place.job.to_read:
                    writing.append((place, place.job))
            await asyncio.sleep(STEP_S + tokens / TOKENS_PER_S)
            for place, job in writing:
                job.to_write -= 1
                job.written.put_nowait(job.to_write)
                if not job.to_write:
                    self._ended += 1
                    place.job, place.used_at = None, self._ended
            self._seat()
        self._running = None


def _common(one: list[str], other: list[str]) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
