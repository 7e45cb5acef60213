"""What a user decorates: `@stage` and `@lm`.

A `Stage` is the function (or class) with its signature read once and its options checked. Called
while a pipeline is being recorded it adds itself to the graph; called anywhere else it is just
that function, so it can be unit-tested without ALTO.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    overload,
)

from .annotations import LISTS, Unresolved, hints_of, stream_element, strip, type_name
from .core.calls import mistake
from .core.default import Default
from .core.graph import BACKOFF_MAX_S, Rules
from .errors import DeadlineExceeded, GraphError

if TYPE_CHECKING:
    from .recorder import Recorder

P = ParamSpec("P")
R = TypeVar("R")

recording: ContextVar[Recorder | None] = ContextVar("alto_recording", default=None)

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)\s*")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(value: float | str | None, what: str, *, needed: bool = False) -> float | None:
    """A duration in seconds from a number or a text such as `"5ms"`, `"2s"`, `"1m"`."""
    if value is None and not needed:
        return None
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        return float(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool | str) or not isinstance(value, int | float) or not value >= 0:
        raise GraphError(
            f"{what} is {value!r}, expected a number of seconds, 0 or more, or a text like '5ms' "
            "or '2s'."
        )
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
        self.is_class = inspect.isclass(function)
        self.name: str = _name_of(function) if name is None else _text("stage: name", name)
        target = _target(self.name, function)
        self.target: Callable[..., Any] = target
        self.signature = _signature(function, target)
        self.hints = hints_of(target, frame_locals)
        # Kept only while a name is missing: the locals of a frame hold more than types.
        self._names = frame_locals if self._unsettled() else None
        if returns is not None:
            self.hints["return"] = returns
        self.is_async = inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target)
        self.is_generator = inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(
            target
        )
        self.instances = _whole(f"stage {self.name}: instances", instances, 1)
        self.batch = None if batch is None else _whole(f"stage {self.name}: batch", batch, 1)
        self.max_wait = seconds(max_wait, f"stage {self.name}: max_wait", needed=True) or 0.0
        self.max_concurrency = (
            None
            if max_concurrency is None
            else _whole(f"stage {self.name}: max_concurrency", max_concurrency, 1)
        )
        if self.max_concurrency is None and self.is_class and not self.is_async:
            self.max_concurrency = 1
        self.retry_on = _exceptions(self.name, retry_on)
        self.rules = _rules(self.name, retries, backoff, on_error, timeout, delivery, self.retry_on)
        self.options: dict[str, Any] = {}

    @property
    def retry_on_timeout(self) -> bool:
        """Whether `retry_on` covers an attempt that ran out of time."""
        return issubclass(DeadlineExceeded, self.retry_on)

    @property
    def returns(self) -> Any:
        """The return annotation as written; `inspect.Signature.empty` when there is none."""
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
        return self.function(*args, **kwargs)

    def settle(self, names: dict[str, Any] | None) -> None:
        """Look again for names that were not defined yet when the stage was."""
        if not self._unsettled():
            return
        again = hints_of(self.target, {**(self._names or {}), **(names or {})})
        for name, hint in self.hints.items():
            if isinstance(hint, Unresolved):
                self.hints[name] = again[name]
        if not self._unsettled():
            self._names = None

    def _unsettled(self) -> bool:
        return any(isinstance(hint, Unresolved) for hint in self.hints.values())

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"


class LM(Stage[P, R]):
    """A stage whose function returns the prompt of one LM call, or yields it in parts. Made by
    `@lm`."""

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
        prewarm: bool = False,
        returns: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(function, returns=returns, **options)
        self.told_returns = returns is not None
        """How the text is read was said by `returns=`, not by the annotation."""
        self.engines = names_of(engine)
        if not self.engines:
            raise GraphError(
                f"stage {self.name}: engine is {engine!r}, expected a name or a list of names."
            )
        if self.batch is not None:
            raise GraphError(
                f"stage {self.name}: batch={self.batch} on an @lm stage. LM servers batch calls "
                "themselves; leave it out."
            )
        if self.is_class:
            raise GraphError(
                f"stage {self.name}: @lm on a class, expected a function that returns the prompt, "
                "or yields the parts of it. Its return annotation says how the LM's text is read."
            )
        if not isinstance(prewarm, bool):
            raise GraphError(f"stage {self.name}: prewarm is {prewarm!r}, expected True or False.")
        if prewarm and self.is_async and not self.is_generator:
            raise GraphError(
                f"stage {self.name}: prewarm={prewarm!r} on an async function that returns its "
                "prompt: nothing of it is known before it is complete. Yield the parts of the "
                "prompt as they become known."
            )
        asked = {"max_tokens": max_tokens, "temperature": temperature, "stop": stop, "seed": seed}
        if wrong := mistake({**asked, "model": model, "extra": extra}):
            raise GraphError(f"stage {self.name}: {wrong}")
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.stop: tuple[str, ...] = (stop,) if isinstance(stop, str) else tuple(stop)
        self.seed = seed
        self.model = model
        self.extra: dict[str, Any] = dict(extra or {})
        self.prewarm = prewarm
        """Whether what is known of its prompt is sent ahead."""


def names_of(engine: Any) -> tuple[str, ...]:
    """The names in `engine="chat"` or `engine=["chat", "backup"]`; none if it is neither."""
    names = (engine,) if isinstance(engine, str) else engine
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) and n for n in names):
        return ()
    return tuple(names)


def batch_element(annotation: Any, default: Any = None) -> Any:
    """The `T` of the one `list[T]` layer that is the batch; `default` if there is none."""
    plain = strip(annotation)
    if plain is Any:
        return Any
    for part in get_args(plain) if get_origin(plain) in (Union, types.UnionType) else (plain,):
        origin, arguments = get_origin(part) or part, get_args(part)
        if origin in LISTS:
            return arguments[0] if arguments else Any
    return default


def _name_of(function: Any) -> str:
    function = function.func if isinstance(function, functools.partial) else function
    return getattr(function, "__name__", None) or type(function).__name__


def _target(name: str, function: Any) -> Callable[..., Any]:
    """What runs for an item: the function itself, or the `__call__` of a class or an object."""
    if inspect.isclass(function):
        if "__call__" not in dir(function):
            raise GraphError(f"stage {name}: a class needs a __call__ method to be a stage.")
        return function.__call__
    if not callable(function) or isinstance(function, Stage):
        raise GraphError(
            f"stage {name}: got {function!r}, expected a function, a generator or a class with "
            "__call__. Options go by name: @stage(retries=2)."
        )
    if inspect.isroutine(function) or isinstance(function, functools.partial):
        return function
    return function.__call__  # type: ignore[no-any-return]


def _signature(function: Any, target: Any) -> inspect.Signature:
    """The parameters that a pipeline gives: `self` of a class is not among them."""
    signature = inspect.signature(target if inspect.isclass(function) else function)
    if inspect.isclass(function):
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    return signature


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise GraphError(f"{what} is {value!r}, expected a text that is not empty.")
    return value


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
    retry_on: tuple[type[BaseException], ...],
) -> Rules:
    if not isinstance(on_error, Default) and on_error not in ("fail", "drop"):
        raise GraphError(
            f"stage {name}: on_error is {on_error!r}, expected 'fail', 'drop' or Default(value)."
        )
    if delivery not in ("provisional", "committed"):
        raise GraphError(
            f"stage {name}: delivery is {delivery!r}, expected 'provisional' or 'committed'."
        )
    pause = seconds(backoff, f"stage {name}: backoff", needed=True) or 0.0
    return Rules(
        retries=_whole(f"stage {name}: retries", retries, 0),
        backoff_s=pause,
        backoff_max_s=max(pause, BACKOFF_MAX_S),
        timeout=seconds(timeout, f"stage {name}: timeout"),
        on_error=on_error,
        committed=delivery == "committed",
        retry_timeout=issubclass(DeadlineExceeded, retry_on),
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
    frame_locals = caller_locals()
    if function is not None:
        return Stage(function, frame_locals=frame_locals)
    _known("stage", options, Stage)
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
    prewarm: bool = False,
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

    A generator yields the prompt in parts, strings or messages, as they become known (from a
    `Stream` argument, say); strings that follow one another are one user message.

    The function's return annotation (or `returns=`, for strict type checkers) says how the text is
    read: `str`, `Stream[str]`, `Stream[Sentence | Line | Paragraph]`, a struct, `Stream[Struct]`,
    or a choice (`Literal`, `Enum`, `bool`, `int`, `float`).

    Args:
        engine: a name in the configuration, or several: the next is used when one fails.
        max_tokens, temperature, stop, seed: sampling, as OpenAI's chat completions name them.
        model: another model than the engine's own.
        extra: further fields of the request's body.
        prewarm: let a replica read what is known of a prompt, where that holds up nobody. That is,
            before any call, the text before the first argument (the function is called with
            stand-ins for its arguments, so it must do nothing but write); and, of a generator, the
            parts that are known while others are missing; the call follows to that replica. It pays
            for long prompts.
        name, max_concurrency, retries, retry_on, backoff, on_error, timeout, delivery: as `stage`.
    """
    frame_locals = caller_locals()
    if function is not None:
        return LM(function, frame_locals=frame_locals)
    _known("lm", options, LM, Stage)
    return lambda inner: LM(inner, frame_locals=frame_locals, **options)


def _known(what: str, options: Mapping[str, Any], *kinds: type) -> None:
    known = {name for kind in kinds for name in inspect.signature(kind).parameters}
    known -= {"function", "frame_locals", "options"} | ({"returns"} if what == "stage" else set())
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, sorted(known), 1)
            hint = (
                f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(sorted(known))}."
            )
            of = f" {options['name']}" if "name" in options else ""
            raise GraphError(f"{what}{of}: there is no option {option!r}. {hint}")


def caller_locals() -> dict[str, Any] | None:
    """The names local to where a decorator stands: annotations may refer to them."""
    frame = sys._getframe(2)
    return None if frame.f_locals is frame.f_globals else dict(frame.f_locals)


def describe_type(annotation: Any) -> str:
    """A type for messages; says when a name could not be resolved."""
    if isinstance(annotation, Unresolved):
        return f"{annotation.text} (a name that is not defined here)"
    return type_name(annotation)
