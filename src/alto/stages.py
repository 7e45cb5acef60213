"""What a user decorates: `@stage` and `@lm`.

A `Stage` is the function (or class) with its signature read once and its options checked. Called
while a pipeline is being recorded it adds itself to the graph; called anywhere else it is just
that function, so it can be unit-tested without ALTO.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from .annotations import LISTS, Unresolved, hints_of, stream_element, strip, type_name
from .core.graph import Default, Rules
from .errors import GraphError

if TYPE_CHECKING:
    from .pipeline import Recorder

P = ParamSpec("P")
R = TypeVar("R")

recording: ContextVar[Recorder | None] = ContextVar("alto_recording", default=None)

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)\s*")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(value: float | str | None, what: str) -> float | None:
    """A duration in seconds from a number or a text such as `"5ms"`, `"2s"`, `"1m"`."""
    if value is None:
        return None
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise GraphError(f"{what}: got {value!r}, expected seconds or a text like '5ms' or '2s'.")
        return float(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise GraphError(f"{what}: got {value!r}, expected a number of seconds, 0 or more.")
    return float(value)


class Stage(Generic[P, R]):
    """A step of a pipeline. Made by `@stage` or `@lm`, not directly.

    `function` is what was decorated, with its own type; `name` is the stage's name in errors,
    configuration and traces.
    """

    kind = "stage"

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        frame_locals: dict[str, Any] | None = None,
        returns: Any = None,
        instances: int = 1,
        max_concurrency: int | None = None,
        batch: int | None = None,
        max_wait: float | str = "5ms",
        retries: int = 0,
        retry_on: type[BaseException] | tuple[type[BaseException], ...] | None = None,
        backoff: float | str = 0.1,
        on_error: str | Default = "fail",
        timeout: float | str | None = None,
        delivery: str = "provisional",
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.name: str = name or getattr(function, "__name__", type(function).__name__)
        self.is_class = inspect.isclass(function)
        target = function.__call__ if self.is_class else function  # type: ignore[operator]
        self.target: Callable[..., Any] = target
        self.signature = _signature(function, target, self.is_class)
        self.hints = hints_of(target, frame_locals)
        if returns is not None:
            self.hints["return"] = returns
        self.is_async = inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target)
        self.is_generator = inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target)
        self.instances = _whole(f"stage {self.name}: instances", instances, 1)
        self.batch = None if batch is None else _whole(f"stage {self.name}: batch", batch, 1)
        self.max_wait = seconds(max_wait, f"stage {self.name}: max_wait") or 0.0
        self.max_concurrency = (
            None
            if max_concurrency is None
            else _whole(f"stage {self.name}: max_concurrency", max_concurrency, 1)
        )
        if self.max_concurrency is None and self.is_class and not self.is_async:
            self.max_concurrency = 1
        self.retry_on = _exceptions(self.name, retry_on)
        self.rules = _rules(self.name, retries, backoff, on_error, timeout, delivery)
        self.options: dict[str, Any] = {}

    @property
    def returns(self) -> Any:
        """The return annotation as written (`Unresolved`, or missing: `inspect.Signature.empty`)."""
        return self.hints.get("return", inspect.Signature.empty)

    @property
    def fans_out(self) -> bool:
        """Whether each invocation gives a `Stream`, that is, opens a level."""
        return self.batch is None and stream_element(self.returns) is not None

    @property
    def item_type(self) -> Any:
        """The type of one output item."""
        returns = self.returns
        if returns is inspect.Signature.empty:
            return Any
        if self.batch is not None:
            return batch_element(returns, Any)
        element = stream_element(returns)
        return returns if element is None else element

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recorder = recording.get()
        if recorder is not None:
            return recorder.use(self, args, kwargs)
        return self.function(*args, **kwargs)  # type: ignore[call-arg]

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"


class LM(Stage[P, R]):
    """A stage whose function returns the prompt of one LM call. Made by `@lm`."""

    kind = "lm"

    def __init__(
        self,
        function: Callable[P, R],
        *,
        engine: str | Sequence[str] = "default",
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        model: str | None = None,
        extra: Mapping[str, Any] | None = None,
        returns: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(function, returns=returns, **options)
        self.engines: tuple[str, ...] = (engine,) if isinstance(engine, str) else tuple(engine)
        if not self.engines or not all(isinstance(name, str) for name in self.engines):
            raise GraphError(
                f"stage {self.name}: engine is {engine!r}, expected a name or a list of names."
            )
        if self.batch is not None:
            raise GraphError(
                f"stage {self.name}: batch={self.batch} on an @lm stage. LM servers batch calls "
                "themselves; leave it out."
            )
        if self.is_class:
            raise GraphError(f"stage {self.name}: @lm on a class. Decorate a function.")
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.stop: tuple[str, ...] = (stop,) if isinstance(stop, str) else tuple(stop)
        self.seed = seed
        self.model = model
        self.extra: dict[str, Any] = dict(extra or {})


def batch_element(annotation: Any, default: Any = None) -> Any:
    """The `T` of the one `list[T]` layer that is the batch; `default` if there is none."""
    plain = strip(annotation)
    origin = getattr(plain, "__origin__", plain)
    if origin in LISTS:
        arguments = getattr(plain, "__args__", ())
        return arguments[0] if arguments else Any
    return default


def _signature(function: Any, target: Any, is_class: bool) -> inspect.Signature:
    if is_class and "__call__" not in dir(function):
        raise GraphError(f"stage {function.__name__}: a class needs a __call__ method to be a stage.")
    signature = inspect.signature(target)
    if is_class:
        parameters = list(signature.parameters.values())[1:]
        signature = signature.replace(parameters=parameters)
    return signature


def _whole(what: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise GraphError(f"{what} is {value!r}, expected a whole number, {least} or more.")
    return value


def _exceptions(name: str, given: Any) -> tuple[type[BaseException], ...]:
    if given is None:
        return (Exception,)
    kinds = given if isinstance(given, tuple) else (given,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise GraphError(
            f"stage {name}: retry_on is {given!r}, expected an exception class or a tuple of them."
        )
    return kinds


def _rules(
    name: str,
    retries: int,
    backoff: float | str,
    on_error: str | Default,
    timeout: float | str | None,
    delivery: str,
) -> Rules:
    if not isinstance(on_error, Default) and on_error not in ("fail", "drop"):
        raise GraphError(
            f"stage {name}: on_error is {on_error!r}, expected 'fail', 'drop' or Default(value)."
        )
    if delivery not in ("provisional", "committed"):
        raise GraphError(
            f"stage {name}: delivery is {delivery!r}, expected 'provisional' or 'committed'."
        )
    return Rules(
        retries=_whole(f"stage {name}: retries", retries, 0),
        backoff_s=seconds(backoff, f"stage {name}: backoff") or 0.0,
        timeout=seconds(timeout, f"stage {name}: timeout"),
        on_error=on_error,
        committed=delivery == "committed",
    )


@overload
def stage(function: Callable[P, R], /) -> Stage[P, R]: ...
@overload
def stage(
    *,
    name: str | None = None,
    instances: int = 1,
    max_concurrency: int | None = None,
    batch: int | None = None,
    max_wait: float | str = "5ms",
    retries: int = 0,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] | None = None,
    backoff: float | str = 0.1,
    on_error: str | Default = "fail",
    timeout: float | str | None = None,
    delivery: str = "provisional",
) -> Callable[[Callable[P, R]], Stage[P, R]]: ...
def stage(function: Any = None, /, **options: Any) -> Any:
    """Make a step of a pipeline from a function, async function, generator, async generator or a
    class with `__call__`.

    Args:
        name: the stage's name; the function's own by default.
        instances: how many copies of a class stage there are.
        max_concurrency: how many invocations run at once, over all requests, per instance. Blocking
            classes have 1 unless this says more; everything else has no limit.
        batch: the function takes and returns lists of up to this many items, over all requests.
        max_wait: how long an item waits for a batch to fill, seconds or "5ms".
        retries: further attempts after one that raises an exception of `retry_on`
            (any `Exception` by default), each after `backoff * 2**n` seconds, with jitter.
        on_error: after the last attempt: "fail" the request, "drop" the item, `Default(value)`.
        timeout: the time of one attempt, not counting the wait for a free place.
        delivery: "committed" holds outputs back until this attempt and all above it have closed.
    """
    frame_locals = _caller_locals()
    if function is not None:
        return Stage(function, frame_locals=frame_locals)
    return lambda inner: Stage(inner, frame_locals=frame_locals, **options)


@overload
def lm(function: Callable[P, R], /) -> LM[P, R]: ...
@overload
def lm(
    *,
    engine: str | Sequence[str] = "default",
    returns: Any = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    model: str | None = None,
    extra: Mapping[str, Any] | None = None,
    name: str | None = None,
    max_concurrency: int | None = None,
    retries: int = 0,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] | None = None,
    backoff: float | str = 0.1,
    on_error: str | Default = "fail",
    timeout: float | str | None = None,
    delivery: str = "provisional",
) -> Callable[[Callable[P, R]], LM[P, R]]: ...
def lm(function: Any = None, /, **options: Any) -> Any:
    """Make an LM stage from a function that returns the prompt: a string or chat messages.

    The function's return annotation (or `returns=`, for strict type checkers) says how the text is
    read: `str`, `Stream[str]`, `Stream[Sentence | Line | Paragraph]`, a struct, `Stream[Struct]`,
    or a choice (`Literal`, `Enum`, `bool`, `int`, `float`).

    Args:
        engine: a name in the configuration, or several: the next is used when one fails.
        max_tokens, temperature, stop, seed: sampling, as OpenAI's chat completions name them.
        model: another model than the engine's own.
        extra: further fields of the request's body.
        name, max_concurrency, retries, retry_on, backoff, on_error, timeout, delivery: as `stage`.
    """
    frame_locals = _caller_locals()
    if function is not None:
        return LM(function, frame_locals=frame_locals)
    return lambda inner: LM(inner, frame_locals=frame_locals, **options)


def _caller_locals() -> dict[str, Any] | None:
    """The names local to where a decorator stands: annotations may refer to them."""
    frame = sys._getframe(2)
    return None if frame.f_locals is frame.f_globals else dict(frame.f_locals)


def describe_type(annotation: Any) -> str:
    """A type for messages; says when a name could not be resolved."""
    if isinstance(annotation, Unresolved):
        return f"{annotation.text} (a name that is not defined here)"
    return type_name(annotation)
