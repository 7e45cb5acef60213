"""How long will a request take, at the load that there is? Learned per pipeline while it runs.

*Load* is the number of requests under way on the same engines (`admission.py` says how requests of
other pipelines count). For each range of load (ranges grow by a factor of sqrt 2) the mean
duration is kept, and the expected duration at a load is read off a line through these means:

    between two known loads   straight
    below the lowest          the same as there
    above the highest         on, by the slope from lowest to highest less its standard error

Means that fall while the load rises are pooled, so the line never falls. The weight of a range
halves in `HALF_LIFE_S`, so what was learned while a server was down does not bar the way for ever
to loads that have become possible again. Only the lowest is kept, for else nobody knew after an
hour of overload that there is any.

*Requests that were cut off* are those that would have taken longest, so they must not be left out.
Durations are taken to have a Weibull distribution of shape 3 (a spread of a third). Its mean can be
had from times that were cut off: it is that of the sum of the cubes of all times through the number
of those that ended.

*Where it is wrong.* Above what was seen it is too hopeful, and on purpose: what is let in is
learned from. So a burst after calm is let in, and held up only when its first requests are over;
and an overload from the very first moment is found out by way of a few seconds of late requests.
What other processes do to the same engines is not counted: it shows as longer durations at the
same load, some seconds late.

Always true:
    F1  the line never falls with the load
    F2  memory is constant: `RANGES` means
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HALF_LIFE_S = 10.0
COUNTS_MIN = 3.0
"""A range counts from so many requests on: those that end first are the short ones."""
FORGOTTEN = 0.5
"""Below this weight a range is forgotten."""
RANGES = 40
"""Loads up to a million; more count as that."""
_FADE = 0.97
"""What an observation keeps of its weight at each later one in its range: some 30 count."""
_SHAPE = 3.0
_MEAN = math.gamma(1.0 + 1.0 / _SHAPE)
_SPREAD = 0.363
"""Standard deviation through mean, of that distribution."""


@dataclass(slots=True)
class _Range:
    """What was seen at similar loads: fading sums."""

    at: float
    weight: float = 0.0
    loads: float = 0.0
    cubes: float = 0.0
    ends: float = 0.0

    def fade(self, now: float) -> None:
        """Forget by time."""
        self._keep(0.5 ** ((now - self.at) / HALF_LIFE_S))
        self.at = now

    def add(self, load: float, seconds: float, ended: bool) -> None:
        self._keep(_FADE)
        self.weight += 1.0
        self.loads += load
        self.cubes += max(seconds, 1e-6) ** _SHAPE
        self.ends += ended

    def _keep(self, part: float) -> None:
        self.weight *= part
        self.loads *= part
        self.cubes *= part
        self.ends *= part

    def point(self) -> _Point:
        """The mean load, and the mean duration had all ended."""
        cubes = self.cubes / (self.ends + 0.02 * self.weight)  # should none have ended
        return _Point(self.loads / self.weight, _MEAN * cubes ** (1.0 / _SHAPE), self.weight)


@dataclass(slots=True)
class _Point:
    load: float
    seconds: float
    weight: float


class Forecast:
    """The expected duration of one pipeline's requests."""

    __slots__ = ("_drawn_at", "_least", "_line", "_lowest", "_ranges", "_slope", "seen")

    def __init__(self) -> None:
        self.seen = 0
        """Requests observed."""
        self._ranges: dict[int, _Range] = {}
        self._lowest = -1
        """The range that is not forgotten."""
        self._line: list[_Point] = []
        self._least = 0.0
        """The lowest load that counts."""
        self._slope = 0.0
        """Of the line above the highest load known."""
        self._drawn_at: float | None = None

    def observe(self, load: float, seconds: float, ended: bool, now: float) -> None:
        """A request took so long, or was cut off after so long, at this mean load of its life."""
        index = min(RANGES - 1, int(2.0 * math.log2(max(1.0, load))))
        there = self._ranges.get(index)
        if there is None:
            there = self._ranges[index] = _Range(now)
        elif index != self._lowest:
            there.fade(now)
        there.at = now
        there.add(load, seconds, ended)
        self.seen += 1
        self._drawn_at = None

    def expected(self, load: float, now: float) -> float | None:
        """Seconds from the start of a request to its end; None as long as nothing is known."""
        if not self.seen:
            return None
        if self._drawn_at is None or now - self._drawn_at > 1.0:
            self._draw(now)
        before = self._line[0]
        if load <= before.load:
            return before.seconds
        for point in self._line:
            if load <= point.load:
                part = (load - before.load) / (point.load - before.load)
                return before.seconds + part * (point.seconds - before.seconds)
            before = point
        return before.seconds + self._slope * (load - before.load)

    def lowest(self) -> tuple[float, float]:
        """The lowest load known, and the expected duration there. Ask `expected` first."""
        return self._least, self._line[0].seconds

    def _draw(self, now: float) -> None:
        """Forget what is old, and lay the line through the rest."""
        self._drawn_at = now
        solid = [index for index, there in self._ranges.items() if there.weight >= COUNTS_MIN]
        self._lowest = min(solid or self._ranges)
        for index, there in list(self._ranges.items()):
            if index != self._lowest:
                there.fade(now)
                if there.weight < FORGOTTEN:
                    del self._ranges[index]
        points = [there.point() for _, there in sorted(self._ranges.items())]
        points = [point for point in points if point.weight >= COUNTS_MIN] or points
        self._least = points[0].load
        self._line = _rising(points)
        first, last = self._line[0], self._line[-1]
        self._slope = 0.0
        if last.load > 2.0 * first.load:
            unsure = _SPREAD * last.seconds * math.sqrt(1.0 / first.weight + 1.0 / last.weight)
            rise = last.seconds - first.seconds - unsure
            self._slope = max(0.0, rise / (last.load - first.load))


def _rising(points: list[_Point]) -> list[_Point]:
    """Pool neighbours until none is above the one after it."""
    line: list[_Point] = []
    for point in points:
        while line and line[-1].seconds > point.seconds:
            other = line.pop()
            weight = other.weight + point.weight
            point = _Point(
                (other.load * other.weight + point.load * point.weight) / weight,
                (other.seconds * other.weight + point.seconds * point.weight) / weight,
                weight,
            )
        line.append(point)
    return line


LOW_MIN = 1e-3
"""`Low` says no less: it moves by factors, and would take for ever to come back from nought."""


class Low:
    """A low quantile of values above 0, in constant memory: it goes up a little with each value
    above it and down a lot with each below, until the two balance."""

    __slots__ = ("_part", "_step", "value")

    def __init__(self, part: float, first: float) -> None:
        self._part = part
        self._step = 1.0
        self.value = max(first, LOW_MIN)

    def observe(self, value: float) -> None:
        """Learn one value."""
        self._step = max(0.05, self._step * 0.9)
        factor = math.exp(self._step * (self._part - (value < self.value)))
        self.value = max(self.value * factor, LOW_MIN)
