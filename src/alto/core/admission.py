"""Under overload: who is let in, and who is told early that it is too late.

Servers that share their time among all who come serve nobody in time once there are too many. So
a request with a deadline that will not make it is refused before it takes what others need:

    at its start      when  MARGIN * expected(load + 1) > budget
    at an LM call     when  quick(stage) * expected(load) > budget

`budget` is the time left before its deadline, `load` the requests under way on the same engines,
`expected` the learned duration at that load (`forecast.py`), and `quick` what even quick requests
need from the last call of that stage to their end (the `QUICK` quantile), as a part of the expected
duration. At the start one asks what is likely, since nothing is lost yet; later what is nearly
certain, since work would be thrown away.

All that *under overload* only: when it is the load that is in the way, and not a deadline that
nothing could meet. So the expected duration must be `OVERLOAD` times that at low load
(`OVERLOAD_TIGHT` times, if that is more than the request has). Never refused is a request without a
deadline, one that comes while fewer than `LOAD_MIN` are under way, or before `SEEN_MIN` are over.

*When low load has not been seen*, as after a start under overload, the lowest load known stands in
for it: so many are let in if they end in time on average, and `TRIED` of it if they do not. Thus it
is found out step by step at which load they do.

*Several pipelines.* A request is felt on each resource (an engine) that its pipeline uses, in
proportion to the tokens per second that requests of its pipeline take. The most loaded of a
pipeline's resources counts. One that uses no engine has a resource of its own.

*Priority.* Requests of lower priority are no load for those of higher. So when there is room for
half of those that come, it goes to the more important half.

*Where it is wrong.* See `forecast.py`. Besides, nobody knows beforehand which requests of a
pipeline will take long: some that are let in will be late, and some that are refused would have
been quick. Engines that stages call by themselves (`alto.engine`) are not counted as resources.

Always true:
    A1  a request without a deadline is never refused
    A2  when every ticket is given back, no load is left
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from ..errors import Overloaded
from .forecast import Forecast, Low
from .learning import Mean

MARGIN = 1.25
"""So that some three of four that are let in are in time."""
OVERLOAD = 1.25
OVERLOAD_TIGHT = 2.0
"""The same for a deadline that most would miss at low load too."""
QUICK = 0.25
SEEN_MIN = 8
LOAD_MIN = 3
LOW = LOAD_MIN + 1.0
"""As far as this a load is low."""
TRIED = 0.6
RETRY_S = 1.0
"""The least that is told as `retry_after`."""
PIPELINES_MAX = 1000
"""Pipelines remembered; of those over, the one longest not asked for is forgotten."""
STAGES_MAX = 1000
"""Stages of one pipeline whose rest is learned."""


class _Resource:
    """What requests share: an engine, or all that a pipeline without engines uses."""

    __slots__ = ("users",)

    def __init__(self) -> None:
        self.users: dict[PipelineLoad, dict[int, int]] = {}
        """Requests under way, by pipeline and priority; no entry is nought."""

    def load(self, asking: PipelineLoad, least: float) -> float:
        """Requests of at least this priority, in those of the pipeline that asks."""
        load = 0.0
        for pipeline, levels in self.users.items():
            count = sum(count for level, count in levels.items() if level >= least)
            if pipeline is asking:
                load += count
            else:
                load += count * pipeline.weight.value / asking.weight.value
        return load

    def change(self, pipeline: PipelineLoad, priority: int, by: int) -> None:
        """One request more, or less."""
        levels = self.users.setdefault(pipeline, {})
        levels[priority] = levels.get(priority, 0) + by
        if not levels[priority]:
            del levels[priority]
        if not levels:
            del self.users[pipeline]


class PipelineLoad:
    """What is learned of one pipeline, and how loaded it is."""

    __slots__ = ("_at", "area", "forecast", "name", "resources", "rests", "weight")

    def __init__(self, name: str, resources: list[_Resource]) -> None:
        self.name = name
        self.resources = resources
        self.forecast = Forecast()
        self.weight = Mean(1.0, 0.01)
        """Tokens per second that one request takes."""
        self.rests: dict[str, tuple[Mean, Low]] = {}
        """By stage: from its last call to the end, as part of the expected duration."""
        self.area = 0.0
        """Integral of the load over time: its difference gives the mean over any interval."""
        self._at = 0.0

    def load(self, least: float = -math.inf) -> float:
        """Requests of at least this priority on its most loaded resource, in its own."""
        return max(resource.load(self, least) for resource in self.resources)

    def change(self, priority: int, by: int, now: float) -> None:
        """One request more, or less; all who share something with it feel it."""
        self._pass(now)
        for resource in self.resources:
            for other in resource.users:
                other._pass(now)
        for resource in self.resources:
            resource.change(self, priority, by)

    def _pass(self, now: float) -> None:
        """Keep the integral, before the load changes."""
        if now > self._at:
            self.area += self.load() * (now - self._at)
            self._at = now

    def learn(self, ticket: Ticket, ended: bool, tokens: float, now: float) -> None:
        """From a request that has ended or was cut off."""
        took = now - ticket.began
        load = (self.area - ticket.area) / took
        self.forecast.observe(load, took, ended, now)
        if not ended:
            return
        if tokens:
            self.weight.observe(tokens / took)
        if ticket.last:
            expected = self.forecast.expected(load, now) or took
            for stage, at in ticket.last.items():
                self._learn_rest(stage, (now - at) / max(expected, 1e-9))

    def _learn_rest(self, stage: str, part: float) -> None:
        rest = self.rests.get(stage)
        if rest is not None:
            rest[0].observe(part)
            rest[1].observe(part)
        elif len(self.rests) < STAGES_MAX:
            self.rests[stage] = Mean(part, 1.0), Low(QUICK, part)


@dataclass(slots=True, eq=False)
class Ticket:
    """A request under way."""

    pipeline: PipelineLoad
    began: float
    deadline: float | None
    priority: int
    area: float
    """The pipeline's when it began."""
    last: dict[str, float] = field(default_factory=dict)
    """When the last call of each stage was asked for."""
    rest_s: float | None = None
    """Expected time from the last call asked for to the end of the request."""


class Admission:
    """Keeps the books of all requests of a runtime. Knows no clock: every verb takes the time."""

    def __init__(self) -> None:
        self.pipelines: dict[Hashable, PipelineLoad] = {}
        self._resources: dict[str, _Resource] = {}

    def find(self, key: Hashable) -> PipelineLoad | None:
        """What is known of a pipeline; None: it has to be added."""
        known = self.pipelines.pop(key, None)
        if known is not None:
            self.pipelines[key] = known
        return known

    def add(self, key: Hashable, name: str, engines: Iterable[str]) -> PipelineLoad:
        """A pipeline that uses these engines."""
        if len(self.pipelines) >= PIPELINES_MAX:
            del self.pipelines[next(iter(self.pipelines))]
        shared = [self._resources.setdefault(each, _Resource()) for each in sorted(engines)]
        known = self.pipelines[key] = PipelineLoad(name, shared or [_Resource()])
        return known

    def ask(
        self, pipeline: PipelineLoad, budget_s: float, priority: int, now: float
    ) -> Overloaded | None:
        """May a request come in that has so much time? The refusal if it may not."""
        load = pipeline.load(priority)
        expected = _under_overload(pipeline, load, budget_s, now)
        if expected is None or MARGIN * expected <= budget_s:
            return None
        return Overloaded(
            f"pipeline {pipeline.name}: the request was not started, as it would end too late: "
            f"with {load:.0f} requests under way one takes {MARGIN * expected:.2f} s or less in "
            f"three of four cases, and {budget_s:.2f} s remain. {_MEND}",
            retry_after=max(RETRY_S, MARGIN * expected - budget_s),
        )

    def begin(
        self, pipeline: PipelineLoad, deadline: float | None, priority: int, now: float
    ) -> Ticket:
        """A request starts. Its ticket is to be given back with `end`, once."""
        pipeline.change(priority, 1, now)
        return Ticket(pipeline, now, deadline, priority, pipeline.area)

    def reached(self, ticket: Ticket, stage: str, now: float) -> Overloaded | None:
        """A request asks for an LM call of a stage. The refusal if it is too late for that.

        Sets `ticket.rest_s`.
        """
        ticket.last[stage] = now
        ticket.rest_s = None
        pipeline, deadline = ticket.pipeline, ticket.deadline
        rest = pipeline.rests.get(stage)
        if rest is None or deadline is None:
            return None
        load = pipeline.load(ticket.priority)
        expected = pipeline.forecast.expected(load, now)
        if not expected:
            return None
        mean, low = rest
        ticket.rest_s = mean.value * expected
        least_s, budget_s = low.value * expected, deadline - now
        timeout_s = deadline - ticket.began
        if least_s <= budget_s or _under_overload(pipeline, load - 1, timeout_s, now) is None:
            return None
        return Overloaded(
            f"pipeline {pipeline.name}: the request was given up after {now - ticket.began:.2f} s, "
            f"as it would end too late: with {load:.0f} requests under way at least {least_s:.2f} "
            f"s follow a call of stage {stage}, and {budget_s:.2f} s remain. {_MEND}",
            retry_after=max(RETRY_S, least_s - budget_s),
        )

    def end(self, ticket: Ticket, ended: bool | None, tokens: float, now: float) -> None:
        """A request is over. `ended`: it gave its outputs; False: it was cut off because of its
        time; None: for other reasons, which teach nothing. `tokens`: what its LM calls cost."""
        ticket.pipeline.change(ticket.priority, -1, now)
        if ended is not None and now > ticket.began:
            ticket.pipeline.learn(ticket, ended, tokens, now)

    def check(self) -> None:
        """Raise if there is load although every ticket has been given back."""
        for resource in self._resources.values():
            assert not resource.users, {one.name: n for one, n in resource.users.items()}


_MEND = "Try later, give requests more time, or the engines more replicas."


def _under_overload(
    pipeline: PipelineLoad, others: float, timeout_s: float, now: float
) -> float | None:
    """The expected duration of a request beside so many others, if it is them who make it long."""
    forecast = pipeline.forecast
    if forecast.seen < SEEN_MIN or others < LOAD_MIN:
        return None
    expected = forecast.expected(others + 1.0, now)
    load, seconds = forecast.lowest()
    if expected is None:
        return None
    if load <= LOW:
        factor = OVERLOAD if seconds <= timeout_s else OVERLOAD_TIGHT
        return expected if expected >= factor * seconds else None
    tried = load if seconds <= timeout_s else TRIED * load
    return expected if others + 1.0 > tried else None
