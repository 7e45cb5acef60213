"""A plain interpreter of the ancestry rule: what a pipeline must come to.

It knows no time, no attempts, no streaming. It asks for the pipeline's outputs, and evaluates what
they need, by recursion over the graph:

* A flow is, at each node of its level, a value, absent, or failed. The nodes of a level are the
  items that its opener gave, or, below a merge, one for each item of each argument in turn.
* A stage runs at a node if all its item arguments are values there or above. If one is absent its
  output is absent; a fan-out then gives nothing.
* A gathered argument is every value below the node in path order; absent places are left out. A
  session reads as many as it likes; it meets a failure only if that comes before its last item.
* A stage that fails for good fails the places of its output: one item, or what would have come
  after the items it gave. `drop` makes that absence, `Default` puts values there.
* `either` is the first argument that is not absent; `where` and the like apply a function.

What time may decide is kept apart. A failure that an output needs *must* fail the request. One
that is only met by work that somebody asked for at some time (all of it is evaluated here, wanted
or not) *may* fail it: work that nobody wants any more is stopped, but perhaps not soon enough. With
one argument absent and another failed, whichever is seen first decides. The order in which an
`AsCompleted` brings things is free, so one that is read in part may meet a failure or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from alto.core.default import Default
from alto.core.graph import Flow, Gather, Graph, Kind, Level, Mode, Use
from alto.core.scope import ABSENT

from .behaviour import END, Met, Plan, outcome

Path = tuple[int, ...]
Origin = tuple[str, Path]


@dataclass(frozen=True, slots=True)
class Failure:
    """Failed, and where that may have begun."""

    origins: frozenset[Origin]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A node: `flow` is what the items of its level are, `key` its position."""

    parent: Place | None
    key: Path
    level: Level
    value: Any = None
    source: Place | None = None  # below a merge: the argument's node

    @property
    def path(self) -> Path:
        return (*self.parent.path, *self.key) if self.parent is not None else ()

    def up_to(self, level: Level) -> Place:
        place = self
        while place.level is not level:
            assert place.parent is not None, "an item argument lies on the way to the root"
            place = place.parent
        return place


@dataclass(slots=True)
class Run:
    """What a stage comes to at a place."""

    items: list[Any] = field(default_factory=list)
    value: Any = None
    failure: Failure | None = None
    met: Failure | None = None  # of its inputs, if it may meet one
    absent: bool = False


@dataclass(slots=True)
class Expected:
    """What a request must come to.

    `outputs` hold path to value. `must` is True if it has to fail; else, if `may` is not empty, it
    may fail instead. `may` are the stages and paths that it may then name.
    """

    outputs: dict[str, dict[Path, Any]]
    must: bool
    may: frozenset[Origin]
    runs: int


class Interpreter:
    def __init__(self, graph: Graph, seed: int, plans: Mapping[str, Plan]) -> None:
        self.graph = graph
        self.seed = seed
        self.plans = plans
        self.root = Place(None, (), graph.root)
        self.arguments: dict[Flow, Any] = {}
        self.runs: dict[tuple[Use, Place], Run] = {}
        self.values: dict[tuple[Flow, Place], Any] = {}
        self.places: dict[tuple[Level, Place], list[Place]] = {}
        self.perhaps: list[Failure] = []  # met by an operator that also had an absent argument

    def expect(self, arguments: Mapping[str, Any]) -> Expected:
        for name, flow in self.graph.parameters.items():
            self.arguments[flow] = arguments[name]
        outputs: dict[str, dict[Path, Any]] = {}
        needed: list[Failure] = []
        for output in self.graph.outputs:
            found = outputs[output.name] = {}
            for place, value in self.below(self.root, output.flow):
                if isinstance(value, Failure):
                    needed.append(value)
                else:
                    found[place.path] = value
        met = [*needed, *self._all_that_may_be_met()]
        may = frozenset(origin for failure in met for origin in failure.origins)
        return Expected(outputs, bool(needed), may, len(self.runs))

    def _all_that_may_be_met(self) -> Iterator[Failure]:
        for use in self.graph.uses:
            if use.kind is not Kind.STAGE:
                continue
            for place in list(self.all_places(use.level)):
                met = self.run(use, place).met
                if met is not None:
                    yield met
        yield from self.perhaps

    def all_places(self, level: Level) -> Iterator[Place]:
        if level.parent is None:
            yield self.root
            return
        for parent in list(self.all_places(level.parent)):
            yield from self.children(level, parent)[0]

    # ---------------------------------------------------------------- flows

    def below(self, top: Place, flow: Flow) -> Iterator[tuple[Place, Any]]:
        """Every value or failure of `flow` at or below `top`, in path order."""
        levels = []
        level = flow.level
        while level is not top.level:
            levels.append(level)
            assert level.parent is not None
            level = level.parent
        yield from self._walk(top, flow, levels)

    def _walk(self, place: Place, flow: Flow, levels: list[Level]) -> Iterator[tuple[Place, Any]]:
        if not levels:
            value = self.value(flow, place)
            if value is not ABSENT:
                yield place, value
            return
        opener = levels[-1].opener
        assert opener is not None
        if opener.kind is Kind.MERGE:
            merged = self.children(levels[-1], place)[0]
            children = {(child.key[0], child.source): child for child in merged}
            for k, (_, argument) in enumerate(opener.items):
                for source, value in self.below(place, argument):
                    if isinstance(value, Failure):
                        yield place, value
                    else:
                        yield from self._walk(children[k, source], flow, levels[:-1])
            return
        children_, failure = self.children(levels[-1], place)
        for child in children_:
            yield from self._walk(child, flow, levels[:-1])
        if failure is not None:
            yield place, failure

    def children(self, level: Level, parent: Place) -> tuple[list[Place], Failure | None]:
        """The nodes that a level has below one, and the failure that stands after them."""
        opener = level.opener
        assert opener is not None
        if opener.kind is Kind.MERGE:
            return self._merged(opener, level, parent), None
        run = self.run(opener, parent)
        key = (level, parent)
        if key not in self.places:
            self.places[key] = [
                Place(parent, (k,), level, value) for k, value in enumerate(run.items)
            ]
        return self.places[key], run.failure

    def _merged(self, opener: Use, level: Level, parent: Place) -> list[Place]:
        key = (level, parent)
        if key not in self.places:
            self.places[key] = [
                Place(parent, (k, *source.path[len(parent.path) :]), level, value, source)
                for k, (_, flow) in enumerate(opener.items)
                for source, value in self.below(parent, flow)
                if not isinstance(value, Failure)
            ]
        return self.places[key]

    def value(self, flow: Flow, place: Place) -> Any:
        """A flow at a place: its value, ABSENT, or a Failure."""
        if flow.origin is None:
            return self.arguments[flow]
        if flow.origin.opens is not None:
            return place.value
        key = (flow, place)
        if key not in self.values:
            self.values[key] = self._compute(flow.origin, place)
        return self.values[key]

    def _compute(self, use: Use, place: Place) -> Any:
        if use.kind is Kind.STAGE:
            run = self.run(use, place)
            return ABSENT if run.absent else run.failure or run.value
        values = [self.value(flow, place.up_to(flow.level)) for _, flow in use.items]
        if use.kind is Kind.EITHER:
            return next((value for value in values if value is not ABSENT), ABSENT)
        failure = _together(values)
        if any(value is ABSENT for value in values):
            if failure is not None:
                self.perhaps.append(failure)
            return ABSENT
        if failure is not None:
            return failure
        assert use.function is not None
        try:
            return use.function(*values)
        except ArithmeticError:
            return Failure(frozenset({(use.name, place.path)}))

    # ---------------------------------------------------------------- stages

    def run(self, use: Use, place: Place) -> Run:
        key = (use, place)
        if key not in self.runs:
            self.runs[key] = self._run(use, place)
        return self.runs[key]

    def _run(self, use: Use, place: Place) -> Run:
        arguments: dict[str, Any] = dict(use.constants)
        values = []
        for name, flow in use.items:
            value = self.value(flow, place.up_to(flow.level))
            values.append(value)
            if name is not None:
                arguments[name] = value
        met = _together(values)
        if any(value is ABSENT for value in values):
            return Run(absent=True, met=met)
        streams = {}
        for gather in use.gathers:
            if gather.mode is Mode.LIST:
                found = [value for _, value in self.below(place, gather.flow)]
                met = _together([met, *found])
                arguments[gather.parameter] = found
            else:
                streams[gather.parameter] = self.stream(gather, place)
        if met is not None:
            return Run(failure=met, met=met)
        return self._perform(use, place, arguments, streams)

    def stream(self, gather: Gather, place: Place) -> Iterator[Any]:
        values = (value for _, value in self.below(place, gather.flow))
        if gather.mode is Mode.ORDERED:
            return values
        # Which of them a reader that stops early meets is a matter of time: the failures last.
        return iter(sorted(values, key=lambda value: isinstance(value, Failure)))

    def _perform(
        self, use: Use, place: Place, arguments: dict[str, Any], streams: dict[str, Iterator[Any]]
    ) -> Run:
        if "items" in use.constants or use.stage.name not in self.plans:
            return Run(items=list(arguments["items"]))  # a parameter that is a Stream
        met: list[Failure] = []

        def read(parameter: str) -> Any:
            value = next(streams[parameter], END)
            if isinstance(value, Failure):
                met.append(value)
                raise Met
            return value

        plan = self.plans[use.stage.name]
        given, value, error = outcome(self.seed, plan, place.path, arguments, read)
        if isinstance(error, Met):
            failure = _together([*met, self._perhaps_met(use, place)])
            return Run(items=list(given), failure=failure, met=failure)
        run = self._settle(use, place, given, value, error)
        run.met = self._perhaps_met(use, place)
        return run

    def _perhaps_met(self, use: Use, place: Place) -> Failure | None:
        """Failures below an `AsCompleted` that is read: which comes first is a matter of time."""
        plan = self.plans[use.stage.name]
        found: list[Any] = []
        for gather in use.gathers:
            if gather.mode is Mode.COMPLETED and plan.reads[gather.parameter] != 0:
                found.extend(value for _, value in self.below(place, gather.flow))
        return _together(found)

    def _settle(
        self, use: Use, place: Place, given: list[int], value: Any, error: Exception | None
    ) -> Run:
        if error is None:
            return Run(items=list(given), value=value)
        on_error = use.rules.on_error
        if isinstance(on_error, Default):
            if use.opens is None:
                return Run(value=on_error.value)
            return Run(items=[*given, *on_error.value])
        if on_error == "drop":
            return Run(items=list(given), absent=True)
        # What a committed attempt gave is held until it closes: one that fails never does.
        items = [] if use.rules.committed else list(given)
        return Run(items=items, failure=Failure(frozenset({(use.name, place.path)})))


def _together(values: list[Any]) -> Failure | None:
    origins = [value.origins for value in values if isinstance(value, Failure)]
    return Failure(frozenset().union(*origins)) if origins else None
