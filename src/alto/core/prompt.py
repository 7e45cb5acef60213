"""The prompt of a call, as far as placing the call goes: how long it is and how it begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from zlib import crc32

from .calls import Call, Measured
from .prefix import STEP_BYTES, Prompt, chain

PART_BYTES: Final = 3200
"""What a picture or a sound counts for, as it is no text: about 800 tokens."""


def read(call: Call, *, hashed: bool = True) -> Prompt:
    """The prompt of a call. With `hashed=False` only its length: for policies that need no more."""
    if isinstance(call, Measured):
        return call.prompt
    data, parts = _render(call)
    size = len(data)
    return Prompt(chain(data) if hashed and size >= STEP_BYTES else (), size + parts * PART_BYTES)


def _render(call: Any) -> tuple[bytes, int]:
    """What an engine would read, near enough: the order of things is what matters.

    Tools come first because chat templates put them into the system prompt. (Any: users may give
    messages in other types than a call says.)
    """
    pieces = [call.model] if call.model else []
    if call.tools:
        pieces.append(repr(call.tools))
    parts = 0
    given = call.messages
    messages: list[Any] = given if isinstance(given, list) else list(given)
    for each in messages:
        message: dict[str, Any] = each if isinstance(each, dict) else dict(each)
        content = message.get("content")
        if isinstance(content, str):
            pieces.append(f"\x1e{message.get('role', '')}\x1f{content}")
        else:
            pieces.append(f"\x1e{message.get('role', '')}\x1f")
            for part in content or ():
                text = _text(part)
                parts += text is None
                pieces.append(f"\x1f{crc32(repr(part).encode())}" if text is None else text)
        if len(message) > 2:
            pieces.append(_rest(message))
    return "".join(pieces).encode("utf-8", "surrogatepass"), parts


def _text(part: Any) -> str | None:
    text = part.get("text") if isinstance(part, Mapping) else part
    return text if isinstance(text, str) else None


def _rest(message: Mapping[str, Any]) -> str:
    """Tool calls and the like, which chat templates write out too."""
    return repr([(k, v) for k, v in message.items() if k not in ("role", "content")])
