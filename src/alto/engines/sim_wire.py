"""The OpenAI wire as a server speaks it: request bodies into calls, deltas into answers.

No I/O here. A body that cannot be served is a `BadRequest` with the status and the error object
that vLLM would answer with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.calls import Call, Delta, Usage
from .sim_choices import Piece
from .sim_ids import chat_of
from .tool_calls import whole_calls

Json = dict[str, Any]

_ANY_OBJECT: Json = {"type": "object", "properties": {"answer": {"type": "string"}}}
"""What `response_format={"type": "json_object"}` gets."""

CHOICES_MAX = 128
"""The most answers (`n`) in a request, as OpenAI has it."""

_PASSED_ON = ("continue_final_message", "ignore_eos")


class BadRequest(Exception):
    """A request that is answered with an error object."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param

    def body(self) -> Json:
        return error_body(str(self), self.status, self.param)


_KINDS = {400: "BadRequestError", 404: "NotFoundError", 429: "RateLimitError"}


def error_body(message: str, status: int, param: str | None = None) -> Json:
    """The error object of the OpenAI API, as vLLM fills it."""
    kind = _KINDS.get(status, "InternalServerError" if status >= 500 else "BadRequestError")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request body, read."""

    call: Call
    stream: bool
    include_usage: bool
    token_ids: bool = False
    """`return_token_ids`: tell the ids of the prompt and of the answer."""
    choices: int = 1
    """`n`: so many answers, side by side."""

    def calls(self) -> list[Call]:
        """A call for each of them. They draw different lots."""
        seed = self.call.seed or 0
        more = (replace(self.call, seed=seed + at) for at in range(1, self.choices))
        return [self.call, *more]


def read_chat(body: Any, model: str, request_id: str) -> Asked:
    """The body of `POST /v1/chat/completions`."""
    fields = _fields(body, model)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest(
            f"messages is {shown(messages)}, expected a list of at least one message",
            param="messages",
        )
    for at, message in enumerate(messages):
        _check_message(message, at)
    continues = bool(fields.get("continue_final_message"))
    if continues and fields.get("add_generation_prompt"):
        raise BadRequest(
            "continue_final_message and add_generation_prompt cannot both be true: leave the "
            "second out",
            param="add_generation_prompt",
        )
    if continues and messages[-1].get("role") != "assistant":
        raise BadRequest(
            f"continue_final_message needs an assistant message at the end, the last one is from "
            f"{messages[-1].get('role')!r}",
            param="messages",
        )
    return _asked(fields, messages, request_id, ("max_completion_tokens", "max_tokens"), {})


def read_completion(body: Any, model: str, request_id: str) -> Asked:
    """The body of `POST /v1/completions`."""
    fields = _fields(body, model)
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if fields.get("echo") or fields.get("suffix"):
        raise BadRequest("echo and suffix are not served: leave them out", param="echo")
    messages, extra = _prompt(prompt)
    asked = _asked(fields, messages, request_id, ("max_tokens",), extra)
    if "max_tokens" not in fields:
        asked.call.max_tokens = 16  # the default of this endpoint; null is no limit
    return asked


def _prompt(prompt: Any) -> tuple[list[Json], Json]:
    """The messages of a plain completion, and how they are to be read."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}], {"raw_prompt": True}
    wrong = "one string or one list of token ids: several prompts in a request are not served"
    if isinstance(prompt, list) and prompt and all(type(each) is int for each in prompt):
        try:
            messages, is_open = chat_of(prompt)
            return messages, {"continue_final_message": True} if is_open else {}
        except ValueError as error:
            wrong = f"token ids that this server gave for a chat ({error})"
    raise BadRequest(f"prompt is {shown(prompt)}, expected {wrong}", param="prompt")


def _asked(
    fields: Json, messages: list[Json], request_id: str, limits: Sequence[str], extra: Json
) -> Asked:
    stream = bool(fields.get("stream"))
    options = fields.get("stream_options")
    if options is not None and not stream:
        raise BadRequest("stream_options needs stream=true", param="stream_options")
    _number(fields, "temperature", 0, 2)
    _number(fields, "top_p", 0, 1)
    choices = integer(fields, "n", 1) or 1
    if choices > CHOICES_MAX:
        raise BadRequest(f"n is {choices}, expected at most {CHOICES_MAX}", param="n")
    call = Call(
        messages=messages,
        request=request_id,
        max_tokens=next((n for key in limits if (n := integer(fields, key, 1)) is not None), None),
        temperature=fields.get("temperature"),
        stop=_stop(fields.get("stop")),
        seed=integer(fields, "seed", None),
        priority=-(integer(fields, "priority", None) or 0),
        tools=_dicts(fields, "tools"),
        schema=_schema(fields),
        extra={**extra, **{key: True for key in _PASSED_ON if fields.get(key)}},
    )
    return Asked(
        call,
        stream,
        bool(isinstance(options, Mapping) and options.get("include_usage")),
        bool(fields.get("return_token_ids")),
        choices,
    )


def check_model(body: Any, model: str) -> Json:
    """A body as an object that asks for this server's model, or for none by name."""
    if not isinstance(body, dict):
        raise BadRequest(f"the body is {shown(body)}, expected a JSON object")
    asked = body.get("model")
    if asked is not None and asked != model:
        raise BadRequest(
            f"The model {asked!r} does not exist; this server has {model!r}.",
            status=404,
            param="model",
        )
    fields: Json = body
    return fields


def _fields(body: Any, model: str) -> Json:
    fields = check_model(body, model)
    if fields.get("logprobs"):
        raise BadRequest("logprobs are not served: leave them out", param="logprobs")
    return fields


def _check_message(message: Any, at: int) -> None:
    where = f"messages[{at}]"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadRequest(
            f"{where} is {shown(message)}, expected an object with role and content",
            param=where,
        )
    content = message.get("content")
    if not isinstance(content, str | list | None):
        raise BadRequest(
            f"{where}.content is {shown(content)}, expected a string or a list of parts",
            param=f"{where}.content",
        )


def integer(fields: Json, key: str, low: int | None) -> int | None:
    """A field that is a whole number, or missing."""
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low):
        bound = "" if low is None else f" of at least {low}"
        raise BadRequest(f"{key} is {shown(value)}, expected an integer{bound}", param=key)
    return value


def _number(fields: Json, key: str, low: float, high: float) -> None:
    value = fields.get(key)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadRequest(
            f"{key} is {shown(value)}, expected a number from {low} to {high}", param=key
        )


def _stop(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(each, str) for each in stops):
        raise BadRequest(f"stop is {shown(value)}, expected a string or strings", param="stop")
    return tuple(stops)


def _dicts(fields: Json, key: str) -> list[Json]:
    """A field that is a list of objects, or missing."""
    value = fields.get(key) or []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise BadRequest(f"{key} is {shown(value)}, expected a list of objects", param=key)
    return value


def _schema(fields: Json) -> Mapping[str, Any] | None:
    """What guided decoding is asked for, in the forms that clients send it."""
    wanted = fields.get("response_format") or {}
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_schema":
        named = wanted.get("json_schema")
        schema = named.get("schema") if isinstance(named, dict) else None
        return _must_be_schema(schema, "response_format.json_schema.schema")
    if kind == "json_object":
        return _ANY_OBJECT
    if kind not in (None, "text"):
        raise BadRequest(
            f"response_format.type is {shown(kind)}, expected text, json_object or json_schema",
            param="response_format",
        )
    outputs = fields.get("structured_outputs")
    if isinstance(outputs, dict):
        fields = {f"guided_{key}": value for key, value in outputs.items()}
    if fields.get("guided_json") is not None:
        return _must_be_schema(fields["guided_json"], "guided_json")
    choices = fields.get("guided_choice")
    if not isinstance(choices, list | None):
        raise BadRequest(
            f"guided_choice is {shown(choices)}, expected a list of texts", param="guided_choice"
        )
    return {"enum": choices} if choices else None


def _must_be_schema(schema: Any, param: str) -> Mapping[str, Any]:
    if not isinstance(schema, dict):
        raise BadRequest(f"{param} is {shown(schema)}, expected a JSON schema", param=param)
    return schema


def shown(value: Any) -> str:
    """A value in a message."""
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ---------------------------------------------------------------------- answers


@dataclass(frozen=True, slots=True)
class Shape:
    """What differs between the two endpoints."""

    prefix: str
    whole: str
    chunk: str
    choice: Callable[[str, str], Json]
    """The part of a whole answer's choice that holds text and reasoning."""
    piece: Callable[[str, str], Json]
    """The same of a chunk's choice."""
    opening: Json | None
    """The part of the first chunk's choice, sent before any text."""


def _message(text: str, reasoning: str) -> Json:
    message: Json = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning_content"] = reasoning
    return {"message": message}


def _piece(text: str, reasoning: str) -> Json:
    delta: Json = {}
    if text or not reasoning:
        delta["content"] = text
    if reasoning:
        delta["reasoning_content"] = reasoning
    return {"delta": delta}


CHAT = Shape(
    prefix="chatcmpl-",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    choice=_message,
    piece=_piece,
    opening={"delta": {"role": "assistant", "content": ""}},
)
TEXT = Shape(
    prefix="cmpl-",
    whole="text_completion",
    chunk="text_completion",
    choice=lambda text, reasoning: {"text": text},
    piece=lambda text, reasoning: {"text": text},
    opening=None,
)


class Answering:
    """The JSON of one answer, whole or in chunks."""

    def __init__(self, shape: Shape, request_id: str, model: str, created: int) -> None:
        self._shape = shape
        self._tell: Callable[[str], list[int]] | None = None
        self._prompt_ids: list[int] | None = None
        self._head: Json = {"id": shape.prefix + request_id, "created": created, "model": model}

    def tell_ids(self, prompt: list[int] | None, tell: Callable[[str], list[int]]) -> None:
        """Put token ids into the answer: those of the prompt into what comes first, and those of
        each piece of text (as `tell` gives them) beside it."""
        self._prompt_ids, self._tell = prompt, tell

    def opening(self, index: int = 0) -> Json | None:
        """The chunk before the first text of an answer, where there is one."""
        part = self._shape.opening
        return None if part is None else self._chunk(part, None, index)

    def chunk(self, delta: Delta, index: int = 0) -> Json:
        """One chunk of a stream, of the answer at this place."""
        part = self._shape.piece(delta.text, delta.reasoning)
        if delta.tool_calls and self._shape is CHAT:
            part["delta"]["tool_calls"] = list(delta.tool_calls)
        if self._tell is not None:
            part["token_ids"] = self._tell(delta.reasoning) + self._tell(delta.text)
        return self._chunk(part, delta.finish_reason, index)

    def _chunk(self, part: Json, finish_reason: str | None, index: int) -> Json:
        choice = {"index": index, **part, "logprobs": None, "finish_reason": finish_reason}
        chunk: Json = {**self._head, "object": self._shape.chunk, "choices": [choice]}
        if self._prompt_ids is not None:
            self._put_prompt_ids(chunk)
            self._prompt_ids = None
        return chunk

    def _put_prompt_ids(self, body: Json) -> None:
        """Where vLLM has them: a chat's at the top, those of a plain completion in the choice."""
        place = body if self._shape is CHAT else body["choices"][0]
        place["prompt_token_ids"] = self._prompt_ids

    def usage_chunk(self, usage: Usage) -> Json:
        """The chunk after the last one that `stream_options.include_usage` asks for."""
        return {
            **self._head,
            "object": self._shape.chunk,
            "choices": [],
            "usage": usage_body(usage),
        }

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """The answers in one piece."""
        answers: dict[int, list[Delta]] = {}
        for index, delta in pieces:
            answers.setdefault(index, []).append(delta)
        choices = [self._choice(index, answers[index]) for index in sorted(answers)]
        body: Json = {**self._head, "object": self._shape.whole, "choices": choices}
        if self._tell is not None:
            self._put_prompt_ids(body)
        usage = usage_of_all(delta for _, delta in pieces)
        if usage is not None:
            body["usage"] = usage_body(usage)
        return body

    def _choice(self, index: int, deltas: Sequence[Delta]) -> Json:
        text = "".join(deltas)
        reasoning = "".join(delta.reasoning for delta in deltas)
        choice = {
            "index": index,
            **self._shape.choice(text, reasoning),
            "logprobs": None,
            "finish_reason": deltas[-1].finish_reason,
        }
        calls = whole_calls(deltas)
        if calls and self._shape is CHAT:
            choice["message"]["tool_calls"] = calls
        if self._tell is not None:
            choice["token_ids"] = self._tell(reasoning) + self._tell(text)
        return choice


def usage_of_all(deltas: Iterable[Delta]) -> Usage | None:
    """What all answers to one request have cost: the prompt is read once for all of them."""
    told = [delta.usage for delta in deltas if delta.usage is not None]
    if not told:
        return None
    total = sum(told[1:], told[0])
    return replace(
        total,
        prompt_tokens=told[0].prompt_tokens,
        cached_tokens=min(usage.cached_tokens for usage in told),
    )


def usage_body(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
