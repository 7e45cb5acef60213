"""What the pool learns from calls that ran: how fast a replica is, how long a stage's texts get.

Everything here is a small running estimate with a prior, so that the first call is placed sensibly
and the hundredth by what was measured. Old measurements fade: a replica that is throttled at noon
is slow in the books a few dozen calls later.

Always true:
    L1  an estimate is a positive number from the first moment on
    L2  an estimate costs constant memory, whatever number of calls it has seen
"""

from __future__ import annotations

from typing import Final

from .calls import Usage
from .prefix import TOKENS_PER_BYTE

OUTPUT_TOKENS_PRIOR: Final = 128.0
DURATION_S_PRIOR: Final = 2.0
_FADE: Final = 0.97
"""What an observation keeps of its weight at each later one: about 30 of them count."""
_PRIOR: Final = 0.25
"""The weight of each of the two points by which a prior holds a line's shape."""


class Line:
    """`y = intercept + slope * x`, by fading least squares.

    The prior gives the *shape*; its *scale* is taken from the very first observations. So a
    replica twice as fast as expected is known to be so after a call or two, though they say nothing
    yet about how its speed changes with load.
    """

    __slots__ = ("_prior", "_sums", "intercept", "slope")

    def __init__(self, intercept: float, slope: float, points: tuple[float, float]) -> None:
        """`points` are two values of x at which the prior counts as an observation."""
        self.intercept = intercept
        self.slope = slope
        first, second = points
        self._prior = (  # all of it that does not change
            intercept,
            slope,
            # A pinch of the prior keeps the scale positive when all measured times are zero.
            0.01 * intercept,
            first,
            second,
            intercept + slope * first,
            intercept + slope * second,
            _PRIOR * 2.0,
            _PRIOR * (first + second),
            _PRIOR * (first * first + second * second),
        )
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)
        """Of weights, x, y, x * x and x * y."""

    def at(self, x: float) -> float:
        """The expected y."""
        return self.intercept + self.slope * x

    def observe(self, x: float, y: float, weight: float = 1.0) -> None:
        """Learn one measured point."""
        s, sx, sy, sxx, sxy = self._sums
        wx = weight * x
        s = s * _FADE + weight
        sx = sx * _FADE + wx
        sy = sy * _FADE + weight * y
        sxx = sxx * _FADE + wx * x
        sxy = sxy * _FADE + wx * y
        self._sums = (s, sx, sy, sxx, sxy)
        base, rise, pinch, first, second, at_first, at_second, prior, prior_x, prior_xx = (
            self._prior
        )
        scale = (sy + pinch + 1e-9) / (s * base + sx * rise + pinch + 1e-9)
        y_first, y_second = scale * at_first, scale * at_second
        s += prior
        sx += prior_x
        sy += _PRIOR * (y_first + y_second)
        sxx += prior_xx
        sxy += _PRIOR * (first * y_first + second * y_second)
        slope = (s * sxy - sx * sy) / (s * sxx - sx * sx)
        intercept = (sy - slope * sx) / s
        if slope < 0:
            slope, intercept = scale * rise * 0.01, sy / s
        elif intercept < 0:
            slope, intercept = sxy / sxx, scale * base * 0.01
        self.slope = slope
        self.intercept = intercept


class Mean:
    """A fading average that starts from a prior worth a few observations."""

    __slots__ = ("_seen", "_total", "value")

    def __init__(self, prior: float, weight: float = 2.0) -> None:
        self.value = prior
        self._seen = weight
        self._total = prior * weight

    def observe(self, value: float) -> None:
        """Learn one measured value."""
        self._seen = self._seen * _FADE + 1.0
        self._total = self._total * _FADE + value
        self.value = self._total / self._seen


STAGES_MAX: Final = 1000
"""Stages that are remembered; of more, the one unheard of for longest is forgotten."""


TOKENS_PER_BYTE_MAX: Final = 2.0
"""A token holds a byte at least. (Twice that: chat templates and pictures we see only in part.)"""
UNSEEN_TOKENS_MAX: Final = 20_000
"""And what a server may add to a prompt that we do not see at all."""
WRITTEN_TOKENS_MAX: Final = 10_000_000
"""No answer is longer than this."""
TOKENS_PER_CHAR_MAX: Final = 4.0
"""A character has four bytes at most. An answer of more tokens has a part that we do not see."""


def believable(usage: Usage | None, size: int) -> Usage | None:
    """What a server told of a call whose prompt has so many bytes, if it can be true.

    One server that miscounts must not make the whole pool think that prompts are endless or that
    replicas read them in no time. Its usage is passed on to the reader, but nothing is learned.
    """
    if usage is None:
        return None
    prompt_max = size * TOKENS_PER_BYTE_MAX + UNSEEN_TOKENS_MAX
    read = 0 <= usage.cached_tokens <= usage.prompt_tokens <= prompt_max
    written = 0 <= usage.reasoning_tokens <= usage.completion_tokens <= WRITTEN_TOKENS_MAX
    return usage if read and written else None


class _Written:
    """What the answers of a stage come to."""

    __slots__ = ("number", "seconds", "tokens")

    def __init__(self, tokens: float, duration_s: float, number: int) -> None:
        self.tokens = Mean(tokens, 1.0)
        self.seconds = Mean(duration_s, 1.0)
        self.number = number
        """Of the last answer, among those of all stages."""


class Texts:
    """How many tokens texts have, and how many a stage writes in what time."""

    __slots__ = ("_answers", "_stages", "_stages_max", "tokens_per_byte", "tokens_per_char")

    def __init__(self, stages_max: int = STAGES_MAX) -> None:
        self._stages_max = stages_max
        self.tokens_per_byte = Mean(TOKENS_PER_BYTE)
        """Of prompts."""
        self.tokens_per_char = Mean(TOKENS_PER_BYTE)
        """Of answers."""
        self._stages: dict[str, _Written] = {}
        self._answers = 0

    def expected_tokens(self, stage: str, max_tokens: int | None) -> float:
        """How much a call of this stage will write."""
        seen = self._stages.get(stage)
        if max_tokens is None:
            return OUTPUT_TOKENS_PRIOR if seen is None else seen.tokens.value
        most = float(max_tokens)
        return min(OUTPUT_TOKENS_PRIOR, most / 2) if seen is None else min(seen.tokens.value, most)

    def expected_s(self, stage: str) -> float:
        """How long a call of this stage will take."""
        seen = self._stages.get(stage)
        return DURATION_S_PRIOR if seen is None else seen.seconds.value

    def cost_max(self, size: int, stage: str, max_tokens: int | None) -> float:
        """Tokens of a call with a prompt of so many bytes: as many as it may write where that is
        known, else as many as are expected."""
        writes = self.expected_tokens(stage, None) if max_tokens is None else float(max_tokens)
        return size * self.tokens_per_byte.value + writes

    def read(self, size: int, usage: Usage | None) -> float:
        """Tokens of a prompt: as told, else estimated."""
        if usage is not None and usage.prompt_tokens:
            return float(usage.prompt_tokens)
        return size * self.tokens_per_byte.value

    def written(self, chars: int, usage: Usage | None) -> float:
        """Tokens of an answer: as told, else estimated."""
        if usage is not None and usage.completion_tokens:
            return float(usage.completion_tokens)
        return chars * self.tokens_per_char.value

    def told(self, usage: Usage, size: int, chars: int) -> None:
        """Learn how many tokens the engine makes of a text."""
        if usage.prompt_tokens and size:
            self.tokens_per_byte.observe(usage.prompt_tokens / size)
        shown = usage.completion_tokens - usage.reasoning_tokens
        if chars >= 16 and 0 < shown <= TOKENS_PER_CHAR_MAX * chars:
            self.tokens_per_char.observe(shown / chars)

    def wrote(self, stage: str, tokens: float, duration_s: float) -> None:
        """Learn what a whole answer of a stage came to."""
        stages = self._stages
        self._answers += 1
        seen = stages.get(stage)
        if seen is None:
            if len(stages) >= self._stages_max:
                del stages[min(stages, key=lambda name: stages[name].number)]
            stages[stage] = _Written(tokens, duration_s, self._answers)
        else:
            seen.number = self._answers
            seen.tokens.observe(tokens)
            seen.seconds.observe(duration_s)
