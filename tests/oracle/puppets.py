"""The execution core under a driver of 100 lines: no tasks, a seeded clock, steps in any order.

What is ready at one time is stepped in an order drawn from the seed, so a case meets the core in
states that no real loop would show. `Stuck` is raised when nothing can go on any more.
"""

from __future__ import annotations

import heapq
import random
from typing import Any

from alto.core.events import Emit, Finish, Go, Start, Stop, Wake
from alto.core.execution import Execution, Invocation, Limits
from alto.core.feed import END as CORE_END
from alto.core.feed import WAIT, Feed

from .behaviour import END, Boom, Give, Plan, Read, script
from .check import expect, judge
from .draw import Case, describe, draw

RUNS_MAX = 3000
"""Larger cases are left out: they take their time and find nothing else."""


def one(seed: int) -> int:
    """Run a case. How many invocations it had."""
    case = draw(seed, no_body)
    expected = expect(case)
    if expected.runs > RUNS_MAX:
        return 0
    world = Puppets(case)
    try:
        world.run()
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}\n{describe(case)}") from error
    results = world.execution.results()
    judge(case, expected, results, world.error, world.events if case.stream else None)
    return expected.runs


def no_body(case: Case, plan: Plan) -> Any:
    def never(**arguments: Any) -> None:
        raise AssertionError("puppets follow the script themselves")

    return never


class Stuck(Exception):
    """Nothing is under way and the request is not over."""


class Puppets:
    """One request, start to end."""

    def __init__(self, case: Case, steps_max: int = 200_000) -> None:
        self.case = case
        self.rng = random.Random(case.seed ^ 0x5EED)
        self.execution = Execution(
            case.pipeline.graph,
            rng=lambda name: self.rng,
            limits=Limits(**case.limits),
            stream=case.stream,
            committed=case.committed,
        )
        self.heap: list[tuple[float, float, int, Any, Any]] = []
        self.serial = 0
        self.steps_left = steps_max
        self.alive: dict[Invocation, _Run] = {}
        self.events: list[Emit] = []
        self.finished = False
        self.error: BaseException | None = None

    def run(self) -> None:
        execution = self.execution
        execution.begin(self.case.arguments)
        self.perform()
        while not self.finished:
            when = self.heap[0][0] if self.heap else None
            timer = execution.wake_at()
            if when is None and timer is None:
                raise Stuck(execution.story())
            if timer is not None and (when is None or timer <= when):
                execution.now = max(execution.now, timer)
                execution.tick()
            else:
                when, _, _, run, answer = heapq.heappop(self.heap)
                execution.now = max(execution.now, when)
                run.step(answer)
            self.perform()
            self.steps_left -= 1
            if self.steps_left < 0:
                raise Stuck("it does not come to an end")

        self.steps_left = 10_000
        while self.heap and self.steps_left:  # what is said after the end is heard by nobody
            _, _, _, run, answer = heapq.heappop(self.heap)
            run.step(answer)
            assert not execution.take_actions()
            self.steps_left -= 1

    def later(self, delay: float, run: _Run, answer: Any = None) -> None:
        self.serial += 1
        entry = (self.execution.now + delay, self.rng.random(), self.serial, run, answer)
        heapq.heappush(self.heap, entry)

    def perform(self) -> None:
        while actions := self.execution.take_actions():
            for action in actions:
                self.act(action)

    def act(self, action: Any) -> None:
        if isinstance(action, Start):
            run = self.alive[action.invocation] = _Run(self, action.invocation)
            self.later(0.0, run)
        elif isinstance(action, Stop):
            stopped = self.alive.pop(action.invocation, None)
            assert stopped is not None, f"{action.invocation} was stopped but never started"
            stopped.ghost = True  # it may go on for a while, as a thread does
            stopped.dead = self.rng.random() < 0.5
        elif isinstance(action, Go):
            self.alive[action.invocation].go()
        elif isinstance(action, Wake):
            invocation = action.feed.invocation
            if invocation in self.alive:
                self.alive[invocation].wake(action.feed)
        elif isinstance(action, Emit):
            assert not self.finished, f"{action} after the end"
            self.events.append(action)
        elif isinstance(action, Finish):
            assert not self.finished, "it ended twice"
            self.finished = True
            self.error = action.error
            assert not self.alive, f"left over: {list(self.alive)}"


class _Run:
    """One attempt under way."""

    __slots__ = ("dead", "feeds", "ghost", "invocation", "paused", "script", "waits", "world")

    def __init__(self, world: Puppets, invocation: Invocation) -> None:
        self.world = world
        self.invocation = invocation
        self.dead = False
        self.ghost = False
        self.paused = False
        self.waits: Feed | None = None
        self.feeds: dict[str, Feed] = {}
        arguments = world.execution.arguments(invocation, self._keep)
        plan = world.case.plans.get(invocation.use.stage.name)
        if plan is None:
            self.script: Any = _elements(arguments["items"])
            return
        arguments = {name: value for name, value in arguments.items() if name not in plan.reads}
        self.script = script(world.case.seed, plan, invocation.path, invocation.attempt, arguments)

    def _keep(self, feed: Feed) -> None:
        self.feeds[feed.source.parameter] = feed  # type: ignore[union-attr]

    def step(self, answer: Any) -> None:
        """On to the next point at which the script waits for something."""
        execution = self.world.execution
        while not self.dead:
            try:
                step = self.script.send(answer)
            except StopIteration as end:
                self.over()
                if self.invocation.use.opens is not None:
                    execution.close(self.invocation)
                else:
                    execution.done(self.invocation, end.value)
                return
            except Boom as error:
                self.over()
                execution.broke(self.invocation, error)
                return
            answer = None
            if isinstance(step, Read):
                if self.ghost:  # a driver gives nothing to an attempt that is over
                    return
                answer = execution.pull(self.feeds[step.parameter])
                if answer is WAIT:
                    self.waits = self.feeds[step.parameter]
                    return
                if answer is CORE_END:
                    answer = END
            elif isinstance(step, Give):
                if not execution.give(self.invocation, step.value):
                    if not self.ghost:
                        self.paused = True
                        return
                    self.world.later(0.0, self)
                    return
            else:
                self.world.later(step.seconds, self)
                return

    def over(self) -> None:
        self.dead = True
        if not self.ghost:
            del self.world.alive[self.invocation]

    def go(self) -> None:
        assert self.paused, f"{self.invocation} was told to go on but was not paused"
        self.paused = False
        self.world.later(0.0, self)

    def wake(self, feed: Feed) -> None:
        if self.waits is not feed:
            return
        self.waits = None
        answer = self.world.execution.pull(feed)
        if answer is WAIT:
            self.waits = feed
            return
        self.world.later(0.0, self, END if answer is CORE_END else answer)


def _elements(items: Any) -> Any:
    for item in items:
        yield Give(item)
