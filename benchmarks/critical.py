"""How soon could one verification request be over? Computed from the engine model alone.

Each LM call is played by itself on an idle simulated server, which gives the time of every piece
of its text. Then texts are put behind each other: a sentence is there when the text goes on after
its full stop (before that, "in 3." may become "in 3.14") or ends, a claim when its JSON object
closes, a verdict when its text ends. No orchestrator is involved, so this is a limit for any:
nothing that waits for what it reads can be sooner.

Each call is taken to have a server of its own, so the limit holds where there are many.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from alto import Simulated
from alto.core.calls import Call
from alto.engines.protocol import Engine
from alto.engines.sim_replica import SimReplica

from . import workload


def respond(call: Call) -> str:
    """The workload's text for a call, by its prompt."""
    return workload.respond(call.messages[-1]["content"])


@dataclass(frozen=True, slots=True)
class EngineLM:
    """A simulated engine as the hand-written contender reads it: prompt in, pieces out."""

    engine: Engine | SimReplica

    async def stream(self, prompt: str) -> AsyncGenerator[str, None]:
        call = Call(messages=[{"role": "user", "content": prompt}])
        async for delta in self.engine.stream(call):
            if delta:
                yield delta.text


@dataclass(frozen=True, slots=True)
class Alone:
    """When each piece of one call's text came, on an idle server: seconds from the call."""

    text: str
    ends: Sequence[int]
    """After each piece, how many characters there are."""
    times: Sequence[float]

    def at(self, characters: int) -> float:
        """When that many characters are there."""
        return next(
            time for end, time in zip(self.ends, self.times, strict=True) if end >= characters
        )


async def alone(spec: Simulated, prompt: str) -> Alone:
    """Play one call on a fresh server. Runs on a virtual loop."""
    (replica, *_) = spec.open_replicas("alone")
    time = asyncio.get_running_loop().time
    start, text = time(), ""
    ends: list[int] = []
    times: list[float] = []
    async for piece in EngineLM(replica).stream(prompt):
        text += piece
        ends.append(len(text))
        times.append(time() - start)
    await replica.aclose()
    return Alone(text, ends, times)


@dataclass(frozen=True, slots=True)
class Limit:
    """The soonest that the first and the last verdict can be there, in seconds."""

    first: float
    last: float


async def critical_path(
    spec: Simulated, question: str, search_s: float, *, known_at_stop: bool = False
) -> Limit:
    """The limit for one request when every search takes `search_s` and none waits for another.

    `known_at_stop` lets a sentence be there with its full stop, as if nothing had to follow: a
    limit that no reader of plain text can reach, to show what looking ahead costs.
    """
    verdicts: list[float] = []
    answer = await alone(spec, workload.answer_prompt(question))
    read = 0
    for sentence in workload.sentences_of(question):
        read = answer.text.index(sentence, read) + len(sentence)
        asked = answer.at(read if known_at_stop else min(read + 1, len(answer.text)))
        listing = await alone(spec, workload.extract_prompt(sentence))
        closed = 0
        while (closed := listing.text.find("}", closed) + 1) > 0:
            claim = listing.text[: closed - len('"}')].rpartition('"text": "')[2]
            found = asked + listing.at(closed) + search_s
            prompt = workload.verify_prompt(claim, workload.passages(claim))
            verdict = await alone(spec, prompt)
            verdicts.append(found + verdict.times[-1])
    return Limit(min(verdicts), max(verdicts))
