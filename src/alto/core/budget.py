"""What one request may spend on LM calls, in tokens of prompts and answers.

A call is told what it has cost at its end. Until then it holds an estimate: its prompt by its size,
its answer by what its stage usually writes, and more as it writes more. So calls side by side
share what is left instead of each taking all of it.

    starts      only if its prompt and one token fit into what is left
    max_tokens  is lowered to what is then left for the answer
    is cut      when it wants more than is left because others beside it hold the rest

Always true:
    G1  `left` is what is neither spent nor held, and never less than 0
    G2  an account that is closed holds nothing
    G3  what is spent beyond the budget are errors of estimates, one call's prompt and last piece at
        most where they are exact
"""

from __future__ import annotations

import math
from dataclasses import replace

from .calls import Call, Delta, Usage
from .learning import Texts, believable
from .prompt import read

TEMPLATE_TOKENS = 8
"""What chat templates put around a prompt, about."""


class Budget:
    """The books of one request."""

    def __init__(self, tokens: int, texts: Texts) -> None:
        self.tokens = tokens
        """What it may spend."""
        self.texts = texts
        self.spent = 0
        """By calls that have ended."""
        self.held = 0
        """By calls under way."""

    @property
    def left(self) -> int:
        """Tokens that no call has spent or holds."""
        return max(0, self.tokens - self.spent - self.held)

    def open(self, call: Call) -> Account | None:
        """An account for a call that is about to start; None if too little is left for it."""
        account = Account(self, call)
        return account if account.begin() else None

    def prompt_tokens(self, call: Call) -> int:
        """About how many tokens the prompt of a call has."""
        return TEMPLATE_TOKENS + math.ceil(self.texts.read(read(call, hashed=False).size, None))


class Account:
    """One call, from its start to its end. Tell it each delta (`note`), then `close` it."""

    def __init__(self, budget: Budget, call: Call) -> None:
        self.call = call
        """As it may be sent: with `max_tokens` lowered to what is left."""
        self.over = False
        """It was cut: the delta that `note` gave last is the end of it."""
        self._budget = budget
        self._prompt = budget.prompt_tokens(call)
        self._writes = 0
        """Tokens held for the answer."""
        self._chars = self._pieces = 0
        self._usage: Usage | None = None

    def begin(self) -> bool:
        """Hold what the call will probably cost; False if too little is left."""
        budget, call = self._budget, self.call
        room = budget.left - self._prompt
        if room < 1:
            return False
        most = room if call.max_tokens is None else min(call.max_tokens, room)
        # An engine that may be silent up to a boundary could not be cut before it.
        self.call = replace(call, max_tokens=most, boundaries=None)
        expected = budget.texts.expected_tokens(call.stage, self.call.max_tokens)
        self._writes = min(room, math.ceil(expected))
        budget.held += self._prompt + self._writes
        return True

    def note(self, delta: Delta) -> Delta:
        """The delta to give on: as it came, or as the last one where the call is cut."""
        if delta.usage is not None:
            self._usage = delta.usage
        chars = len(delta) + len(delta.reasoning)
        if chars:
            self._chars += chars
            self._pieces += 1
        if delta.finish_reason is not None or self._written <= self._writes:
            return delta
        budget, more = self._budget, self._written - self._writes
        if more > budget.left and not self._capped:
            self.over = True
            self._usage = Usage(self._prompt, self._written, calls=1)
            return Delta(delta.text, delta.reasoning, delta.tool_calls, "length", self._usage)
        budget.held += more
        self._writes += more
        return delta

    def close(self) -> None:
        """The call is over, by its end or otherwise: book what it has cost, as its deltas have told
        and beyond it (`Call.untold`). One that was not begun to be answered costs nothing."""
        budget, call, told = self._budget, self.call, self._usage
        budget.held -= self._prompt + self._writes
        tells = told is not None and told.total_tokens > 0
        if call.untold is None and self._pieces and not tells:  # by an engine that never tells
            call.untold = Usage(self._prompt, self._written, calls=0 if told is not None else 1)
        if call.untold is not None and told is not None and self.over:
            call.untold = _beyond(call.untold, told)  # the engine saw a reader that left
        budget.spent += sum(cost.total_tokens for cost in (told, call.untold) if cost is not None)
        if told is None or not tells or told.calls != 1 or self.over:
            return
        size = read(call, hashed=False).size
        if (learned := believable(told, size)) is not None:  # all requests estimate by this
            budget.texts.told(learned, size, self._chars)
            budget.texts.wrote(call.stage, float(learned.completion_tokens), 0.0)

    @property
    def _capped(self) -> bool:
        """Whether `max_tokens`, which its engine counts better than we do, still keeps it within
        the budget, whatever others have spent since."""
        budget, most = self._budget, self.call.max_tokens
        return (
            most is not None and most <= budget.tokens - budget.spent - budget.held + self._writes
        )

    @property
    def _written(self) -> int:
        """An engine sends one token or more in a piece."""
        per_char = self._budget.texts.tokens_per_char.value
        return max(self._pieces, round(self._chars * per_char))


def _beyond(cost: Usage, told: Usage) -> Usage:
    """What a cost is beyond the part of it that was told."""
    return Usage(
        max(0, cost.prompt_tokens - told.prompt_tokens),
        max(0, cost.completion_tokens - told.completion_tokens),
        calls=max(0, cost.calls - told.calls),
    )
