"""One call of a language model, as every part of ALTO sees it: plain values, no I/O.

A `Call` says what is asked and who asks. An engine answers it with `Delta`s, pieces of text in
the order in which they are written; the last one carries why the text ended and what it cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Any

from .prefix import Prompt

Message = dict[str, Any]
"""One chat message in the OpenAI form: `role` and `content` (a string or a list of parts)."""


@dataclass(slots=True)
class Usage:
    """Tokens spent. Sums with `+`; `cached_tokens` is the part of `prompt_tokens` that the engine
    read from its prefix cache, `reasoning_tokens` the part of `completion_tokens` not shown.

    `prewarm_tokens` were read ahead of calls (`@lm(prewarm=True)`) and are in none of the other
    counts: the calls find them as `cached_tokens`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    calls: int = 0
    prewarm_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.calls + other.calls,
            self.prewarm_tokens + other.prewarm_tokens,
        )


_new_text = str.__new__


class Delta(str):
    """A piece of LM text: the text itself is the string, so `"".join(deltas)` is the answer.

    `reasoning` is thinking text that came with it, kept apart from the answer; `tool_calls` are
    OpenAI tool-call fragments as they came; `finish_reason` ("stop", "length", "tool_calls", ...)
    and `usage` stand on the last delta only. A delta does not change once it is made.
    """

    # Most deltas are text and nothing else: what they lack stands here, once for all of them. One
    # look at the class tells them from those that carry more.
    __slots__ = ()
    reasoning: str = ""
    tool_calls: Sequence[Mapping[str, Any]] = ()
    finish_reason: str | None = None
    usage: Usage | None = None

    def __new__(
        cls,
        text: str = "",
        reasoning: str = "",
        tool_calls: Sequence[Mapping[str, Any]] = (),
        finish_reason: str | None = None,
        usage: Usage | None = None,
    ) -> Delta:
        if not (reasoning or tool_calls) and finish_reason is None and usage is None:
            return _new_text(cls, text)
        self = _new_text(_Told if cls is Delta else cls, text)
        self.reasoning = reasoning
        self.tool_calls = tool_calls
        self.finish_reason = finish_reason
        self.usage = usage
        return self

    @property
    def text(self) -> str:
        """The piece of text as a plain string."""
        return str.__str__(self)


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A prompt and the text after it, in the tokens of the server that read and wrote them."""

    prompt: Sequence[int]
    answer: Sequence[int]


class _Told(Delta):
    """A delta that carries more than text."""


def is_message(given: Any) -> bool:
    """Whether this is a chat message: a dict with a role, and content if it has any."""
    return (
        isinstance(given, dict)
        and isinstance(given.get("role"), str)
        and isinstance(given.get("content", ""), str | list | None)
    )


def mistake(options: Mapping[str, Any]) -> str | None:
    """What is wrong with the options of a call as a user wrote them, in words; None if nothing."""
    for name, value in options.items():
        if value is None or name not in _OPTIONS:
            continue
        fits, expected = _OPTIONS[name]
        if not fits(value):
            return f"{name} is {value!r}, expected {expected}."
    for fields, place in ((options, ""), (options.get("extra") or {}, "extra: ")):
        for name in _WRITTEN_BY_ALTO:
            if name in fields:
                return (
                    f"{place}{name} is {str(fields[name])[:80]}; ALTO writes this field of the "
                    "request's body itself. Leave it out."
                )
    return None


_WRITTEN_BY_ALTO = ("messages", "stream")


def fields_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request's body among options that have no name of their own here: those given
    as `extra=`, and all others."""
    fields = dict(options)
    return fields | dict(fields.pop("extra", None) or {})


def _is_number(value: Any, kinds: type | UnionType = int | float) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (lambda n: _is_number(n, int) and n >= 1, "a whole number, 1 or more"),
    "temperature": (lambda heat: _is_number(heat) and heat >= 0, "a number, 0 or more"),
    "seed": (lambda n: _is_number(n, int), "a whole number"),
    "stop": (
        lambda stop: (
            _is_text(stop) or (isinstance(stop, list | tuple) and all(map(_is_text, stop)))
        ),
        "a text, or a list of texts",
    ),
    "model": (_is_text, "a model's name"),
    "tools": (
        lambda tools: (
            isinstance(tools, list | tuple) and all(isinstance(t, Mapping) for t in tools)
        ),
        "a list of tools, each a dict as OpenAI has them",
    ),
    "extra": (lambda extra: isinstance(extra, Mapping), "a dict of fields of the request's body"),
}


@dataclass(slots=True, kw_only=True)
class Call:
    """One call of an engine.

    `messages` is the prompt. `stage`, `arguments`, `path`, `request` and `attempt` say who asks
    (`arguments` are the bound arguments of the `@lm` function; empty for a free call). `schema` is
    the JSON schema that the text should follow, `returns` the Python annotation behind it.
    `deadline` is in the clock of the running loop, seconds; `rest_s` is the time expected from this
    call to the end of its request (None: unknown). Higher `priority` goes first. One that `leads`
    is on the way to the first thing that its request shows. `boundaries`,
    given the whole text of an answer, names the characters after which the reader has something to
    do; an engine that knows its answer beforehand may then be silent in between (None: every token
    counts). It says nothing about the answer and is sent to nobody. `prompt_ids` is the same prompt
    in tokens, where they are known: a server that takes them goes on from there exactly. `ahead` is
    what the engine gave (`Pool.ahead`) while the prompt was growing. A `prewarm` is for nothing but
    the reading of its prompt.
    `answered_by` is filled in by an engine of several replicas: the name of the one that wrote the
    end of the answer. If that cannot be read, ask again with its name in `avoid`: then another
    answers if there is one, and a replica that nobody can read loses its calls.
    `queued` is told 1 when the call begins to wait for a replica that has room, and -1 when it does
    so no more.
    `untold` is filled in when the call is over: what it has cost, by estimate, beyond what its
    deltas have told, as where its reader left in mid-text. None: nothing.
    """

    messages: list[Message]
    stage: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    path: tuple[int, ...] = ()
    request: str = ""
    attempt: int = 1
    max_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    schema: Mapping[str, Any] | None = None
    schema_name: str = ""
    returns: Any = str
    extra: Mapping[str, Any] = field(default_factory=dict)
    deadline: float | None = None
    model: str | None = None
    rest_s: float | None = None
    priority: int = 0
    leads: bool = False
    boundaries: Callable[[str], Sequence[int]] | None = None
    prompt_ids: Sequence[int] = ()
    ahead: object | None = None
    answered_by: str = ""
    avoid: str = ""
    prewarm: bool = False
    queued: Callable[[int], None] | None = None
    untold: Usage | None = None


@dataclass(slots=True, kw_only=True)
class Measured(Call):
    """A call that knows the length of its prompt, because that is no chat or still grows."""

    prompt: Prompt = field(default_factory=Prompt)


_new_call = object.__new__


def asked(
    template: Call,
    messages: list[Message],
    arguments: Mapping[str, Any],
    path: tuple[int, ...],
    request: str,
    attempt: int,
    deadline: float | None,
) -> Call:
    """The same call for another item: all that a stage's calls have in common is copied. That takes
    a tenth of the time of making one by its twenty names."""
    call = _new_call(Call)
    call.messages = messages
    call.stage = template.stage
    call.arguments = arguments
    call.path = path
    call.request = request
    call.attempt = attempt
    call.max_tokens = template.max_tokens
    call.temperature = template.temperature
    call.stop = template.stop
    call.seed = template.seed
    call.tools = template.tools
    call.schema = template.schema
    call.schema_name = template.schema_name
    call.returns = template.returns
    call.extra = template.extra
    call.deadline = deadline
    call.model = template.model
    call.rest_s = template.rest_s
    call.priority = template.priority
    call.leads = template.leads
    call.boundaries = template.boundaries
    call.ahead = template.ahead
    call.answered_by = template.answered_by
    call.avoid = template.avoid
    call.prewarm = template.prewarm
    call.prompt_ids = template.prompt_ids
    call.queued = template.queued
    call.untold = template.untold
    return call
