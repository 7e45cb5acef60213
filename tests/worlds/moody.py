"""A replica with moods: for a while it is broken, slow or a liar, then something else.

Its text is a function of the prompt, so that a reader knows what a whole answer is. Whoever goes on
with an answer that was begun elsewhere writes exactly the rest.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from random import Random

from alto.core.calls import Call, Delta, Usage
from alto.engines.protocol import Take
from alto.engines.tokens import prompt_text
from alto.errors import EngineError

WORDS = ("vein ", "oak ", "seven ", "lamp ", "north ", "fig ", "stone ", "quill ", "ember ")

MOODS = (
    "well",
    "dead",  # refuses connections; what runs breaks when the mood comes
    "refuses",  # 500 before any text
    "busy",  # 429 or 503 with a wish, which may be absurd
    "resets",  # some streams break in mid-text
    "stalls",  # falls silent in mid-text for a while
    "slow",  # ten times
    "mute",  # a stream without a word
    "cuts",  # ends in mid-text without a finish reason, as if that were all
    "miscounts",  # its usage is absurd
    "garbles",  # 200, and nonsense where a schema was asked for
    "raises",  # what no replica may raise
)
WISHES = (None, 0.0, 0.5, 20.0, 1e6, -3.0, float("nan"), float("inf"))
COUNTS = (-7, 0, 1, 10**7, 10**12)

Write = Callable[[Call], str]


def written_by_all(call: Call) -> str:
    """The whole answer to a prompt: 1 to 30 words, by what the prompt is."""
    asked = [message for message in call.messages if message["role"] != "assistant"]
    luck = Random(zlib.crc32(prompt_text(asked).encode()))
    return "".join(luck.choice(WORDS) for _ in range(luck.randint(1, 30)))


@dataclass(frozen=True, slots=True)
class Span:
    """From this time on."""

    at: float
    mood: str


class MoodyReplica:
    """A `Replica` whose mood changes by a plan. Keeps a running count of its streams."""

    def __init__(
        self, name: str, plan: Sequence[Span], luck: Random, pace_s: float, write: Write
    ) -> None:
        self.name = name
        self.plan = plan
        self.luck = luck
        self.pace_s = pace_s
        self.write = write
        self.running = 0
        self.served = 0
        """Answers given to their end."""
        self.honest: list[Usage] = []
        """What it told while it told the truth."""

    @property
    def mood(self) -> str:
        now = asyncio.get_running_loop().time()
        return self.plan[bisect_right(self.plan, now, key=lambda span: span.at) - 1].mood

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        self.running += 1
        try:
            mood = self.mood
            await asyncio.sleep(0.01)
            self._refuse(mood)
            await asyncio.sleep(self.pace_s * (10 if mood == "slow" else 2))
            async for delta in self._answer(call, mood):
                yield delta
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        pass

    def _refuse(self, mood: str) -> None:
        if mood == "dead":
            raise EngineError(f"{self.name}: connection refused")
        if mood == "refuses":
            raise EngineError(f"{self.name}: internal error", status=500)
        if mood == "busy":
            status = self.luck.choice((429, 503))
            wish = self.luck.choice(WISHES)
            raise EngineError(f"{self.name}: too many requests", status=status, retry_after=wish)
        if mood == "raises" and self.luck.random() < 0.5:
            raise KeyError("choices")

    async def _answer(self, call: Call, mood: str) -> AsyncGenerator[Delta, None]:
        if mood == "mute":
            return
        text = self.write(call)
        begun = self._begun(call)
        if mood == "garbles" and call.schema is not None:
            text, begun = "I would rather < not { say", 0
        words = _words(text)
        written = len(_words(text[:begun]))
        rest = words[written:]
        if call.max_tokens is not None:
            rest = rest[: call.max_tokens]
        breaks = self.luck.randint(0, len(rest)) if self.luck.random() < 0.5 else -1
        for at, word in enumerate(rest or [""]):
            if breaks == at and mood == "resets":
                raise EngineError(f"{self.name}: connection reset")
            if breaks == at and mood == "stalls":
                await asyncio.sleep(self.luck.uniform(1, 30))
            if breaks == at and mood == "cuts":
                return
            if at >= len(rest) - 1:
                yield self._last(
                    word, call, len(rest), mood, whole=written + len(rest) == len(words)
                )
                self.served += 1
                return
            yield Delta(word)
            await asyncio.sleep(self.pace_s * (10 if mood == "slow" else 1))
            if self.mood == "dead":
                raise EngineError(f"{self.name}: connection reset by its death")

    def _begun(self, call: Call) -> int:
        last = call.messages[-1]
        return len(str(last["content"])) if last["role"] == "assistant" else 0

    def _last(self, word: str, call: Call, wrote: int, mood: str, *, whole: bool) -> Delta:
        usage = Usage(len(prompt_text(call.messages)) // 4, wrote, calls=1)
        if mood == "miscounts":
            usage = Usage(*(self.luck.choice(COUNTS) for _ in range(4)), calls=1)
        else:
            self.honest.append(usage)
        return Delta(word, finish_reason="stop" if whole else "length", usage=usage)


class PushingReplica(MoodyReplica):
    """One that hands its pieces on itself."""

    async def read(self, call: Call, take: Take) -> None:
        async with aclosing(self.stream(call)) as deltas:
            async for delta in deltas:
                going = take(delta)
                if going is not True and (going is False or not await going):
                    return


def _words(text: str) -> list[str]:
    """With the blank behind each."""
    return re.findall(r"\S+\s*", text)
