"""One call of a stage while a pipeline is recorded: what each argument means, and whether it fits.

A flow whose type is assignable to its parameter is an *item*; one that is assignable to the
element type of a `Stream`, `AsCompleted` or `list` is *gathered*; whatever is no flow is a
*constant*. Everything else is a problem, told with the pipeline, the stage, the parameter, what
was given, what was expected and a way to mend it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_origin

from .annotations import (
    AsCompleted,
    Shape,
    Stream,
    Unresolved,
    assignable,
    constant_fits,
    narrowable,
    shape_of,
    stream_element,
    strip,
    type_name,
)
from .core import graph as g
from .core.default import Default
from .errors import GraphError
from .placeholder import Flow
from .stages import LM, Stage, batch_element, describe_type
from .structs import reader_for

if TYPE_CHECKING:
    from .recorder import Recorder

Items = list[tuple[str | None, g.Flow]]


class Wiring:
    """The arguments of one use of `stage`, sorted. `where` begins every message."""

    def __init__(self, recorder: Recorder, stage: Stage[Any, Any], label: str) -> None:
        self.recorder = recorder
        self.stage = stage
        self.where = f"pipeline {recorder.name}, stage {label}"
        self.items: Items = []
        self.gathers: list[g.Gather] = []
        self.constants: dict[str, Any] = {}

    def problem(self, message: str) -> None:
        self.recorder.problem(self.where + message)

    def argument(self, name: str, value: Any) -> None:
        if not isinstance(value, Flow):
            self._constant(name, value)
            return
        flow = value._core
        if value._recorder is not self.recorder:
            self.problem(
                f", parameter {name}: the flow {flow.name!r} belongs to another pipeline. Give it "
                "to this one as an argument."
            )
            return
        annotation = self.stage.hints.get(name)
        if name not in self.stage.hints:
            given = type_name(flow.type)
            self.problem(
                f", parameter {name} has no annotation, so it is unknown whether it takes one item "
                f"or all. It is given {given} from {flow.name}: annotate it with {given} for one "
                f"item, or with Stream[{given}] for all."
            )
        elif isinstance(annotation, Unresolved):
            self.problem(f", parameter {name}: {_undefined(annotation)}")
        else:
            self._sort(name, flow, annotation)
            return
        self.items.append((name, flow))

    def _sort(self, name: str, flow: g.Flow, annotation: Any) -> None:
        """Item or gather? Under `batch=` one `list` layer is the batch."""
        batch = self.stage.batch is not None
        shape = shape_of(batch_element(annotation) if batch else annotation)
        batched = not batch or batch_element(annotation) is not None
        if (
            batched
            and shape.mode in (None, g.Mode.LIST)
            and fits(self.recorder, flow, shape.annotation)
        ):
            self.items.append((name, flow))
            return
        gathers = shape.mode is g.Mode.LIST if batch else shape.mode is not None
        if batched and gathers and fits(self.recorder, flow, shape.element):
            assert shape.mode is not None
            self.gathers.append(g.Gather(name, flow, shape.mode))
            return
        if batch:
            self._batch_mismatch(name, flow, annotation)
        else:
            self._mismatch(name, flow, shape)
        self.items.append((name, flow))

    def _constant(self, name: str, value: Any) -> None:
        parameter = self.stage.signature.parameters[name]
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if _holds_flow(value) and not named:
            self.problem(
                f", parameter {name}: *args and **kwargs cannot take flows. Name each parameter."
            )
            return
        if _holds_flow(value):
            self.problem(
                f", parameter {name}: got {type(value).__name__} with flows inside, expected a "
                "flow or a constant. Give each flow its own parameter, or join them with "
                "alto.merge."
            )
            return
        annotation = self.stage.hints.get(name, Any)
        if named and not constant_fits(value, annotation):
            hint = f"Give it {describe_type(annotation)}, or let {self.stage.name} take "
            hint += type_name(type(value))
            if stream_element(annotation) is not None:
                hint = f"Give it a flow, or {_literal_stream(value)}"
            self.problem(
                f", parameter {name}: got the constant {shown(value)}, expected "
                f"{describe_type(annotation)}. {hint}."
            )
        self.constants[name] = value

    def _batch_mismatch(self, name: str, flow: g.Flow, annotation: Any) -> None:
        given = type_name(flow.type)
        self.problem(
            f", parameter {name}: got {given} from {flow.name}, expected "
            f"{describe_type(annotation)}. With batch={self.stage.batch} the parameter is a list "
            f"of items: annotate it list[{given}]."
        )

    def _mismatch(self, name: str, flow: g.Flow, shape: Shape) -> None:
        given, wanted = type_name(flow.type), describe_type(shape.annotation)
        hint = f"Let {self.stage.name} take {given}"
        element = shape_of(flow.type).element
        if flow.origin is None:
            hint += f", or let the pipeline's parameter {flow.name} be {wanted}"
        elif element is not None and assignable(element, shape.annotation):
            hint += f", or let {flow.name} return Stream[{wanted}] so that {self.stage.name} runs "
            hint += "once for each"
        else:
            hint += f", or let {flow.name} return {wanted}"
        self.problem(
            f", parameter {name}: got {given} from {flow.name}, expected {wanted}.\n{hint}."
        )

    def check_returns(self) -> None:
        stage, returns = self.stage, self.stage.returns
        if returns is inspect.Signature.empty:
            self.problem(
                " has no return annotation. Say what one invocation gives: T for one item, "
                "Stream[T] for a fan-out."
            )
            return
        if isinstance(returns, Unresolved):
            self.problem(f", what it returns: {_undefined(returns)}")
            return
        text = describe_type(returns)
        element = stream_element(returns)
        plain = strip(returns)
        if AsCompleted in (plain, getattr(plain, "__origin__", None)):
            self.problem(
                f" returns {text}. A fan-out is Stream[{type_name(element)}]; AsCompleted is for "
                "parameters."
            )
        if element is not None and stream_element(element) is not None:
            self.problem(
                f" returns {text}. One stage opens one level: return "
                f"Stream[{type_name(stream_element(element))}], or open the second level in "
                "another stage."
            )
        if stage.is_generator and element is None and not isinstance(stage, LM):
            self.problem(
                f" is a generator but returns {text}. Annotate it Stream[{text}], or return one "
                "value."
            )
        if isinstance(stage, LM):
            self._check_readable()
            if stage.is_generator and not stage.told_returns:
                self._check_parts(text, plain)
        if stage.batch is not None and (element is not None or batch_element(returns) is None):
            self.problem(
                f" has batch={stage.batch} but returns {text}. A batch stage returns a list with "
                "one output for each input."
            )
        self._check_default(element is not None)

    def _check_readable(self) -> None:
        """Whether LM text can become what the annotation says."""
        try:
            reader_for(self.stage.item_type, self.stage.fans_out)
        except GraphError as error:
            self.problem(f": {error}")

    def _check_parts(self, text: str, plain: Any) -> None:
        """A generator's annotation is easily taken for that of the parts that it yields."""
        if (get_origin(plain) or plain) is not Stream and stream_element(plain) is not None:
            part = type_name(stream_element(plain))
            self.recorder.warnings.append(
                f"{self.where}: its return annotation {text} says how the LM's text is read, as "
                f"Stream[{part}], not what its generator yields. Write Stream[{part}] if that is "
                "meant, else @lm(returns=...)."
            )

    def _check_default(self, fans_out: bool) -> None:
        default = self.stage.rules.on_error
        if not isinstance(default, Default):
            return
        value, item = default.value, self.stage.item_type
        if fans_out and not isinstance(value, list | tuple):
            self.problem(
                f": on_error=Default({shown(value)}) stands in for a Stream, expected a list of "
                f"items. Write Default([{shown(value)}])."
            )
        elif not all(constant_fits(one, item) for one in (value if fans_out else [value])):
            self.problem(
                f": on_error=Default({shown(value)}) stands in for an output, expected "
                f"{describe_type(item)}. Give a value of that type, or let {self.stage.name} "
                f"return {describe_type(item)} | {type_name(type(value))}."
            )

    def level(self) -> g.Level:
        return level_of(self.recorder, self.where, self.stage.name, self.items, self.gathers)


def level_of(
    recorder: Recorder, where: str, subject: str, items: Items, gathers: list[g.Gather]
) -> g.Level:
    """Where `subject` runs: the level of its deepest item argument."""
    level, origin = recorder.frames[-1].base, "the request"
    for name, flow in items:
        if flow.level.is_under(level):
            level, origin = flow.level, f"{name} (from {flow.name})"
        elif not level.is_under(flow.level):
            recorder.problem(
                f"{where}: its arguments {origin} and {name} (from {flow.name}) share no ancestor "
                f"but {level_name(common(level, flow.level))}: neither lies below the other, so "
                f"{subject} cannot tell which belong together. Gather one of them (Stream[T] or "
                "list[T]), or derive one from the other."
            )
    for gather in gathers:
        flow = gather.flow
        if not flow.level.is_under(level):
            recorder.problem(
                f"{where}, parameter {gather.parameter}: it gathers {flow.name}, which does not "
                f"lie below {origin}, the item that {subject} runs for. Take {flow.name} as an "
                f"item, or gather something derived from {origin}."
            )
        elif flow.level is level and any(item is flow for _, item in items):
            recorder.warnings.append(
                f"{where}, parameter {gather.parameter}: gathers {flow.name} at the item it also "
                "takes, so it gets one item or none. Gather it at the parent."
            )
    return level


def fits(recorder: Recorder, flow: g.Flow, annotation: Any) -> bool:
    """Whether the flow's items may be given there. A `where` may have picked out a part of what
    its type says, so after one it is enough that some items fit."""
    if flow in recorder.narrowed:
        return narrowable(flow.type, annotation)
    return assignable(flow.type, annotation)


def common(a: g.Level, b: g.Level) -> g.Level:
    """The nearest level above both, or one of them."""
    chain = b.chain()
    return next(level for level in reversed(a.chain()) if level in chain)


def level_name(level: g.Level) -> str:
    return "the request" if level.opener is None else f"each item of {level.opener.name}"


def shown(value: Any) -> str:
    """A value in a message."""
    if value is None:
        return "nothing (None)"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _undefined(annotation: Unresolved) -> str:
    return (
        f"the annotation {annotation.text!r} uses a name that is not defined here. Define or "
        "import it before the pipeline is recorded (an import under TYPE_CHECKING is not enough)."
    )


def _literal_stream(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"Stream.of({', '.join(map(repr, value))})"
    return f"Stream.of({value!r})"


def _holds_flow(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(isinstance(inner, Flow) for inner in value.values())
    if isinstance(value, list | tuple | set):
        return any(isinstance(inner, Flow) for inner in value)
    return False
