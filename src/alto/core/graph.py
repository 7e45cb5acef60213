"""A pipeline as data: levels, flows, and the uses of stages that connect them.

A *level* is how deep an item lies and who opened that depth: levels form a tree whose root is the
request. A *flow* lives on one level: at each node of that level it is a value, absent, or failed.
A *use* is one place in a pipeline where a stage (or an operator such as `where`) is applied. It
runs once for each node of its level, with

    items     flows on its own level or above (broadcast), all of which must be present, and
    gathers   flows on its own level or below, of which it gets every item under its node.

`Graph.compile` turns the lists into the tables that the execution reads: for each flow who is
woken by it, for each level which slots its nodes have, for each gather the steps of its walk.

Always true:
    G1  an item's level is the use's level or an ancestor of it; a gather's is that or a descendant
    G2  each use but those at the request has a primary item, a flow on the use's own level
    G3  uses are listed in topological order
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .default import Default
from .scope import PENDING


class Kind(Enum):
    """What a use does with its arguments."""

    STAGE = "stage"  # user code, run by a driver
    INSTANT = "instant"  # a pure function run inside the core (where, nested pipelines)
    EITHER = "either"  # the first argument present
    MERGE = "merge"  # one flow after the other


class Mode(Enum):
    """How a gathered argument is handed over."""

    ORDERED = "Stream"  # path order, as soon as order allows
    COMPLETED = "AsCompleted"  # order of completion
    LIST = "list"  # all at once


BACKOFF_MAX_S = 10.0
"""The longest pause between two attempts, unless a stage's first one is longer."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What happens around one stage's invocations; times in seconds.

    `retries` further attempts follow a failed one, after `backoff_s * 2**(attempt-1)`, at most
    `backoff_max_s`, times a random factor between 0.5 and 1. `timeout` is for one attempt, from
    its start. `on_error` is what follows the last attempt.
    """

    retries: int = 0
    backoff_s: float = 0.1
    backoff_max_s: float = BACKOFF_MAX_S
    timeout: float | None = None
    on_error: str | Default = "fail"
    committed: bool = False
    retry_timeout: bool = True  # an attempt that took too long may be tried again


@dataclass(eq=False, slots=True)
class Level:
    """One depth of ancestry. `opener` is the use whose outputs are its nodes; None at the root."""

    index: int
    parent: Level | None
    opener: Use | None = None
    depth: int = 0
    slot: int = -1  # position among the parent's child levels
    flows: list[Flow] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)  # kind STAGE only
    children: list[Level] = field(default_factory=list)
    gathers: list[Gather] = field(default_factory=list)  # of uses on this level
    obligations: int = 0  # what must happen before a node here is spent
    outputs_below: bool = False  # an output lies on this level or below
    retained: bool = False  # nodes may be needed again by a re-run
    first_slots: list[Any] = field(default_factory=list)  # template of a node's values
    walkers: list[Gather | Output] = field(default_factory=list)  # walks that lead through here

    def chain(self) -> list[Level]:
        """This level and its ancestors, the root first."""
        chain: list[Level] = []
        level: Level | None = self
        while level is not None:
            chain.append(level)
            level = level.parent
        return chain[::-1]

    def is_under(self, other: Level) -> bool:
        """Whether `other` is this level or above it."""
        level: Level | None = self
        while level is not None:
            if level is other:
                return True
            level = level.parent
        return False


@dataclass(eq=False, slots=True)
class Flow:
    """One value per node of its level. `origin` is None for a pipeline's parameter."""

    index: int
    name: str
    level: Level
    origin: Use | None = None
    type: Any = None
    slot: int = -1
    outputs: list[Output] = field(default_factory=list)
    primary_of: list[Use] = field(default_factory=list)
    item_of: list[Use] = field(default_factory=list)  # every use that takes it as an item
    gathered_by: list[Gather] = field(default_factory=list)
    completed_by: list[Gather] = field(default_factory=list)  # the AsCompleted ones of these
    merged_by: list[tuple[Use, int]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Gather:
    """One gathered argument. `steps` leads from a node of the use's level to the flow's nodes."""

    parameter: str
    flow: Flow
    mode: Mode
    use: Use | None = None
    slot: int = -1  # position among the gathers of the use's level
    steps: tuple[Step, ...] = ()
    merges: bool = False  # some step leads through a merge


@dataclass(eq=False, slots=True)
class Step:
    """One level down on a walk: into a scope, or through the arguments of a merge."""

    level: Level
    slot: int
    sources: tuple[tuple[Flow, tuple[Step, ...]], ...] = ()  # of a merge: each argument's walk
    merge: Use | None = None


@dataclass(eq=False, slots=True)
class Use:
    """A stage or operator at one place of a pipeline.

    `bind(items, gathers)` order: `items` holds (parameter name, flow), with None as the name of a
    dependency that is waited for but not passed on. `stage` is whatever the driver runs.
    """

    index: int
    name: str
    kind: Kind
    level: Level
    items: list[tuple[str | None, Flow]]
    gathers: list[Gather]
    out: Flow
    opens: Level | None = None
    stage: Any = None
    rules: Rules = field(default_factory=Rules)
    constants: dict[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | None = None  # of an INSTANT
    slot: int = -1  # position among the stages of its level
    primary: Flow | None = None
    lookups: tuple[tuple[int, int], ...] = ()  # for each item: levels up, value slot
    named: tuple[tuple[str, int, int], ...] = ()  # the same with the names of those passed on
    session: bool = False
    lists: bool = False
    solo: bool = False  # starts as soon as its primary item is there
    rerun: bool = False  # may give its output again with changes
    hold: bool = False  # inputs read from gathers are held for another attempt
    upstream: frozenset[int] = frozenset()  # indices of uses that this one's inputs come from


@dataclass(eq=False, slots=True)
class Output:
    """A named result of the pipeline."""

    name: str
    flow: Flow
    steps: tuple[Step, ...] = ()
    merges: bool = False  # some step leads through a merge


@dataclass(eq=False, slots=True)
class Graph:
    """A whole pipeline. `single` is True when it returns one flow instead of a dict."""

    name: str
    root: Level
    levels: list[Level]
    flows: list[Flow]
    uses: list[Use]
    parameters: dict[str, Flow]
    outputs: list[Output]
    single: bool = False
    warnings: list[str] = field(default_factory=list)
    leading: frozenset[int] = frozenset()  # indices of uses that lead to what is shown first
    compiled: bool = False

    def compile(self) -> Graph:
        """Fill in the tables. Called once, when the graph is complete."""
        if self.compiled:
            return self
        self.compiled = True
        for level in self.levels:
            if level.parent is not None:
                level.depth = level.parent.depth + 1
                level.slot = len(level.parent.children)
                level.parent.children.append(level)
        for flow in self.flows:
            flow.slot = len(flow.level.flows)
            flow.level.flows.append(flow)
        for level in self.levels:
            level.first_slots = [PENDING] * len(level.flows)
        for use in self.uses:
            _compile_use(use)
        for output in self.outputs:
            output.flow.outputs.append(output)
            output.steps = walk(self.root, output.flow.level)
            output.merges = any(step.merge is not None for step in output.steps)
            for level in output.flow.level.chain():
                level.outputs_below = True
            _oblige(output.steps, output)
        self._find_reruns()
        self.leading = _leading(self.outputs)
        for use in self.uses:
            use.solo = use.kind is Kind.STAGE and not use.gathers and _brings_all(use)
        return self

    def _find_reruns(self) -> None:
        """Which uses may give changed output again: a fan-out or session with retries (its items
        go out before the attempt is over), and all that is derived from one."""
        upstream: dict[int, frozenset[int]] = {}
        changing: set[int] = set()
        for use in self.uses:
            above: set[int] = set()
            for flow in sources_of(use):
                origin = flow.origin
                if origin is not None:
                    above |= {origin.index} | upstream[origin.index]
            # the opener of each level on the way is upstream too: it makes the nodes
            for level in use.level.chain():
                if level.opener is not None and level.opener is not use:
                    above |= {level.opener.index} | upstream.get(level.opener.index, frozenset())
            upstream[use.index] = use.upstream = frozenset(above)
            provisional = use.opens is not None and use.kind is Kind.STAGE and use.rules.retries > 0
            use.rerun = provisional or any(index in changing for index in above)
            if use.rerun:
                changing.add(use.index)
            use.hold = bool(use.gathers) and (
                (use.session and use.rules.retries > 0) or any(index in changing for index in above)
            )
        for use in self.uses:
            if use.rerun or (use.session and use.rules.retries > 0):
                for level in self.levels:
                    if level.is_under(use.level) or use.level.is_under(level):
                        level.retained = True
                for gather in use.gathers:
                    _retain(gather.steps)
        for output in self.outputs:  # walked again when anything on the way has changed
            if _any_retained(output.steps):
                _retain(output.steps)


def _any_retained(steps: tuple[Step, ...]) -> bool:
    return any(
        step.level.retained or any(_any_retained(source) for _, source in step.sources)
        for step in steps
    )


def _retain(steps: tuple[Step, ...]) -> None:
    for step in steps:
        step.level.retained = True
        for _, source in step.sources:
            _retain(source)


def sources_of(use: Use) -> Iterable[Flow]:
    """Every flow that a use takes, items first."""
    yield from (flow for _, flow in use.items)
    yield from (gather.flow for gather in use.gathers)


def _leading(outputs: Iterable[Output]) -> frozenset[int]:
    """The uses that lead to what a request shows first: an item of the output that the fewest uses
    come before. On the way back from it a use leads if one of its invocations is enough for that
    item."""
    origins = [output.flow.origin for output in outputs if output.flow.origin is not None]
    fewest = min((len(origin.upstream) for origin in origins), default=0)
    ways = [origin for origin in origins if len(origin.upstream) == fewest]
    found: set[int] = set()
    while ways:
        use = ways.pop()
        if use.index not in found:
            found.add(use.index)
            ways += _enough(use)
    return frozenset(found)


def _enough(use: Use) -> list[Use]:
    """Where one invocation of a use is known to be enough for a first item of this one: whatever
    makes an item or a node for it; what is read as a stream, if items are given meanwhile; and of
    what is waited for as a whole the use that begins it, if that runs once for this one."""
    flows = [flow for _, flow in use.items]
    ways = [level.opener for level in use.level.chain() if level.opener is not None]
    for gather in use.gathers:
        if use.opens is not None and gather.mode is not Mode.LIST:
            flows.append(gather.flow)
            continue
        openers = (step.level.opener for step in gather.steps if step.merge is None)
        ways += (one for one in openers if one is not None and use.level.is_under(one.level))
    return ways + [flow.origin for flow in flows if flow.origin is not None]


def _compile_use(use: Use) -> None:
    if use.kind is Kind.MERGE:
        for position, (_, flow) in enumerate(use.items):
            flow.merged_by.append((use, position))
        return
    lookups = []
    for _, flow in use.items:
        flow.item_of.append(use)
        lookups.append((use.level.depth - flow.level.depth, flow.slot))
        if flow.level is use.level and (use.primary is None or _comes_from(flow, use.primary)):
            use.primary = flow
    use.lookups = tuple(lookups)
    names = (name for name, _ in use.items)
    use.named = tuple(
        (name, *at) for name, at in zip(names, lookups, strict=True) if name is not None
    )
    if use.primary is not None and use.kind is not Kind.EITHER:
        use.primary.primary_of.append(use)
    elif use.kind is Kind.EITHER:
        use.items[0][1].primary_of.append(use)
    if use.kind is Kind.STAGE:
        use.slot = len(use.level.uses)
        use.level.uses.append(use)
        use.level.obligations += 1
    for gather in use.gathers:
        gather.use = use
        gather.slot = len(use.level.gathers)
        use.level.gathers.append(gather)
        gather.flow.gathered_by.append(gather)
        if gather.mode is Mode.COMPLETED:
            gather.flow.completed_by.append(gather)
        gather.steps = walk(use.level, gather.flow.level)
        gather.merges = any(step.merge is not None for step in gather.steps)
        _oblige(gather.steps, gather)
        use.session = use.session or gather.mode is not Mode.LIST
        use.lists = use.lists or gather.mode is Mode.LIST


def _comes_from(flow: Flow, other: Flow) -> bool:
    """Whether a value of `flow` is there only if one of `other` is: stages lead from one to the
    other, of which each takes all its items."""
    ways = [flow]
    for way in ways:  # grows on the way
        if way.origin is not None and way.origin.kind is Kind.STAGE:
            taken = [item for _, item in way.origin.items]
            if other in taken:
                return True
            ways += [item for item in taken if item not in ways]
    return False


def _brings_all(use: Use) -> bool:
    """Whether all items are there if the primary one is, and stay as they are."""
    primary = use.primary
    return primary is not None and all(
        flow is primary or (not use.rerun and _comes_from(primary, flow)) for _, flow in use.items
    )


def walk(top: Level, bottom: Level) -> tuple[Step, ...]:
    """The steps from a node on `top` down to the nodes on `bottom`."""
    steps: list[Step] = []
    level = bottom
    while level is not top:
        opener, parent = level.opener, level.parent
        assert opener is not None and parent is not None, "a level under the root has an opener"
        if opener.kind is Kind.MERGE:
            sources = tuple((flow, walk(parent, flow.level)) for _, flow in opener.items)
            steps.append(Step(level, level.slot, sources, opener))
        else:
            steps.append(Step(level, level.slot))
        level = parent
    return tuple(reversed(steps))


def _oblige(steps: tuple[Step, ...], walker: Gather | Output) -> None:
    """A walk must pass each node that it meets before that node is spent."""
    for step in steps:
        step.level.obligations += 1
        step.level.walkers.append(walker)
        for _, source in step.sources:
            _oblige(source, walker)
