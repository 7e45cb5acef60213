"""Draw a pipeline, what its stages do, and the limits it runs under, from one seed.

The pipeline is recorded with the product's own recorder: an op is drawn, and flows that it may
take according to the levels they lie on. Everything that is read by nobody becomes an output.

Two kinds of case. In a *failing* one stages fail for good at some paths, and an attempt that is
retried gives a prefix of what the last one gives. In a *varying* one attempts differ in any way,
and nothing fails for good: a failure that hangs on an item that is later taken back is neither
right nor wrong. Of those some are *complete*: every flow that is read in part is an output too, so
its producer is not cancelled for want of readers, and the part must be what the last attempt gave.

From `REVISING_FROM` on all seeds draw complete cases in which a lot is taken back: fan-outs that are
retried, readers of one item of them, and what chooses by what these found.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from alto.annotations import AsCompleted, Stream
from alto.core.default import Default
from alto.core.graph import Kind, Level
from alto.pipeline import Pipeline, either, merge, pipeline
from alto.placeholder import Flow
from alto.stages import Stage, recording

from .behaviour import TIMEOUT_S, Plan, dice

LEVELS_MAX = 5

REVISING_FROM = 50_000_000

Body = Callable[["Case", Plan], Callable[..., Any]]


@dataclass(slots=True)
class Case:
    """Everything about one run. `limits` are those of `core.execution.Limits`."""

    seed: int
    varies: bool
    complete: bool = False
    revising: bool = False
    pipeline: Pipeline[Any, Any] = None  # type: ignore[assignment]
    plans: dict[str, Plan] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    stream: bool = False
    committed: bool = False


def draw(seed: int, body: Body) -> Case:
    """The case of a seed. `body(case, plan)` makes the function under a stage."""
    rng = random.Random(seed)
    case = Case(seed, varies=rng.random() < 0.55)
    case.complete = case.varies and rng.random() < 0.5
    if seed >= REVISING_FROM:
        case.varies = case.complete = case.revising = True
    quiet = rng.random() < 0.3
    inner = [_draw_inner(case, rng, body, k, quiet) for k in range(rng.choice((0, 0, 1, 2)))]
    wiring = _Wiring(case, rng.randrange(1 << 30), body, inner, "s", quiet, rng.randint(1, 14))
    streamed = rng.random() < 0.2

    if streamed:

        def build(a: int, b: Stream[int]) -> Any:
            return wiring.wire([a, b])

    else:

        def build(a: int, b: int) -> Any:  # type: ignore[misc]
            return wiring.wire([a, b])

    case.pipeline = pipeline(name=f"case{seed}")(build)
    case.arguments = {"a": rng.randrange(100), "b": rng.randrange(100)}
    if streamed:
        case.arguments["b"] = [rng.randrange(100) for _ in range(rng.randrange(4))]
    if rng.random() < 0.5:
        case.limits["scope_items"] = rng.choice((1, 1, 2, 5))
    case.stream = rng.random() < 0.6
    case.committed = case.stream and rng.random() < 0.4
    if rng.random() < 0.2:
        case.limits["scope_bytes"] = rng.choice((1, 100, 200))
    return case


def _draw_inner(
    case: Case, rng: random.Random, body: Body, number: int, quiet: bool
) -> Pipeline[Any, Any]:
    wiring = _Wiring(
        case, rng.randrange(1 << 30), body, None, f"i{number}s", quiet, rng.randint(1, 4)
    )

    def one(x: int) -> Any:
        return wiring.wire([x])

    def two(x: int, y: int) -> Any:
        return wiring.wire([x, y])

    def streamed(x: int, y: Stream[int]) -> Any:
        return wiring.wire([x, y])

    def only(y: Stream[int]) -> Any:
        return wiring.wire([y])

    build: Callable[..., Any] = rng.choice((one, two, streamed, only))
    return pipeline(name=f"inner{number}")(build)


class _Wiring:
    """Draws the body of one pipeline, anew each time that it is recorded."""

    def __init__(
        self,
        case: Case,
        seed: int,
        body: Body,
        inner: list[Pipeline[Any, Any]] | None,
        prefix: str,
        quiet: bool,
        size: int,
    ) -> None:
        self.case = case
        self.seed = seed
        self.body = body
        self.inner = inner
        self.prefix = prefix
        self.quiet = quiet
        self.size = size
        self.rng = random.Random(0)
        self.flows: list[Flow] = []
        self.stages: list[Stage[Any, Any]] = []
        self.partly_read: set[Any] = set()

    def wire(self, given: list[Any]) -> Any:
        self.rng = rng = random.Random(self.seed)
        self.flows = list(given)
        self.stages = []
        self.partly_read = set()
        ops = [self._stage] * 8 + [self._where] * 2 + [self._conditional, self._merge, self._again]
        ops += [self._nest] * (2 if self.inner else 0)
        if self.inner is not None and rng.random() < 0.08:
            self._deep()
        if self.case.revising:
            self._fan_out()
            ops = [self._first] * 4 + [self._fan_out, self._one, self._conditional, self._where] * 2
            ops += [self._listed, self._merge, self._join]
        for _ in range(self.size):
            rng.choice(ops)()
        return self._outputs(given)

    def _outputs(self, given: list[Any]) -> dict[str, Flow]:
        recorder = recording.get()
        assert recorder is not None
        used = {flow for use in recorder.uses for _, flow in use.items}
        used |= {gather.flow for use in recorder.uses for gather in use.gathers}
        mine = [flow for flow in self.flows if not any(flow is other for other in given)]
        named = {}
        for k, flow in enumerate(mine):
            asked = self.case.complete and flow._core in self.partly_read
            if flow._core not in used or asked or self.rng.random() < 0.15:
                named[f"o{k}"] = flow
        return named or {"o": self._use(self._make([("p0", "item")], False), p0=given[0])}

    # ---------------------------------------------------------------- ops

    def _base(self) -> Level:
        recorder = recording.get()
        assert recorder is not None
        return recorder.frames[-1].base

    def _stage(self) -> None:
        rng = self.rng
        main = rng.choice(self.flows)
        if rng.random() < 0.3:
            main = max(self.flows, key=lambda flow: flow._core.level.depth)
        level = main._core.level
        item = rng.random() < 0.75 and level.is_under(self._base())
        parameters: list[tuple[str, str]] = []
        values: dict[str, Flow] = {}
        if item:
            parameters.append(("p0", "item"))
            values["p0"] = main
            if rng.random() < 0.3:
                above = [f for f in self.flows if level.is_under(f._core.level)]
                parameters.append(("p1", "item"))
                values["p1"] = rng.choice(above)
        else:
            level = self._base()
        below = [f for f in self.flows if f._core.level.is_under(level) and f is not main]
        if not item and main._core.level.is_under(level):
            below.append(main)
        lower = [f for f in below if f._core.level is not level] or below
        for k in range(rng.choice((0, 1, 1, 2) if item else (1, 1, 2))):
            if lower:
                kind = rng.choice(("Stream", "Stream", "AsCompleted", "list"))
                parameters.append((f"g{k}", kind))
                values[f"g{k}"] = rng.choice(lower)
        if not parameters:
            return
        fans_out = rng.random() < (0.6 if level.depth < 3 else 0.5) and level.depth < LEVELS_MAX
        self.flows.append(self._use(self._make(parameters, fans_out), **values))

    def _near(self, below: bool) -> list[Flow]:
        """The flows of this pipeline's own level, or those below it."""
        base = self._base()
        under = [f for f in self.flows if f._core.level.is_under(base)]
        return [f for f in under if (f._core.level is not base) is below]

    def _first(self) -> None:
        """Reads a part of one fan-out, or of two."""
        rng, deep = self.rng, self._near(below=True)
        if not deep:
            return
        parameters = [("g0", rng.choice(("Stream", "Stream", "AsCompleted")))]
        values = {"g0": rng.choice(deep)}
        if rng.random() < 0.3:
            parameters.append(("g1", "Stream"))
            values["g1"] = rng.choice(deep)
        near = self._near(below=False)
        if near and rng.random() < 0.3:
            parameters.append(("p0", "item"))
            values["p0"] = rng.choice(near)
        self.flows.append(self._use(self._make(parameters, rng.random() < 0.25), **values))

    def _fan_out(self) -> None:
        self._of_an_item(fans_out=True)

    def _one(self) -> None:
        self._of_an_item(fans_out=False)

    def _of_an_item(self, fans_out: bool) -> None:
        flows = [f for f in self.flows if f._core.level.is_under(self._base())]
        flows = [f for f in flows if f._core.level.depth < 3 or not fans_out]
        if flows:
            stage = self._make([("p0", "item")], fans_out)
            self.flows.append(self._use(stage, p0=self.rng.choice(flows)))

    def _listed(self) -> None:
        if deep := self._near(below=True):
            stage = self._make([("g0", "list")], False)
            self.flows.append(self._use(stage, g0=self.rng.choice(deep)))

    def _join(self) -> None:
        """An item that may be missing, and another one."""
        rng = self.rng
        one = rng.choice(self.flows).where(self._predicate())
        above = [f for f in self.flows if one._core.level.is_under(f._core.level)]
        if one._core.level.is_under(self._base()):
            fans_out = rng.random() < 0.3 and one._core.level.depth < 3
            stage = self._make([("p0", "item"), ("p1", "item")], fans_out)
            self.flows.append(self._use(stage, p0=one, p1=rng.choice(above)))

    def _deep(self) -> None:
        """As many levels as there may be, each below the one before."""
        for _ in range(LEVELS_MAX):
            if self.flows[-1]._core.level.depth < LEVELS_MAX:
                stage = self._make([("p0", "item")], True)
                self.flows.append(self._use(stage, p0=self.flows[-1]))

    def _use(self, stage: Stage[Any, Any], **values: Flow) -> Flow:
        self.stages.append(stage)
        plan = self.case.plans[stage.name]
        gives_up = plan.echo and plan.fails
        self.partly_read |= {
            values[p]._core for p, most in plan.reads.items() if most is not None or gives_up
        }
        found: Flow = stage(**values)
        return found

    def _again(self) -> None:
        """The same stage at another place."""
        plain = [s for s in self.stages if list(s.signature.parameters) == ["p0"]]
        flows = [f for f in self.flows if f._core.level.is_under(self._base())]
        flows = [f for f in flows if f._core.level.depth < LEVELS_MAX]
        if plain and flows:
            self.flows.append(self.rng.choice(plain)(self.rng.choice(flows)))

    def _where(self) -> None:
        self.flows.append(self.rng.choice(self.flows).where(self._predicate()))

    def _predicate(self, but: int = -1) -> Callable[[int], bool]:
        salt = self.rng.randrange(1000)
        raises = 0 if self.case.varies or self.quiet or self.rng.random() < 0.7 else 7

        def predicate(value: int) -> bool:
            rolled = dice(salt, value)
            if raises and rolled % 100 < raises:
                raise ZeroDivisionError("a predicate raised on purpose")
            return rolled % 3 != 0

        return predicate

    def _conditional(self) -> None:
        flow = self.rng.choice(self.flows)
        if not flow._core.level.is_under(self._base()):
            return
        keep = self._predicate()
        left = flow.where(keep)
        if self.case.revising:  # perhaps one that has nothing to do with it
            right = self.rng.choice([f for f in self.flows if f._core.level is flow._core.level])
        else:
            right = flow.where(lambda value: not keep(value)) if self.rng.random() < 0.7 else flow
        left = self._use(self._make([("p0", "item")], False), p0=left)
        if self.rng.random() < 0.6:
            right = self._use(self._make([("p0", "item")], False), p0=right)
        self.flows.append(either(left, right))

    def _merge(self) -> None:
        flows = [f for f in self.flows if f._core.level.depth <= LEVELS_MAX]
        chosen = [self.rng.choice(flows) for _ in range(self.rng.choice((2, 2, 3)))]
        self.flows.append(merge(*chosen))

    def _nest(self) -> None:
        assert self.inner is not None
        inner = self.rng.choice(self.inner)
        main = self.rng.choice(self.flows)
        level = main._core.level
        if not level.is_under(self._base()) or level.depth > 2:
            return
        values = {}
        if "x" in inner.signature.parameters:
            values["x"] = main
        else:
            level = self._base()
        if "y" in inner.signature.parameters:
            if inner.hints["y"] is int:
                near = [f for f in self.flows if level.is_under(f._core.level)]
            else:
                near = [f for f in self.flows if f._core.level.is_under(level)]
                near = [f for f in near if f._core.level is not level]
            if not near:
                return
            values["y"] = self.rng.choice(near)
        found = inner(**values)
        self.flows.extend(found.values())

    # ---------------------------------------------------------------- stages

    def _make(self, parameters: list[tuple[str, str]], fans_out: bool) -> Stage[Any, Any]:
        rng, case = self.rng, self.case
        name = f"{self.prefix}{len(case.plans)}"
        streamed = [(p, kind) for p, kind in parameters if kind in ("Stream", "AsCompleted")]
        plan = Plan(name, fans_out, most=rng.choice((1, 2, 3, 4)), varies=case.varies)
        plan.unordered = frozenset(p for p, kind in streamed if kind == "AsCompleted")
        most = (None, 0, 1, 1, 2) if case.complete else (None, None, None, 0, 1, 2)
        plan.reads = {p: rng.choice(most) for p, _ in streamed}
        plan.slow = rng.choice((0.1, 1.0, 5.0, 20.0) if case.revising else (0.0, 0.1, 1.0, 5.0))
        partial = frozenset(p for p, most in plan.reads.items() if most is not None)
        may_stop = case.varies and (self.inner is None or not case.complete)
        if may_stop:
            plan.opaque = partial
        readable = bool(streamed) and not plan.unordered and not plan.opaque
        plan.echo = fans_out and readable and rng.random() < 0.4
        options = self._options(plan)
        if plan.echo and may_stop:
            plan.fails = 0  # it would read a part of its stream
        function = self.body(case, plan)
        annotations: dict[str, Any] = {
            p: {"item": int, "list": list[int], "Stream": Stream[int]}.get(kind, AsCompleted[int])
            for p, kind in parameters
        }
        annotations["return"] = Stream[int] if fans_out else int
        case.plans[name] = plan
        return Stage(_shaped(function, name, annotations), name=name, **options)

    def _options(self, plan: Plan) -> dict[str, Any]:
        rng = self.rng
        options: dict[str, Any] = {}
        if rng.random() < (0.6 if self.case.revising else 0.3):
            options["retries"] = rng.choice((1, 2))
            options["backoff"] = rng.choice((0.0, 0.1, 2.0))
            plan.flaky = options["retries"]
            plan.flaky_percent = 100 if self.case.revising else rng.choice((30, 100))
        if rng.random() < 0.5:
            default = Default([7, 8] if plan.fans_out else 7)
            options["on_error"] = rng.choice(("drop", default, "fail"))
        if not self.quiet:
            lenient = options.get("on_error", "fail") != "fail"
            if lenient or not self.case.varies:
                plan.fails = rng.choice((0, 0, 10, 60) if lenient else (0, 0, 0, 5, 30))
        if rng.random() < 0.12:
            options["delivery"] = "committed"
        if rng.random() < 0.12:
            options["max_concurrency"] = rng.choice((1, 1, 2))
        if rng.random() < 0.2:
            plan.hangs = True
            options["timeout"] = TIMEOUT_S
        return options


def _shaped(function: Callable[..., Any], name: str, annotations: dict[str, Any]) -> Any:
    """The function with the signature that the recorder should see."""
    import inspect

    parameters = [
        inspect.Parameter(p, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)
        for p, kind in annotations.items()
        if p != "return"
    ]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = annotations
    function.__name__ = name
    return function


def describe(case: Case) -> str:
    """The pipeline in a few lines, for a person who looks for what went wrong."""
    kind = "complete" if case.complete else "varying" if case.varies else "failing"
    lines = [
        f"seed {case.seed}, {kind}, arguments {case.arguments}, limits {case.limits}"
        + (", stream" if case.stream else "")
        + (", committed" if case.committed else "")
    ]
    for use in case.pipeline.graph.uses:
        arguments = [f"{'' if p is None else p + '='}{flow.name}" for p, flow in use.items]
        arguments += [f"{g.parameter}={g.mode.value}[{g.flow.name}]" for g in use.gathers]
        line = f"  {use.name} @{use.level.depth}: {use.kind.value}({', '.join(arguments)})"
        if use.opens is not None:
            line += " -> Stream"
        if use.kind is Kind.STAGE and use.stage.name in case.plans:
            line += f"   {_plan_text(case.plans[use.stage.name], use)}"
        lines.append(line)
    outputs = ", ".join(
        f"{output.name}={output.flow.name}" for output in case.pipeline.graph.outputs
    )
    return "\n".join([*lines, f"  outputs {outputs}"])


def _plan_text(plan: Plan, use: Any) -> str:
    parts = []
    if plan.fans_out:
        parts.append(f"echo<={plan.most}" if plan.echo else f"<={plan.most}")
    for parameter, most in plan.reads.items():
        if most is not None:
            parts.append(f"reads {most} of {parameter}")
    if plan.fails:
        parts.append(f"fails {plan.fails}%")
    if use.rules.retries:
        parts.append(f"flaky {plan.flaky_percent}% x{plan.flaky}")
    if use.rules.on_error != "fail":
        parts.append(f"on_error {use.rules.on_error}")
    if plan.hangs:
        parts.append("hangs")
    if use.stage.max_concurrency:
        parts.append(f"at most {use.stage.max_concurrency}")
    if use.rules.committed:
        parts.append("committed")
    parts.append(f"slow {plan.slow:g}")
    return "; ".join(parts)
