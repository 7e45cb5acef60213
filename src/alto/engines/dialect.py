"""What one server was found to understand of a chat-completion request. No I/O.

Servers that speak the same API differ in what they take: guided decoding, `stream_options`, the
name of the length limit. A `Dialect` starts with the full form, gives up a part of it when the
server's refusal names that part, and remembers. A refusal that names nothing may be about a field
that nobody but ALTO has asked for: those that the server has not yet taken are left out in turn.

Always true:
    F1  a simpler form is remembered only after the server has answered to it
    F2  what the caller or the configuration asks for by name (`temperature`, `extra`, a named way
        of guided decoding) is never left out silently
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from ..core.calls import Call
from ..openai_api import WireError
from .token_ids import can_ask

REFUSED_SCHEMAS_MAX = 1000
"""How many refused schemas a dialect remembers before it stops sending schemas at all."""

REFUSALS = (400, 422, 500, 501)
"""Statuses with which servers refuse a field that they do not know or cannot serve."""

_OPEN_END = ("continue_final_message", "add_generation_prompt")

_NAMED = re.compile(
    r"(?i)response_format|schema|structured|guided|grammar|max_tokens|max_completion_tokens"
    r"|messages|temperature|tool|priority|context|token limit|too long"
)
"""A refusal in which any of these stands is about what the caller has asked for."""

_OF_CHATS = (
    *_OPEN_END,
    "chat_template_kwargs",
    "reasoning_effort",
    "response_format",
    "structured_outputs",
    "guided_json",
)
"""Extra fields that mean something to a chat only, or to an answer from its beginning."""

Guided = Literal["auto", "response_format", "structured_outputs", "guided_json", "off"]
GUIDED: tuple[Guided, ...] = ("auto", "response_format", "structured_outputs", "guided_json", "off")


Priority = Literal["vllm", "sglang"]
"""Whose word for priority a server understands: vLLM runs lower ones first, SGLang higher ones."""
PRIORITIES: tuple[Priority, ...] = ("vllm", "sglang")

AskedCall = TypeVar("AskedCall", bound=Call, contravariant=True)
AForm = TypeVar("AForm")


class Speech(Protocol[AskedCall, AForm]):
    """How one server is spoken to about one kind of call.

    The user of it posts `body(call, form)` to `target(form)` for `form = form_for(call)`. If the
    server refuses, `simpler` may give a form to try next; once an answer came, `learned` remembers
    it.
    """

    noun: str
    """What is asked, for messages."""
    headers: Mapping[str, str]
    """Sent with each such request."""

    def form_for(self, call: AskedCall) -> AForm: ...
    def target(self, form: AForm) -> str: ...
    def body(self, call: AskedCall, form: AForm) -> bytes: ...
    def simpler(self, call: AskedCall, form: AForm, status: int, message: str) -> AForm | None: ...
    def learned(self, call: AskedCall, form: AForm) -> None: ...


@dataclass(frozen=True, slots=True)
class Form:
    """How one request is written; each field can be given up when a server refuses it."""

    guided: Literal["sent", "not this schema", "never"] = "sent"
    usage_option: bool = True
    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    open_end: bool = True  # the fields that leave a last assistant message open
    token_ids: bool = False  # ask for the ids of tokens
    takes_ids: bool = True  # go on from ids, where they are known
    by_ids: bool = False  # this request is such a one


class Dialect:
    """What one server was found to understand of chat completions (see `Speech`). Every server
    starts with the full form. `url` is where they go."""

    noun = "a chat completion"
    headers: Mapping[str, str] = {}

    def __init__(
        self,
        model: str,
        *,
        url: str = "",
        completions_url: str = "",
        guided: Guided = "auto",
        extra: Mapping[str, Any] | None = None,
        token_ids: bool = False,
        priority: Priority | None = None,
    ) -> None:
        self.tells_ids = False
        """It was seen to give the ids of its tokens, so it will know them as a prompt."""
        self._url = url
        self._completions_url = completions_url
        self._model = model
        self._guided = guided
        self._priority = priority
        self._extra = extra or {}
        self._known = Form(guided="never" if guided == "off" else "sent", token_ids=token_ids)
        self._refused_schemas: set[bytes] = set()
        self._unproven = {"token_ids", "open_end", "usage_option"}
        """Fields of ours that the server has not been seen to take."""

    def target(self, form: Form) -> str:
        """Where requests go."""
        return self._completions_url if form.by_ids else self._url

    def asks_ids(self, call: Call) -> bool:
        """Whether its answer to this call may have the ids of tokens in it."""
        return (self._known.token_ids and can_ask(call)) or bool(call.prompt_ids)

    def form_for(self, call: Call) -> Form:
        """The fullest form that is not known to be refused."""
        if call.prompt_ids and self.tells_ids and self._known.takes_ids:
            return replace(self._known, by_ids=True)
        if (
            self._refused_schemas
            and call.schema is not None
            and _schema_key(call.schema) in self._refused_schemas
        ):
            return replace(self._known, guided="not this schema")
        return self._known

    def simpler(self, call: Call, form: Form, status: int, message: str) -> Form | None:
        """The form to try after a refusal, or None when the refusal is not about the form."""
        if form.by_ids and status in (*REFUSALS, 404, 405):
            return replace(form, by_ids=False, takes_ids=False)
        if status not in REFUSALS:
            return None
        if form.token_ids and "return_token_ids" in message:
            return replace(form, token_ids=False)
        if form.max_tokens == "max_tokens" and re.search(
            r"(?i)(unsupported|not supported|unrecognized).*max_completion_tokens"
            r"|max_completion_tokens\W*instead",
            message,
        ):
            return replace(form, max_tokens="max_completion_tokens")
        if form.open_end and _OPEN_END[0] in call.extra and re.search("|".join(_OPEN_END), message):
            return replace(form, open_end=False)
        if form.usage_option and re.search(r"stream_options|include_usage", message):
            return replace(form, usage_option=False)
        if form.guided == "sent" and self._guided == "auto" and call.schema is not None:
            # "json_schema" and "schema_name" are names of fields; any other "schema" means that
            # the server read the schema itself and did not like it.
            if re.search(r"(?i)(?<!json_)(?<!json )schema\b|grammar", message):
                return replace(form, guided="not this schema")
            if re.search(r"(?i)response_format|json_schema|structured|guided", message):
                return replace(form, guided="never")
        return (
            self._barer(call, form) if status in (400, 422) and not _NAMED.search(message) else None
        )

    def _barer(self, call: Call, form: Form) -> Form | None:
        """The form after a refusal that does not say what it is about: first without the ids, which
        fewest servers know; None if there is nothing that we added ourselves."""
        doubtful = self._unproven & _added(call, form)
        if "token_ids" in doubtful:
            return replace(form, token_ids=False)
        if doubtful:
            return replace(
                form,
                open_end=form.open_end and "open_end" not in doubtful,
                usage_option=form.usage_option and "usage_option" not in doubtful,
            )
        return None

    def learned(self, call: Call, form: Form) -> None:
        """The server answered to a request of this form."""
        if form.guided == "not this schema" and call.schema is not None:
            self._refused_schemas.add(_schema_key(call.schema))
            never = len(self._refused_schemas) > REFUSED_SCHEMAS_MAX
            form = replace(form, guided="never" if never else "sent")
        if self._unproven and not form.by_ids:
            self._unproven -= _added(call, form)
        self._known = replace(form, by_ids=False) if form.by_ids else form

    def body(self, call: Call, form: Form) -> bytes:
        """The request as JSON. Raises `WireError` for values that have no JSON form."""
        if form.by_ids:
            return json_body(self._completion(call, form))
        fields: dict[str, Any] = {
            "model": call.model or self._model,
            "messages": call.messages,
            "stream": True,
        }
        if form.token_ids and can_ask(call):
            fields["return_token_ids"] = True
        if form.usage_option:
            fields["stream_options"] = {"include_usage": True}
        if call.max_tokens is not None:
            fields[form.max_tokens] = call.max_tokens
        if call.temperature is not None:
            fields["temperature"] = call.temperature
        if call.stop:
            fields["stop"] = list(call.stop)
        if call.seed is not None:
            fields["seed"] = call.seed
        if call.tools:
            fields["tools"] = list(call.tools)
        self._add_priority(call, fields)
        if call.schema is not None and form.guided == "sent":
            fields.update(_schema_fields(self._guided, call.schema, call.schema_name))
        fields.update(self._extra)
        fields.update(call.extra)
        if not form.open_end:
            for name in _OPEN_END:
                fields.pop(name, None)
        return json_body(fields)

    def _add_priority(self, call: Call, fields: dict[str, Any]) -> None:
        if self._priority is not None:
            fields["priority"] = -call.priority if self._priority == "vllm" else call.priority

    def _completion(self, call: Call, form: Form) -> dict[str, Any]:
        """The fields of a plain completion of `call.prompt_ids`."""
        fields: dict[str, Any] = {
            "model": call.model or self._model,
            "prompt": list(call.prompt_ids),
            "stream": True,
            "return_token_ids": True,
            # Left out it would be 16.
            "max_tokens": msgspec.Raw(b"null") if call.max_tokens is None else call.max_tokens,
            "temperature": call.temperature,
            "seed": call.seed,
        }
        if form.usage_option:
            fields["stream_options"] = {"include_usage": True}
        self._add_priority(call, fields)
        more = {**self._extra, **call.extra}
        return {**fields, **{name: more[name] for name in more if name not in _OF_CHATS}}


def _added(call: Call, form: Form) -> set[str]:
    """The fields that ALTO has added itself to a request of this form."""
    added = {
        "token_ids": form.token_ids and can_ask(call),
        "open_end": form.open_end and _OPEN_END[0] in call.extra,
        "usage_option": form.usage_option,
    }
    return {name for name, there in added.items() if there}


def json_body(fields: Mapping[str, Any]) -> bytes:
    """A body without the fields that are None. Raises `WireError` for what has no JSON form."""
    try:
        return msgspec.json.encode({k: v for k, v in fields.items() if v is not None})
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(
            f"the messages, tools or extra fields cannot be written as JSON: {error}; give "
            "plain dicts, lists, strings and numbers",
            retryable=False,
        ) from error


def _schema_key(schema: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(schema, order="deterministic")


def _schema_fields(guided: Guided, schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    if guided == "structured_outputs":
        return {"structured_outputs": {"json": schema}}
    if guided == "guided_json":
        return {"guided_json": schema}
    named = {
        "name": re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "answer",
        "schema": schema,
        # Hosted models refuse `strict` for a schema that leaves anything open.
        "strict": is_strict(schema),
    }
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def is_strict(schema: object) -> bool:
    """Whether each object in a JSON schema lists all its properties and allows no others."""
    if isinstance(schema, Mapping):
        if schema.get("type") == "object" or "properties" in schema:
            properties = schema.get("properties", {})
            closed = schema.get("additionalProperties") is False
            if not closed or set(properties) != set(schema.get("required", ())):
                return False
        return all(map(is_strict, schema.values()))
    if isinstance(schema, list | tuple):
        return all(map(is_strict, schema))
    return True
