"""What the batching model keeps: one sequence, and one run of steps planned ahead."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .kv_cache import Key

State = Literal["waiting", "reading", "decoding", "done"]


class Generation:
    """One sequence: a prompt of so many tokens and an answer of so many.

    `keys(n)` names the first n full blocks of prompt and answer together; the model asks for no
    more blocks than are computed. `marks` are the token counts of the answer at which the reader
    wants to be woken, ascending; None wakes it at every token. The end always wakes it.
    """

    __slots__ = (
        "_mark",
        "arrived_at",
        "block_shift",
        "cached_tokens",
        "computed",
        "epoch",
        "finished_at",
        "first_token_at",
        "keys",
        "marks",
        "number",
        "offset",
        "output_tokens",
        "pooled",
        "private",
        "prompt_tokens",
        "published",
        "shared",
        "state",
        "target",
        "written",
    )

    def __init__(
        self,
        prompt_tokens: int,
        output_tokens: int,
        keys: Callable[[int], Sequence[Key]],
        marks: Sequence[int] | None = None,
        pooled: bool = False,
    ) -> None:
        self.pooled = pooled
        """It is only read, to be embedded or scored; its one answer token stands for that."""
        self.prompt_tokens = max(1, prompt_tokens)
        self.output_tokens = max(1, output_tokens)  # an empty answer still writes its end
        self.keys = keys
        self.marks = marks
        self.state: State = "waiting"
        self.number = 0
        self.epoch = 0
        """How often it was preempted; what the heaps say of an earlier epoch is void."""
        self.written = 0
        """Answer tokens that the reader may have."""
        self.computed = 0
        """Tokens whose KV is computed, while reading."""
        self.target = self.prompt_tokens
        """Tokens to be read before the next one is written: the prompt, and after a preemption
        the answer so far too."""
        self.cached_tokens = 0
        """Prompt tokens found in the cache at the first admission."""
        self.offset = 0
        self.shared: list[Key] = []
        self.private = 0
        self.published = 0
        self.block_shift = 0
        self.arrived_at = 0.0
        self.first_token_at: float | None = None
        self.finished_at: float | None = None
        self._mark = 0

    @property
    def done(self) -> bool:
        """It has written its last token, or was cancelled."""
        return self.state == "done"

    def next_mark(self) -> int:
        """The next token count to wake the reader at."""
        marks = self.marks
        if marks is None:
            return self.written + 1
        at = self._mark
        while at < len(marks) and marks[at] <= self.written:
            at += 1
        self._mark = at
        return marks[at] if at < len(marks) else self.output_tokens


@dataclass(slots=True)
class Run:
    """Steps of one unchanging batch, planned ahead."""

    start: float
    first: float  # seconds of the first step
    growth: float  # by which each step is longer than the one before
    steps: int
    base: int  # steps of the server before this run
    decoding: int
    prompts: list[tuple[Generation, int]]  # who reads how many tokens (a run of one step then)
    applied: int = 0  # steps that are in the books

    def end_of(self, steps: int) -> float:
        return self.start + steps * self.first + self.growth * (steps * (steps - 1) // 2)

    def first_end_from(self, now: float) -> int:
        """The number of the first step that ends at `now` or later, counted from 1."""
        elapsed = now - self.start
        if elapsed <= self.first:
            return 1
        half = self.growth / 2
        if half > 0.0:
            linear = self.first - half
            guess = (math.sqrt(linear * linear + 4 * half * elapsed) - linear) / (2 * half)
        else:
            guess = elapsed / self.first
        steps = max(1, math.ceil(guess))
        while steps > 1 and self.end_of(steps - 1) >= now:
            steps -= 1
        while self.end_of(steps) < now:
            steps += 1
        return steps
