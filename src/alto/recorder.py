"""Recording a pipeline: what its function does with placeholders becomes a graph.

Each stage that is called adds a use (wiring.py sorts its arguments); what is returned are the
outputs. Problems are collected and told together.

A pipeline called inside another is recorded in place. Its "request" is one invocation of it: a
*token* stands for "all its item arguments are present here". What takes nothing from inside waits
for the token, so nothing of an inner pipeline happens where it is not invoked; merges inside do
not reach above it.

A parameter annotated `Stream[T]` is one level deeper than the request: a use that yields the
elements of the argument opens it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

from .annotations import Unresolved, shape_of, stream_element, type_name
from .core import graph as g
from .core.scope import ABSENT
from .errors import GraphError
from .placeholder import Flow
from .stages import Stage, describe_type, recording
from .wiring import Items, Wiring, common, fits, level_name, level_of, shown

if TYPE_CHECKING:
    from .pipeline import Pipeline


class Frame:
    """A pipeline being recorded: where its "request" lies, and what stands for it (None for the
    outermost). `derived` are the flows that are present only where the token is."""

    def __init__(self, subject: Pipeline[Any, Any], base: g.Level, token: g.Flow | None) -> None:
        self.subject = subject
        self.base = base
        self.token = token
        self.derived: set[g.Flow] = set()


class Recorder:
    """Builds one graph."""

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
        self.narrowed: set[g.Flow] = set()
        self.spare: set[g.Flow] = set()  # what nobody wrote: dropped when nobody reads it
        self.frames = [Frame(subject, self.root, None)]

    # ---------------------------------------------------------------- the whole

    def record(self) -> g.Graph:
        parameters, given = self._parameters()
        token = recording.set(self)
        try:
            returned = call(self.subject, given)
        except GraphError as error:
            # It stopped the recording; what was found before is told along with it.
            problems = (*self.problems, *error.problems)
            raise GraphError("\n\n".join(problems), problems) from None
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

    def _parameters(self) -> tuple[dict[str, g.Flow], dict[str, Any]]:
        """The flows that requests fill, and the placeholders that the function is called with."""
        flows: dict[str, g.Flow] = {}
        given: dict[str, Any] = {}
        for parameter in self.subject.signature.parameters.values():
            name, where = parameter.name, f"pipeline {self.name}, parameter {parameter.name}"
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                self.problem(
                    f"{where}: *args and **kwargs cannot be recorded. Name each parameter."
                )
                continue
            annotation = self.subject.hints.get(name, Any)
            if name not in self.subject.hints:
                self.problem(
                    f"{where} has no annotation. Give it a type, so that what it feeds is checked."
                )
            elif isinstance(annotation, Unresolved):
                self.problem(
                    f"{where}: the annotation {annotation.text!r} uses a name that is not defined "
                    "here. Define or import it before the pipeline."
                )
            flow = flows[name] = self._flow(name, self.root, annotation)
            element = stream_element(annotation)
            if element is not None:
                flow = self._open(name, element, [("items", flow)], {})
            given[name] = Flow(flow, self)
        return flows, given

    def _outputs(self, returned: Any) -> list[g.Output]:
        if isinstance(returned, Flow):
            returned = {"result": returned}
        if not isinstance(returned, Mapping) or not returned:
            self.problem(
                f"pipeline {self.name}: it returned {shown(returned)}, expected a flow or a dict "
                "of flows. Return what a stage gave."
            )
            return []
        outputs = []
        for name, flow in returned.items():
            if not isinstance(name, str) or not isinstance(flow, Flow):
                self.problem(
                    f"pipeline {self.name}: its result has {name!r}: {shown(flow)}, expected a "
                    "name and a flow. Constants belong into a stage."
                )
            elif flow._recorder is not self:
                self.problem(
                    f"pipeline {self.name}: its result has {name!r}: the flow "
                    f"{flow._core.name!r}, which belongs to another pipeline. Call that pipeline "
                    "here, like a stage."
                )
            else:
                outputs.append(g.Output(name, flow._core))
        return outputs

    def _prune(self, outputs: list[g.Output]) -> None:
        """Drop what only an unused output of an inner pipeline needed."""
        while drop := [use for use in self._unused(outputs) if use.out in self.spare]:
            for use in drop:
                self.uses.remove(use)
                self.flows.remove(use.out)
                if use.opens is not None:
                    self.levels.remove(use.opens)
                self.spare |= set(g.sources_of(use))
        for position, use in enumerate(self.uses):
            use.index = position
        for position, flow in enumerate(self.flows):
            flow.index = position
        for position, level in enumerate(self.levels):
            level.index = position

    def _dead_ends(self, outputs: list[g.Output]) -> None:
        for use in self._unused(outputs):
            self.problem(
                f"pipeline {self.name}, stage {use.name}: its output goes nowhere. Pass it to "
                "another stage, return it, or leave the stage out."
            )

    def _unused(self, outputs: list[g.Output]) -> list[g.Use]:
        used = {flow for use in self.uses for flow in g.sources_of(use)}
        used |= {output.flow for output in outputs}
        return [use for use in self.uses if use.out not in used]

    # ---------------------------------------------------------------- parts

    def _flow(
        self, name: str, level: g.Level, annotation: Any, origin: g.Use | None = None
    ) -> g.Flow:
        flow = g.Flow(len(self.flows), name, level, origin, annotation)
        self.flows.append(flow)
        return flow

    def _add(
        self,
        name: str,
        kind: g.Kind,
        level: g.Level,
        items: Items,
        annotation: Any,
        *,
        gathers: Sequence[g.Gather] = (),
        opens: bool = False,
        **more: Any,
    ) -> g.Use:
        opened = g.Level(len(self.levels), level) if opens else None
        out = self._flow(name, opened or level, annotation)
        use = g.Use(len(self.uses), name, kind, level, items, list(gathers), out, **more)
        out.origin = use
        if opened is not None:
            use.opens, opened.opener = opened, use
            self.levels.append(opened)
        self.uses.append(use)
        frame = self.frames[-1]
        taken = [flow in frame.derived for _, flow in items] or [frame.token is None]
        # Of several arguments one is enough for what needs them all.
        if all(taken) if kind in (g.Kind.EITHER, g.Kind.MERGE) else any(taken):
            frame.derived.add(use.out)
        return use

    def _label(self, name: str) -> str:
        self.names[name] = self.names.get(name, 0) + 1
        return name if self.names[name] == 1 else f"{name}#{self.names[name]}"

    def _guard(self, items: Items) -> Items:
        """The items, with the token unless one of them is present only where that is."""
        frame = self.frames[-1]
        if frame.token is None or any(flow in frame.derived for _, flow in items):
            return items
        frame.derived.add(frame.token)
        return [*items, (None, frame.token)]

    # ---------------------------------------------------------------- stages

    def use(self, stage: Stage[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A stage was called: add it to the graph."""
        stage.settle(self.subject.names)
        label = self._label(stage.name)
        wiring = Wiring(self, stage, label)
        for name, value in self.bind(wiring.where, stage.signature, args, kwargs).items():
            wiring.argument(name, value)
        wiring.check_returns()
        use = self._add(
            label,
            g.Kind.STAGE,
            wiring.level(),
            self._guard(wiring.items),
            stage.item_type,
            gathers=wiring.gathers,
            opens=stage.fans_out,
            stage=stage,
            rules=stage.rules,
            constants=wiring.constants,
        )
        return Flow(use.out, self)

    def bind(
        self,
        where: str,
        signature: inspect.Signature,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> dict[str, Any]:
        """The arguments by parameter; as many of them as can be told if the call does not fit."""
        try:
            return dict(signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            self.problem(
                f"{where}: it takes {signature_text(signature)}; the call does not fit: {error}."
            )
            known = {k: v for k, v in kwargs.items() if k in signature.parameters}
            names = [n for n in signature.parameters if n not in known]
            return {**dict(zip(names, args, strict=False)), **known}

    def _open(self, name: str, element: Any, items: Items, constants: dict[str, Any]) -> g.Flow:
        """The elements of one value, a level below it."""
        use = self._add(
            name,
            g.Kind.STAGE,
            self.frames[-1].base,
            items,
            element,
            opens=True,
            stage=Stage(_elements, name=name),
            constants=constants,
        )
        self.spare.add(use.out)
        return use.out

    # ---------------------------------------------------------------- operators

    def where(self, flow: Flow, predicate: Callable[[Any], bool]) -> Flow:
        core = flow._core
        if not callable(predicate):
            raise GraphError(
                f"pipeline {self.name}: {core.name}.where({predicate!r}): expected a function of "
                "one item that returns a bool. Write for example .where(lambda item: item > 3)."
            )

        def keep(value: Any) -> Any:
            return value if predicate(value) else ABSENT

        label = self._label(f"{core.name}.where")
        use = self._add(
            label, g.Kind.INSTANT, core.level, [("value", core)], core.type, function=keep
        )
        self.narrowed.add(use.out)
        return Flow(use.out, self)

    def either(self, flows: Sequence[Flow]) -> Flow:
        cores = [flow._core for flow in flows]
        for other in cores[1:]:
            if other.level is not cores[0].level:
                self.problem(
                    f"pipeline {self.name}, either: {cores[0].name} lies on "
                    f"{level_name(cores[0].level)}, {other.name} on {level_name(other.level)}, "
                    "expected flows of one level. Put them side by side with alto.merge."
                )
        items: Items = [(None, core) for core in cores]
        label = self._label("either")
        use = self._add(label, g.Kind.EITHER, cores[0].level, items, _union(cores))
        return Flow(use.out, self)

    def merge(self, flows: Sequence[Flow]) -> Flow:
        cores = [flow._core for flow in flows]
        level = functools.reduce(common, (core.level for core in cores))
        if any(core.level is level for core in cores) and level is not self.frames[-1].base:
            assert level.parent is not None
            level = level.parent
        items: Items = [(None, core) for core in cores]
        label = self._label("merge")
        use = self._add(label, g.Kind.MERGE, level, items, _union(cores), opens=True)
        return Flow(use.out, self)

    # ---------------------------------------------------------------- pipelines inside pipelines

    def nest(self, inner: Pipeline[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A pipeline was called: record it here, with its own idea of the request."""
        if any(frame.subject is inner for frame in self.frames):
            raise GraphError(
                f"pipeline {self.name}: {inner.name} calls itself; such a graph has no end. Put "
                "the loop inside a stage."
            )
        where = f"pipeline {self.name}, pipeline {inner.name}"
        bound = self.bind(where, inner.signature, args, kwargs)
        for parameter in inner.signature.parameters.values():
            if parameter.name not in bound and parameter.default is not parameter.empty:
                bound[parameter.name] = parameter.default
        items: Items = []
        gathers: list[g.Gather] = []
        for name, value in bound.items():
            if isinstance(value, Flow):
                self._inner_argument(where, inner, name, value, items, gathers)
        frame = Frame(inner, level_of(self, where, inner.name, items, gathers), None)
        if items:
            bound.update(self._enter(frame, inner.name, items))
        else:
            frame.token = self.frames[-1].token
        self.frames.append(frame)
        try:
            for name, value in bound.items():
                element = stream_element(inner.hints.get(name))
                if element is not None and not isinstance(value, Flow):
                    flow = self._open(name, element, self._guard([]), {"items": value})
                    bound[name] = Flow(flow, self)
            returned = self._leave(frame, call(inner, bound))
        finally:
            self.frames.pop()
        for flow in returned.values() if isinstance(returned, dict) else [returned]:
            if isinstance(flow, Flow):
                self.spare.add(flow._core)
                self.frames[-1].derived.add(flow._core)
        return returned

    def _inner_argument(
        self,
        where: str,
        inner: Pipeline[Any, Any],
        name: str,
        value: Flow,
        items: Items,
        gathers: list[g.Gather],
    ) -> None:
        shape = shape_of(inner.hints.get(name, Any))
        flow = value._core
        if shape.mode in (None, g.Mode.LIST) and fits(self, flow, shape.annotation):
            items.append((name, flow))
        elif shape.mode is not None and fits(self, flow, shape.element):
            gathers.append(g.Gather(name, flow, shape.mode))
        else:
            self.problem(
                f"{where}, parameter {name}: got {type_name(flow.type)} from {flow.name}, expected "
                f"{describe_type(shape.annotation)}. Let {inner.name} take {type_name(flow.type)}."
            )
            # Told once: inside, it counts as what was expected.
            items.append((name, dataclasses.replace(flow, type=shape.annotation)))
            self.spare.add(flow)

    def _enter(self, frame: Frame, name: str, items: Items) -> dict[str, Flow]:
        """The inner pipeline's item parameters: present only where all of them are."""
        if len(items) == 1:
            frame.token = items[0][1]
            frame.derived.add(items[0][1])
            return {str(items[0][0]): Flow(items[0][1], self)}
        token = self._add(
            self._label(name), g.Kind.INSTANT, frame.base, items, tuple, function=lambda *v: v
        )
        self.spare.add(token.out)
        frame.token = token.out
        frame.derived.add(token.out)
        inside = {}
        for position, (parameter, flow) in enumerate(items):
            use = self._add(
                f"{name}.{parameter}",
                g.Kind.INSTANT,
                frame.base,
                [(parameter, token.out)],
                flow.type,
                function=functools.partial(_pick, position),
            )
            if flow in self.narrowed:
                self.narrowed.add(use.out)
            self.spare.add(use.out)
            frame.derived.add(use.out)
            inside[str(parameter)] = Flow(use.out, self)
        return inside

    def _leave(self, frame: Frame, returned: Any) -> Any:
        """What an inner pipeline returned, present only where it was invoked."""
        if isinstance(returned, Mapping):
            return {name: self._leave(frame, flow) for name, flow in returned.items()}
        if not isinstance(returned, Flow) or frame.token is None:
            return returned
        core = returned._core
        if core in frame.derived:
            return returned
        use = self._add(
            self._label(f"{core.name}.here"),
            g.Kind.INSTANT,
            core.level,
            [("value", core), ("token", frame.token)],
            core.type,
            function=_first,
        )
        return Flow(use.out, self)


def call(subject: Pipeline[Any, Any], arguments: dict[str, Any]) -> Any:
    """Call the pipeline's own function; some parameters may be positional only."""
    bound = inspect.BoundArguments(subject.signature, OrderedDict(arguments))
    return subject.function(*bound.args, **bound.kwargs)


async def _elements(items: Any) -> AsyncIterator[Any]:
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _first(value: Any, token: Any) -> Any:
    return value


def _pick(position: int, values: tuple[Any, ...]) -> Any:
    return values[position]


def _union(flows: Sequence[g.Flow]) -> Any:
    return Union[tuple(flow.type for flow in flows)]  # noqa: UP007 - of any number


def signature_text(signature: inspect.Signature) -> str:
    """The names of the parameters; `str(signature)` would show module paths."""
    names = []
    for parameter in signature.parameters.values():
        optional = "" if parameter.default is parameter.empty else "=..."
        names.append(f"{parameter.name}{optional}")
    return f"({', '.join(names)})"
