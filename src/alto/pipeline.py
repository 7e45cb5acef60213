"""Recording a pipeline: the function runs once with placeholders, and what it does becomes a graph.

`@pipeline` calls the function with `Flow` placeholders. Each stage that it calls adds a use to the
graph; what it returns are the outputs. The graph is checked there and then, and all problems are
reported together.

A pipeline called inside another is recorded in place. Its "request" is one invocation of it: a
*token* stands for "all its item arguments are present here", every stage inside that takes no item
from inside waits for that token, and merges inside do not reach above it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, Union, overload

from .annotations import (
    Shape,
    assignable,
    hints_of,
    shape_of,
    stream_element,
    type_name,
)
from .core import graph as g
from .core.scope import ABSENT
from .errors import GraphError
from .stages import LM, Stage, batch_element, describe_type, recording

P = ParamSpec("P")
R = TypeVar("R")


class Flow:
    """A placeholder for values that will flow while a request runs.

    It has no value while the pipeline is recorded: pass it to stages, filter it with `where`,
    return it. Conditions, loops and attribute access on it belong inside a stage.
    """

    __slots__ = ("_core", "_recorder")

    def __init__(self, core: g.Flow, recorder: Recorder) -> None:
        self._core = core
        self._recorder = recorder

    def where(self, predicate: Callable[[Any], bool]) -> Any:
        """Keep the items for which `predicate(value)` is true; levels stay as they are.

        The predicate must be quick and pure. One that raises is a failure at that path.
        """
        return self._recorder.where(self, predicate)

    def __repr__(self) -> str:
        return f"<flow {self._core.name}>"

    def _no_value(self, what: str) -> NoReturn:
        raise GraphError(
            f"pipeline {self._recorder.name}: {what} the flow {self._core.name!r}, which has no "
            "value while the pipeline is recorded. Do that inside a stage, or keep items with "
            ".where(predicate)."
        )

    def __bool__(self) -> bool:
        self._no_value("a condition on")

    def __iter__(self) -> Any:
        self._no_value("a loop over")

    def __len__(self) -> int:
        self._no_value("len() of")

    def __getitem__(self, key: Any) -> Any:
        self._no_value(f"item {key!r} of")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._no_value(f"attribute {name!r} of")


class Pipeline(Generic[P, R]):
    """A recorded pipeline. Made by `@pipeline`. `graph` is what a runtime executes.

    Run it with `alto.run(pipeline, ...)` or `Runtime.call`; inside another pipeline call it like
    a stage.
    """

    def __init__(
        self,
        function: Callable[P, R],
        frame_locals: dict[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.name: str = name or function.__name__
        self.signature = inspect.signature(function)
        self.hints = hints_of(function, frame_locals)
        self.graph = Recorder(self).record()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recorder = recording.get()
        if recorder is None:
            raise GraphError(
                f"pipeline {self.name} was called like a function. Run it with "
                f"alto.run({self.name}, ...) or Runtime.call({self.name}, ...)."
            )
        return recorder.nest(self, args, kwargs)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of one request by parameter name, defaults filled in."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise GraphError(
                f"pipeline {self.name} takes {self.signature}; the call does not fit: {error}."
            ) from None
        bound.apply_defaults()
        return dict(bound.arguments)

    def __repr__(self) -> str:
        return f"<pipeline {self.name}>"


@overload
def pipeline(function: Callable[P, R], /) -> Pipeline[P, R]: ...
@overload
def pipeline(*, name: str | None = None) -> Callable[[Callable[P, R]], Pipeline[P, R]]: ...
def pipeline(function: Any = None, /, *, name: str | None = None) -> Any:
    """Record a pipeline from a function that calls stages and returns flows.

    Raises `GraphError` with every problem found (`.problems` holds them one by one).
    """
    from .stages import _caller_locals

    frame_locals = _caller_locals()
    if function is not None:
        return Pipeline(function, frame_locals, name)
    return lambda inner: Pipeline(inner, frame_locals, name)


def either(*flows: Any) -> Any:
    """At each path the first of `flows` that is present there: how a conditional comes back
    together. All must lie on one level."""
    return _recorder_of("either", flows).either(flows)


def merge(*flows: Any) -> Any:
    """Put flows one after the other. Opens one level under their nearest common proper ancestor
    (the request, for roots): an item's path is `p + (argument index,) + rest`."""
    return _recorder_of("merge", flows).merge(flows)


def _recorder_of(what: str, flows: Sequence[Any]) -> Recorder:
    recorder = recording.get()
    if recorder is None:
        raise GraphError(f"alto.{what} was called outside a pipeline. It joins flows; see @pipeline.")
    if len(flows) < 2 or not all(isinstance(flow, Flow) for flow in flows):
        raise GraphError(
            f"pipeline {recorder.name}: alto.{what} got {flows!r}, expected two or more flows."
        )
    return recorder


class _Frame:
    """A pipeline being recorded inside another: where its "request" lies, and what stands for it."""

    def __init__(self, name: str, base: g.Level, token: g.Flow | None) -> None:
        self.name = name
        self.base = base
        self.token = token
        self.derived: set[g.Flow] = set()


class Recorder:
    """Builds one graph. Problems are collected, so that all can be told at once."""

    def __init__(self, subject: Pipeline[Any, Any]) -> None:
        self.subject = subject
        self.name = subject.name
        self.root = g.Level(0, None)
        self.levels = [self.root]
        self.flows: list[g.Flow] = []
        self.uses: list[g.Use] = []
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.names: dict[str, int] = {}
        self.exported: set[g.Flow] = set()
        self.frames = [_Frame(self.name, self.root, None)]
        self.active: list[Pipeline[Any, Any]] = []

    # ---------------------------------------------------------------- the whole

    def record(self) -> g.Graph:
        subject = self.subject
        parameters: dict[str, g.Flow] = {}
        for parameter in subject.signature.parameters.values():
            where = f"pipeline {self.name}, parameter {parameter.name}"
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                self.problem(f"{where}: *args and **kwargs cannot be recorded. Name each parameter.")
                continue
            if parameter.name not in subject.hints:
                self.problem(
                    f"{where} has no annotation. Give it a type, so that what it feeds is checked."
                )
            annotation = subject.hints.get(parameter.name, Any)
            parameters[parameter.name] = self._flow(parameter.name, self.root, annotation)
        token = recording.set(self)
        self.active.append(subject)
        try:
            given = {name: Flow(flow, self) for name, flow in parameters.items()}
            returned = subject.function(**given)
        finally:
            recording.reset(token)
        outputs = self._outputs(returned)
        self._prune(outputs)
        self._dead_ends(outputs)
        if self.problems:
            raise GraphError("\n\n".join(self.problems), tuple(self.problems))
        return g.Graph(
            self.name,
            self.root,
            self.levels,
            self.flows,
            self.uses,
            parameters,
            outputs,
            single=isinstance(returned, Flow),
            warnings=self.warnings,
        ).compile()

    def problem(self, message: str) -> None:
        if message not in self.problems:
            self.problems.append(message)

    def _outputs(self, returned: Any) -> list[g.Output]:
        if isinstance(returned, Flow):
            return [g.Output("result", returned._core)]
        if isinstance(returned, Mapping) and returned:
            outputs = []
            for name, flow in returned.items():
                if not isinstance(name, str) or not isinstance(flow, Flow):
                    self.problem(
                        f"pipeline {self.name}: its result has {name!r}: {_given(flow)}, expected a "
                        "name and a flow. Constants belong into a stage."
                    )
                else:
                    outputs.append(g.Output(name, flow._core))
            return outputs
        self.problem(
            f"pipeline {self.name}: it returned {_given(returned)}, expected a flow or a dict of "
            "flows. Return what a stage gave."
        )
        return []

    def _prune(self, outputs: list[g.Output]) -> None:
        """Drop what only an unused output of a nested pipeline needed."""
        while True:
            used = {flow for use in self.uses for flow in g.sources_of(use)}
            used |= {output.flow for output in outputs}
            drop = [
                use
                for use in self.uses
                if use.out not in used and (use.out in self.exported or use.kind is g.Kind.INSTANT)
            ]
            if not drop:
                return
            for use in drop:
                self.uses.remove(use)
                self.flows.remove(use.out)
                if use.opens is not None:
                    self.levels.remove(use.opens)
                self.exported |= {flow for flow in g.sources_of(use) if flow.origin is not None}
            for position, use in enumerate(self.uses):
                use.index = position

    def _dead_ends(self, outputs: list[g.Output]) -> None:
        used = {flow for use in self.uses for flow in g.sources_of(use)}
        used |= {output.flow for output in outputs}
        for use in self.uses:
            if use.out not in used:
                self.problem(
                    f"pipeline {self.name}, stage {use.name}: its output goes nowhere. Pass it to "
                    "another stage, return it, or leave the stage out."
                )

    # ---------------------------------------------------------------- parts

    def _flow(self, name: str, level: g.Level, annotation: Any, origin: g.Use | None = None) -> g.Flow:
        flow = g.Flow(len(self.flows), name, level, origin, annotation)
        self.flows.append(flow)
        return flow

    def _add(
        self,
        name: str,
        kind: g.Kind,
        level: g.Level,
        items: list[tuple[str | None, g.Flow]],
        gathers: list[g.Gather],
        annotation: Any,
        opens: bool = False,
        **more: Any,
    ) -> g.Use:
        use = g.Use(len(self.uses), name, kind, level, items, gathers, None, **more)  # type: ignore[arg-type]
        out_level = level
        if opens:
            out_level = use.opens = g.Level(len(self.levels), level, use)
            self.levels.append(out_level)
        use.out = self._flow(name, out_level, annotation, use)
        self.uses.append(use)
        self.frames[-1].derived.add(use.out)
        return use

    def _label(self, name: str) -> str:
        self.names[name] = self.names.get(name, 0) + 1
        return name if self.names[name] == 1 else f"{name}#{self.names[name]}"

    # ---------------------------------------------------------------- stages

    def use(self, stage: Stage[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A stage was called: add it to the graph."""
        label = self._label(stage.name)
        where = f"pipeline {self.name}, stage {label}"
        items: list[tuple[str | None, g.Flow]] = []
        gathers: list[g.Gather] = []
        constants: dict[str, Any] = {}
        for name, value in self._bind(where, stage.signature, args, kwargs).items():
            self._argument(where, stage, name, value, items, gathers, constants)
        self._check_returns(where, stage)
        level = self._level_of(where, items, gathers)
        frame = self.frames[-1]
        if frame.token is not None and not any(flow in frame.derived for _, flow in items):
            items.append((None, frame.token))
        use = self._add(
            label,
            g.Kind.STAGE,
            level,
            items,
            gathers,
            stage.item_type,
            opens=stage.fans_out,
            stage=stage,
            rules=stage.rules,
            constants=constants,
        )
        return Flow(use.out, self)

    def _bind(
        self, where: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        try:
            return dict(signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            self.problem(f"{where} takes {signature}; the call does not fit: {error}.")
            known = {k: v for k, v in kwargs.items() if k in signature.parameters}
            names = [n for n in signature.parameters if n not in known]
            return {**dict(zip(names, args, strict=False)), **known}

    def _argument(
        self,
        where: str,
        stage: Stage[Any, Any],
        name: str,
        value: Any,
        items: list[tuple[str | None, g.Flow]],
        gathers: list[g.Gather],
        constants: dict[str, Any],
    ) -> None:
        where = f"{where}, parameter {name}"
        if not isinstance(value, Flow):
            if _holds_flow(value):
                self.problem(
                    f"{where}: got {type(value).__name__} with flows inside, expected a flow or a "
                    "constant. Give each flow its own parameter, or join them with alto.merge."
                )
            else:
                constants[name] = value
            return
        if value._recorder is not self:
            self.problem(f"{where}: the flow {value._core.name!r} belongs to another pipeline.")
            return
        flow = value._core
        parameter = stage.signature.parameters[name]
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            self.problem(f"{where}: *args and **kwargs cannot take flows. Name each parameter.")
            return
        if name not in stage.hints:
            self.problem(
                f"{where} has no annotation, so it is unknown whether it takes one item or all. "
                f"It is given {type_name(flow.type)} from {flow.name}: annotate it with that for "
                f"one item, or with Stream[{type_name(flow.type)}] for all."
            )
            items.append((name, flow))
            return
        shape = shape_of(stage.hints[name])
        if stage.batch is not None:
            self._batch_argument(where, stage, name, flow, items)
        elif shape.mode in (None, g.Mode.LIST) and assignable(flow.type, shape.annotation):
            items.append((name, flow))
        elif shape.mode is not None and assignable(flow.type, shape.element):
            gathers.append(g.Gather(name, flow, shape.mode))
        else:
            self._mismatch(where, stage, flow, shape)
            items.append((name, flow))

    def _batch_argument(
        self,
        where: str,
        stage: Stage[Any, Any],
        name: str,
        flow: g.Flow,
        items: list[tuple[str | None, g.Flow]],
    ) -> None:
        element = batch_element(stage.hints[name])
        if element is None or not assignable(flow.type, element):
            self.problem(
                f"{where}: got {type_name(flow.type)} from {flow.name}, expected "
                f"{type_name(stage.hints[name])}. With batch={stage.batch} the parameter is a list "
                f"of items: annotate it list[{type_name(flow.type)}]."
            )
        items.append((name, flow))

    def _mismatch(self, where: str, stage: Stage[Any, Any], flow: g.Flow, shape: Shape) -> None:
        given, wanted = type_name(flow.type), describe_type(shape.annotation)
        producer = flow.name
        hint = f"Let {stage.name} take {given}"
        element = getattr(shape_of(flow.type), "element", None)
        if element is not None and assignable(element, shape.annotation):
            hint += f", or let {producer} return Stream[{wanted}] so that {stage.name} runs once for each"
        elif flow.origin is not None:
            hint += f", or let {producer} return {wanted}"
        self.problem(f"{where}: got {given} from {producer}, expected {wanted}.\n{hint}.")

    def _check_returns(self, where: str, stage: Stage[Any, Any]) -> None:
        returns = stage.returns
        if returns is inspect.Signature.empty:
            self.problem(
                f"{where} has no return annotation. Say what one invocation gives: T for one item, "
                "Stream[T] for a fan-out."
            )
            return
        if type_name(returns).startswith("AsCompleted"):
            self.problem(f"{where} returns {type_name(returns)}. A fan-out is Stream[T]; AsCompleted is for parameters.")
        element = stream_element(returns)
        if element is not None and stream_element(element) is not None:
            self.problem(f"{where} returns {type_name(returns)}. One stage opens one level: return Stream[T].")
        if stage.is_generator and element is None and not isinstance(stage, LM):
            self.problem(
                f"{where} is a generator but returns {describe_type(returns)}. Annotate it "
                f"Stream[{describe_type(returns)}], or return one value."
            )
        if stage.batch is not None and (element is not None or batch_element(returns) is None):
            self.problem(
                f"{where} has batch={stage.batch} but returns {describe_type(returns)}. A batch "
                "stage returns a list with one output for each input."
            )

    def _level_of(
        self, where: str, items: list[tuple[str | None, g.Flow]], gathers: list[g.Gather]
    ) -> g.Level:
        """Where the stage runs: the level of its deepest item argument."""
        level = self.frames[-1].base
        origin = "the request"
        for name, flow in items:
            if flow.level.is_under(level):
                level, origin = flow.level, f"{name} (from {flow.name})"
            elif not level.is_under(flow.level):
                self.problem(
                    f"{where}: its arguments {origin} and {name} (from {flow.name}) share no "
                    f"ancestor but {_level_name(_common(level, flow.level))}: neither lies below "
                    f"the other, so {where.rsplit(' ', 1)[-1]} cannot tell which belong together. "
                    "Gather one of them (Stream[T] or list[T]), or derive one from the other."
                )
        for gather in gathers:
            if not gather.flow.level.is_under(level):
                self.problem(
                    f"{where}, parameter {gather.parameter}: it gathers {gather.flow.name}, which "
                    f"does not lie below {origin}, the item that this stage runs for. Take "
                    f"{gather.flow.name} as an item, or gather something derived from {origin}."
                )
            elif gather.flow.level is level and any(flow is gather.flow for _, flow in items):
                self.warnings.append(
                    f"{where}, parameter {gather.parameter}: gathers {gather.flow.name} at the item "
                    "it also takes, so it gets one item or none. Gather it at the parent."
                )
        return level

    # ---------------------------------------------------------------- operators

    def where(self, flow: Flow, predicate: Callable[[Any], bool]) -> Flow:
        if not callable(predicate):
            raise GraphError(
                f"pipeline {self.name}: {flow._core.name}.where({predicate!r}): expected a function "
                "of one item that returns a bool."
            )

        def keep(value: Any) -> Any:
            return value if predicate(value) else ABSENT

        core = flow._core
        use = self._add(
            self._label(f"{core.name}.where"),
            g.Kind.INSTANT,
            core.level,
            [("value", core)],
            [],
            core.type,
            function=keep,
        )
        return Flow(use.out, self)

    def either(self, flows: Sequence[Flow]) -> Flow:
        cores = [flow._core for flow in flows]
        for other in cores[1:]:
            if other.level is not cores[0].level:
                self.problem(
                    f"pipeline {self.name}, either: {cores[0].name} lies on "
                    f"{_level_name(cores[0].level)}, {other.name} on {_level_name(other.level)}. "
                    "Both must lie on one level; put them side by side with alto.merge."
                )
        use = self._add(
            self._label("either"),
            g.Kind.EITHER,
            cores[0].level,
            [(None, core) for core in cores],
            [],
            _union(cores),
        )
        return Flow(use.out, self)

    def merge(self, flows: Sequence[Flow]) -> Flow:
        cores = [flow._core for flow in flows]
        base = self.frames[-1].base
        level = cores[0].level
        for core in cores[1:]:
            level = _common(level, core.level)
        if any(core.level is level for core in cores) and level is not base:
            assert level.parent is not None
            level = level.parent
        use = self._add(
            self._label("merge"),
            g.Kind.MERGE,
            level,
            [(None, core) for core in cores],
            [],
            _union(cores),
            opens=True,
        )
        return Flow(use.out, self)

    # ---------------------------------------------------------------- pipelines inside pipelines

    def nest(self, inner: Pipeline[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A pipeline was called: record it here, with its own idea of the request."""
        if inner in self.active:
            raise GraphError(f"pipeline {self.name}: {inner.name} calls itself; a graph has no end then.")
        where = f"pipeline {self.name}, pipeline {inner.name}"
        bound = self._bind(where, inner.signature, args, kwargs)
        for parameter in inner.signature.parameters.values():
            if parameter.name not in bound and parameter.default is not parameter.empty:
                bound[parameter.name] = parameter.default
        items: list[tuple[str | None, g.Flow]] = []
        for name, value in bound.items():
            if isinstance(value, Flow) and self._is_item(where, inner, name, value):
                items.append((name, value._core))
        level = self._level_of(where, items, [])
        frame = _Frame(inner.name, level, None)
        if items:
            bound.update(self._enter(frame, inner.name, items))
        else:
            frame.token = self.frames[-1].token
        self.frames.append(frame)
        self.active.append(inner)
        try:
            returned = inner.function(**bound)
        finally:
            self.frames.pop()
            self.active.pop()
        flows = returned.values() if isinstance(returned, Mapping) else [returned]
        for flow in flows:
            if isinstance(flow, Flow):
                self.exported.add(flow._core)
                self.frames[-1].derived.add(flow._core)
        return returned

    def _is_item(self, where: str, inner: Pipeline[Any, Any], name: str, value: Flow) -> bool:
        shape = shape_of(inner.hints.get(name, Any))
        flow = value._core
        if shape.mode in (None, g.Mode.LIST) and assignable(flow.type, shape.annotation):
            return True
        if shape.mode is not None and assignable(flow.type, shape.element):
            return False
        self.problem(
            f"{where}, parameter {name}: got {type_name(flow.type)} from {flow.name}, expected "
            f"{describe_type(shape.annotation)}. Let {inner.name} take {type_name(flow.type)}."
        )
        return True

    def _enter(
        self, frame: _Frame, name: str, items: list[tuple[str | None, g.Flow]]
    ) -> dict[str, Flow]:
        """The inner pipeline's parameters: present only where all its item arguments are."""
        if len(items) == 1:
            frame.token = items[0][1]
            frame.derived.add(items[0][1])
            return {str(items[0][0]): Flow(items[0][1], self)}
        token = self._add(
            self._label(name), g.Kind.INSTANT, frame.base, items, [], tuple, function=lambda *v: v
        )
        frame.token = token.out
        frame.derived.add(token.out)
        inside = {}
        for position, (parameter, flow) in enumerate(items):
            use = self._add(
                f"{name}.{parameter}",
                g.Kind.INSTANT,
                frame.base,
                [(parameter, token.out)],
                [],
                flow.type,
                function=functools.partial(_pick, position),
            )
            frame.derived.add(use.out)
            inside[str(parameter)] = Flow(use.out, self)
        return inside


def _pick(position: int, values: tuple[Any, ...]) -> Any:
    return values[position]


def _common(a: g.Level, b: g.Level) -> g.Level:
    chain = b.chain()
    for level in reversed(a.chain()):
        if level in chain:
            return level
    raise AssertionError("levels of one graph share the root")


def _level_name(level: g.Level) -> str:
    return "the request" if level.opener is None else f"each item of {level.opener.name}"


def _union(flows: Sequence[g.Flow]) -> Any:
    return functools.reduce(lambda a, b: Union[a, b], (flow.type for flow in flows))


def _given(value: Any) -> str:
    if value is None:
        return "nothing (None)"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _holds_flow(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(isinstance(inner, Flow) for inner in value.values())
    if isinstance(value, list | tuple | set):
        return any(isinstance(inner, Flow) for inner in value)
    return False
