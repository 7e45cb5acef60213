"""What an OpenAI-compatible server answers, without any I/O: bytes in, `Delta`s out.

`EventReader` cuts bytes into server-sent events. `AnswerReader` turns a whole answer (a stream of
events, or one JSON document from a server that ignored `stream`) into deltas. The functions below
them read usage and errors in the spellings that servers use.

Always true:
    W1  the deltas do not depend on how the network cut the bytes
    W2  text that came before a fault is given before the fault is told (`AnswerReader.fault`)
    W3  an answer is complete when a finish reason, or `[DONE]` after some of it, was read, never
        because bytes ended
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from .core.calls import Delta, Usage
from .core.pool_events import Allowed

EVENT_BYTES_MAX = 8 << 20
"""The longest event or JSON document that is kept in memory while its end is awaited."""

ANSWER_CHARS_MAX = 16 << 20
"""The longest answer: its text in characters, and the bytes of thinking and tool calls. A server
that writes more has lost its way."""

MESSAGE_CHARS_MAX = 400
"""What is quoted of a server's own error message."""


class WireError(Exception):
    """What the server sent is not an answer. `.status` is its own code where it named one."""

    def __init__(self, message: str, *, status: int | None = None, retryable: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable


# -------------------------------------------------------------------------- server-sent events


class EventReader:
    """Cuts bytes into server-sent events, as the HTML standard has them.

    Lines end in LF, CR or CRLF; comments and unknown fields are skipped; several `data` lines are
    joined by a newline. An event is given as `(name, data)` the moment its blank line is read.
    A line is searched for its end once, however many pieces it comes in.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the line whose end has not come
        self._data: list[bytes] = []  # of the event whose blank line has not come
        self._name = ""
        self._held = 0  # bytes read since the last event, about those in _pieces and _data
        self._after_cr = False  # the last byte was CR, taken as an end of line

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """The events that these bytes complete. Raises `WireError` past `EVENT_BYTES_MAX`."""
        if (
            not (self._held or self._after_cr)
            and data.startswith(b"data: ")
            and data.find(b"\n") == len(data) - 2
            and data.endswith(b"\n\n")
            and b"\r" not in data
        ):
            # What nearly every read is: one event of one line. All below agrees, and is slower.
            return [("", data[6:-2])]
        if self._after_cr and data:
            self._after_cr = False
            if data.startswith(b"\n"):
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._held += len(data)
        if b"\n" not in data:
            self._pieces.append(data)
            return self._within_limit([])
        if self._pieces:
            self._pieces.append(data)
            data = b"".join(self._pieces)
            self._pieces.clear()
        events: list[tuple[str, bytes]] = []
        *lines, rest = data.split(b"\n")
        for line in lines:
            if line:
                self._line(line)
            elif self._data:
                found = self._data
                events.append((self._name, found[0] if len(found) == 1 else b"\n".join(found)))
                self._data = []
                self._name = ""
            else:
                self._name = ""
        if rest:
            self._pieces.append(rest)
        if not (self._data or self._name):
            self._held = len(rest)
        return self._within_limit(events)

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line.startswith(b"event:"):
            self._name = line[6:].strip().decode("utf-8", "replace")

    def _within_limit(self, events: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        if self._held > EVENT_BYTES_MAX:
            raise WireError(f"an event of more than {EVENT_BYTES_MAX} bytes")
        return events


class NotJson(WireError):
    """An event that is not JSON: garbage, or a chunk that was cut in two."""


# ------------------------------------------------------------------------------------- answers


class Piece(msgspec.Struct, gc=False):
    """The `delta` of a chunk, or the `message` of a whole answer."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[dict[str, Any]] | None = None
    refusal: Any = None


class Choice(msgspec.Struct, gc=False):
    """One of the answers; only the one at index 0 is read."""

    delta: Piece | None = None
    message: Piece | None = None
    index: int | None = 0
    finish_reason: str | None = None


class Chunk(msgspec.Struct, gc=False):
    """A chunk of a streamed answer, or a whole answer: the same fields but for `message`."""

    choices: list[Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Chunk).decode


class AnswerReader:
    """Reads one answer, fed in any pieces.

    `feed` gives the deltas that are complete. Afterwards look at `fault` (what the server sent is
    no answer; nothing more will come) and at `ended` (`last()` is the closing delta). At the end
    of the bytes call `close` once, then look again.
    """

    def __init__(self) -> None:
        self.ended = False
        self.fault: WireError | None = None
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.chars = 0
        self._events = EventReader()
        self._document: list[bytes] | None = None  # pieces of a JSON document
        self._document_bytes = 0
        self._sniffed = False
        self._head = b""
        self._aside = 0  # bytes of chunks with thinking or tool calls
        self._lenient = False  # a chunk was read by the standard library
        self._half = ""  # the first half of a surrogate pair

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas that these bytes complete, one for each chunk that carries anything."""
        deltas: list[Delta] = []
        try:
            if not self._sniffed:
                data = self._sniff(data)
            if self._document is not None:
                self._collect(data)
            elif data:
                for name, event in self._events.feed(data):
                    if self.ended:
                        break
                    self._event(name, event, deltas)
                if self.chars + self._aside > ANSWER_CHARS_MAX:
                    raise WireError(
                        f"an answer of more than {ANSWER_CHARS_MAX} characters; does the server "
                        "keep to max_tokens?",
                        retryable=False,
                    )
        except WireError as error:
            self.fault = error
        return deltas

    def close(self) -> list[Delta]:
        """The bytes are at their end: what can still be read, and whether that was an answer."""
        deltas: list[Delta] = []
        if self.fault or self.ended:
            return deltas
        if self._document is not None:
            try:
                self._whole(b"".join(self._document), deltas)
            except WireError as error:
                self.fault = error
            return deltas
        # Some servers leave out the last blank line; a chunk cut in two is no chunk, though.
        deltas = self.feed(b"\n\n")
        if self.fault is not None and not isinstance(self.fault, NotJson):
            return deltas
        if self.finish_reason is not None:
            self.fault = None
            self.ended = True
        elif not self.ended:
            self.fault = WireError(
                f"the answer broke off after {self.chars} characters, without a finish reason"
            )
        return deltas

    def last(self) -> Delta:
        """The closing delta. Where the server told no usage its counts are 0, the call is 1."""
        text = self._join_halves("") if self._half else ""
        usage = self.usage or Usage(calls=1)
        return Delta(text, finish_reason=self.finish_reason or "stop", usage=usage)

    def _sniff(self, data: bytes) -> bytes:
        """Events or a document? The first visible byte says, content types may lie."""
        data = (self._head + data).removeprefix(b"\xef\xbb\xbf")
        start = data.lstrip()
        if start in (b"", b"\xef", b"\xef\xbb"):
            self._head = data
            return b""
        self._sniffed, self._head = True, b""
        if start.startswith(b"<"):
            raise WireError(f"HTML instead of an answer: {message_of(start)}")
        if start.startswith((b"{", b"[", b'"')):
            self._document = []
        return data

    def _collect(self, data: bytes) -> None:
        assert self._document is not None
        self._document.append(data)
        self._document_bytes += len(data)
        if self._document_bytes > EVENT_BYTES_MAX:
            raise WireError(f"an answer of more than {EVENT_BYTES_MAX} bytes")

    def _event(self, name: str, event: bytes, deltas: list[Delta]) -> None:
        if event == b"[DONE]" or event.strip() == b"[DONE]":
            if self.finish_reason is None and not self.chars and not self._aside:
                raise WireError("[DONE] instead of an answer: no text, and no finish reason")
            self.ended = True
            return
        if name == "error" and not event.lstrip().startswith(b"{"):
            raise WireError(f"an error in the stream: {message_of(event)}")
        if event:
            self._chunk(self._parse(event), deltas, named_error=name == "error", event=event)

    def _parse(self, event: bytes) -> Chunk:
        try:
            return _decode(event)
        except msgspec.ValidationError as error:
            raise WireError(
                f"JSON that is no chat completion ({error}): {_shorten(event)}"
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # Byte-level models leak broken UTF-8, and half surrogate pairs as escapes. The
            # standard library reads both; what it makes of them is mended in `_text`.
            try:
                self._lenient = True
                lenient = json.loads(event.decode("utf-8", "replace"), strict=False)
                return msgspec.convert(lenient, Chunk)
            except (ValueError, msgspec.ValidationError):
                raise NotJson(f"a chunk that is not JSON: {_shorten(event)}") from error

    def _chunk(self, chunk: Chunk, deltas: list[Delta], *, named_error: bool, event: bytes) -> None:
        if chunk.usage:
            told = usage_of(chunk.usage)
            self.usage = told if self.usage is None else _larger(self.usage, told)
        if chunk.error or named_error:
            raise _told_error(chunk.error or event)
        for choice in chunk.choices or ():
            if choice.index:
                continue
            piece = choice.delta or choice.message
            if piece is not None:
                content = piece.content
                if content.__class__ is not str or self._lenient:
                    content = self._text(content)
                if not content and piece.refusal:
                    content = _plain(piece.refusal)  # so that whoever reads it sees why
                reasoning = piece.reasoning_content or piece.reasoning
                if reasoning.__class__ is not str:
                    reasoning = _plain(reasoning) if reasoning else ""
                tools = piece.tool_calls or ()
                if content or reasoning or tools:
                    if not content:
                        self._aside += len(event)
                    self.chars += len(content)
                    deltas.append(Delta(content, reasoning, tools))
            if choice.finish_reason:
                if choice.finish_reason in ("abort", "error"):
                    raise WireError(f"the server ended the text with {choice.finish_reason!r}")
                self.finish_reason = choice.finish_reason

    def _whole(self, document: bytes, deltas: list[Delta]) -> None:
        chunk = self._parse(document)
        self._chunk(chunk, deltas, named_error=False, event=document)
        if not chunk.choices:
            raise WireError(f"JSON that is no chat completion: {_shorten(document)}")
        self.ended = True

    def _text(self, content: object) -> str:
        text = _plain(content)
        if self._half:
            text = self._join_halves(text)
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._half, text = text[-1], text[:-1]
        if any("\ud800" <= char <= "\udfff" for char in text):
            text = _mend(text)
        return text

    def _join_halves(self, text: str) -> str:
        half, self._half = self._half, ""
        return _mend(half + text)


def _mend(text: str) -> str:
    """Surrogate halves that belong together become their character, others U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _plain(content: object) -> str:
    """Text of a `content` field: a string, or a list of parts of which the text is kept."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def usage_of(told: Mapping[str, Any]) -> Usage:
    """A server's `usage` object. What it does not tell, or tells oddly, counts as 0."""
    prompt, completion = (
        details if isinstance(details := told.get(key), Mapping) else {}
        for key in ("prompt_tokens_details", "completion_tokens_details")
    )
    return Usage(
        prompt_tokens=_count(told.get("prompt_tokens")),
        completion_tokens=_count(told.get("completion_tokens")),
        cached_tokens=_count(prompt.get("cached_tokens") or told.get("prompt_cache_hit_tokens")),
        reasoning_tokens=_count(completion.get("reasoning_tokens") or told.get("reasoning_tokens")),
        calls=1,
    )


def _larger(one: Usage, other: Usage) -> Usage:
    """Of two usages of one answer: counts only grow, but some servers end with zeros, or tell the
    prompt first and the text last."""
    return Usage(
        max(one.prompt_tokens, other.prompt_tokens),
        max(one.completion_tokens, other.completion_tokens),
        max(one.cached_tokens, other.cached_tokens),
        max(one.reasoning_tokens, other.reasoning_tokens),
        calls=1,
    )


TOKENS_MAX = 10**12
"""A count of more is told oddly."""


def _count(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 < value <= TOKENS_MAX else 0


# -------------------------------------------------------------------------------------- errors


def _told_error(error: object) -> WireError:
    """An error that the server told inside an answer that had begun well."""
    code = error.get("code") if isinstance(error, Mapping) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else None
    retryable = status is None or is_retryable(status)
    body = error if isinstance(error, bytes) else msgspec.json.encode({"error": error})
    return WireError(
        f"an error in the stream: {message_of(body)}", status=status, retryable=retryable
    )


def is_retryable(status: int) -> bool:
    """Whether the same request can succeed later or elsewhere."""
    return (status >= 500 and status != 501) or status in (408, 409, 425, 429)


def message_of(body: bytes) -> str:
    """What a server's error body says, in one short line: OpenAI, FastAPI or proxy style."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _shorten(re.sub(rb"(?is)<(script|style)\b.*?</\1>|<[^>]*>", b" ", body))
    for key in ("error", "message", "detail", "msg"):
        while isinstance(told, Mapping) and told.get(key):
            told = told[key]
    if isinstance(told, Mapping):
        told = told.get("message") or told.get("msg") or told
    return _shorten(told if isinstance(told, str) else msgspec.json.encode(told))


def _shorten(text: bytes | str) -> str:
    if isinstance(text, bytes):
        text = text[: 8 * MESSAGE_CHARS_MAX].decode("utf-8", "replace")
    text = " ".join(text.split())
    if len(text) > MESSAGE_CHARS_MAX:
        text = text[: MESSAGE_CHARS_MAX - 3] + "..."
    return text or "(an empty body)"


def retry_after(headers: Mapping[str, str], wall_clock: float) -> float | None:
    """The wait in seconds that a server asks for, from any of the three ways to say it."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - wall_clock
            except (ValueError, TypeError):
                continue
        if seconds == seconds and seconds != float("inf"):
            return max(0.0, seconds)
    return None


_RESET = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|h|m|s))+")
_RESET_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def allowed(headers: Mapping[str, str]) -> Allowed | None:
    """What the head of an answer says of the server's limits on requests and tokens, as OpenAI and
    those after it say it; None if it says nothing that can be read."""
    requests, tokens = _left(headers, "requests"), _left(headers, "tokens")
    return Allowed(requests, tokens) if requests or tokens else None


def _left(headers: Mapping[str, str], what: str) -> tuple[int, float] | None:
    """How much is left, and in how many seconds all will be there again ("1s", "6m0s", "59.7")."""
    left = headers.get(f"x-ratelimit-remaining-{what}", "")
    reset = headers.get(f"x-ratelimit-reset-{what}", "").strip()
    if not re.fullmatch(r"\s*\d{1,15}\s*", left, re.ASCII):
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", reset, re.ASCII):
        return int(left), float(reset)
    if len(reset) > 40 or not _RESET.fullmatch(reset):
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", reset)
    return int(left), sum(float(number) * _RESET_UNITS[unit] for number, unit in parts)
