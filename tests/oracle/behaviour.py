"""What the stages of a drawn pipeline do: one script for every driver and for the interpreter.

A script is a generator of steps (`Sleep`, `Read`, `Give`) that is told by its caller what a `Read`
found. What it does depends on nothing but the seed, the stage's name, the path, the attempt and
what it was given, so that any driver, in any order, must come to the same values.

Always true:
    B1  what is given hangs on every argument, so that a wrong, missing or doubled one shows
    B2  attempts up to `Plan.flaky` fail, later ones do not: `attempt=LAST` is what must come out
    B3  of an `AsCompleted` argument only the set that was read matters, never the order
    B4  of a stream that is read in part, under attempts that differ, nothing matters: which
        attempt's items were read when the reader was content is a matter of time
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

LAST = 1_000_000
"""The attempt that nothing fails but what always fails."""

END = object()
"""What a `Read` finds after the last item."""


TIMEOUT_S = 500.0
"""What an attempt may take, where one may hang. The others take less."""


class Boom(Exception):
    """A stage failed on purpose."""


class Met(Exception):
    """A session read as far as a failure of its input."""


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Read:
    parameter: str


@dataclass(frozen=True, slots=True)
class Give:
    value: int


Step = Sleep | Read | Give


@dataclass(slots=True)
class Plan:
    """What one stage does. Percentages and counts are drawn anew at each path.

    `reads` says of each streamed argument how many items are read (None: all). With `echo` a
    fan-out gives one item for each that it reads, as it reads them. One that `hangs` does so where it
    would fail. `opaque` streams leave no mark
    on what is given.
    """

    name: str
    fans_out: bool = False
    most: int = 3
    slow: float = 1.0
    fails: int = 0
    flaky: int = 0
    flaky_percent: int = 0
    hangs: bool = False
    varies: bool = False
    echo: bool = False
    reads: dict[str, int | None] = field(default_factory=dict)
    unordered: frozenset[str] = frozenset()
    opaque: frozenset[str] = frozenset()


def dice(*what: Any) -> int:
    """A number that is as good as drawn, the same on every machine."""
    return zlib.crc32(repr(what).encode())


def script(
    seed: int, plan: Plan, path: tuple[int, ...], attempt: int, arguments: dict[str, Any]
) -> Generator[Step, Any, int | None]:
    """One attempt of a stage at a path. `arguments` lacks the streamed ones. The generator's own
    return value is the output of a stage that gives one."""

    def roll(*what: Any) -> int:
        return dice(seed, plan.name, path, *what)

    def pause(*what: Any) -> float:
        return plan.slow * (roll("pause", attempt, *what) % 8) / 8

    always = roll("fails") % 100 < plan.fails
    flaky = attempt <= plan.flaky and roll("flaky") % 100 < plan.flaky_percent
    basis: list[Any] = sorted(arguments.items())
    yield Sleep(pause("start"))
    given = 0
    limit = roll("cut", attempt if plan.varies and flaky else 0) % (plan.most + 1)
    for parameter, most in plan.reads.items():
        seen: list[int] = []
        while most is None or len(seen) < most:
            item = yield Read(parameter)
            if item is END:
                break
            seen.append(item)
            if roll("linger", len(seen)) % 4 == 0:
                yield Sleep(pause("read", len(seen)))
            if plan.echo:
                if (flaky or always) and given == limit:
                    yield from _fail(plan)
                yield Give(_echo(plan, flaky, attempt, item))
                given += 1
        basis.append(_what_matters(plan, parameter, seen, most))
    if plan.fans_out and not plan.echo:
        count = min(roll("count", basis) % (plan.most + 2), plan.most)
        if flaky and plan.varies:
            count = roll("count", attempt) % (plan.most + 2)
        for k in range(count):
            if (flaky or always) and given == limit:
                yield from _fail(plan)
            changed = plan.varies and flaky and roll("change", attempt, k) % 2
            yield Give(dice(plan.name, k, basis, attempt if changed else 0) % 1000)
            given += 1
            yield Sleep(pause("give", k))
    if flaky or always:
        yield from _fail(plan)
    return None if plan.fans_out else dice(plan.name, path, basis) % 1000


def _fail(plan: Plan) -> Generator[Step, Any, None]:
    """By raising, or by taking longer than an attempt may."""
    if plan.hangs:
        yield Sleep(100 * TIMEOUT_S)
    raise Boom(plan.name)


def _echo(plan: Plan, flaky: bool, attempt: int, item: int) -> int:
    changed = plan.varies and flaky and dice(attempt, item) % 2
    return dice(plan.name, item, attempt if changed else 0) % 1000


def _what_matters(plan: Plan, parameter: str, seen: list[int], most: int | None) -> Any:
    if parameter in plan.opaque:
        return parameter
    if parameter not in plan.unordered:
        return parameter, seen
    return parameter, sorted(seen) if most is None else len(seen)


def outcome(
    seed: int,
    plan: Plan,
    path: tuple[int, ...],
    arguments: dict[str, Any],
    read: Callable[[str], Any],
) -> tuple[list[int], int | None, Boom | Met | None]:
    """What the last attempt comes to: the items given, the value returned, the failure.
    `read(parameter)` answers as a stream would, or raises `Met`."""
    given: list[int] = []
    answer: Any = None
    run = script(seed, plan, path, LAST, arguments)
    try:
        while True:
            step = run.send(answer)
            answer = None
            if isinstance(step, Read):
                answer = read(step.parameter)
            elif isinstance(step, Give):
                given.append(step.value)
    except StopIteration as end:
        return given, end.value, None
    except (Boom, Met) as error:
        return given, None, error
