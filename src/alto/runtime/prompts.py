"""The prompt of an LM stage: returned whole, or yielded in parts as they become known.

A part is a string or a chat message; the prompt is all of them in order. Strings that follow one
another are one user message.

Always true:
    P1  the messages of the parts so far are a beginning of the messages of all parts: nothing is
        put before or between parts that are known
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from ..core.calls import Call, Message, is_message
from ..core.prompt import read
from ..errors import StageError
from .readers import LiveStream


class Parts:
    """What a generator has yielded so far."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._messages: list[Message] = []
        self._texts: list[str] = []
        """Strings since the last message."""
        self.size = 0
        """Bytes, about."""

    def add(self, part: Any) -> None:
        """One more part."""
        if isinstance(part, str):
            self._texts.append(part)
            self.size += len(part.encode("utf-8", "surrogatepass"))
        elif is_message(part):
            self._messages = self.messages()
            self._messages.append(part)
            self._texts.clear()
            self.size += read(Call(messages=[part]), hashed=False).size
        else:
            raise StageError(
                f"stage {self._stage}: its generator yielded {_shown(part)}, expected a part of "
                "the prompt: a string, or a chat message (a dict with role and content). The LM's "
                "text is not among them: the return annotation, or returns=, says how it is read.",
                stage=self._stage,
            )

    def messages(self) -> list[Message]:
        """The prompt so far."""
        if not self._texts:
            return list(self._messages)
        return [*self._messages, {"role": "user", "content": "".join(self._texts)}]

    def whole(self) -> list[Message]:
        """The prompt, of which this is all."""
        messages = self.messages()
        if not messages:
            raise StageError(
                f"stage {self._stage}: its generator yielded nothing, expected the parts of the "
                "prompt: strings or chat messages.",
                stage=self._stage,
            )
        return messages


def returned(stage: str, given: Any) -> list[Message]:
    """The messages of a prompt that was returned."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if isinstance(given, list) and given and all(map(is_message, given)):
        return list(given)
    raise StageError(
        f"stage {stage}: its function returned {_shown(given)}, expected the prompt: a "
        "string, or a list of chat messages with role and content. To give it in parts, yield "
        "them.",
        stage=stage,
    )


async def joined(
    parts: Parts, given: AsyncIterator[Any], more: Callable[[], None] | None = None
) -> list[Message]:
    """The messages that the parts of a prompt are, when the last one is known. `more` is called
    after each."""
    try:
        async for part in given:
            parts.add(part)
            if more is not None:
                more()
    finally:
        close = getattr(given, "aclose", None)
        if close is not None:
            await close()
    return parts.whole()


def arguments_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as engines are told them: of a stream the items that were read."""
    if not any(isinstance(value, KeptStream) for value in arguments.values()):
        return arguments
    return {
        name: list(value.items) if isinstance(value, KeptStream) else value
        for name, value in arguments.items()
    }


class KeptStream(LiveStream):
    """A stream that an `@lm` function reads. `items` is what it has been given."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.items: list[Any] = []

    async def __anext__(self) -> Any:
        item = await super().__anext__()
        self.items.append(item)
        return item

    def __next__(self) -> Any:
        item = super().__next__()
        self.items.append(item)
        return item


def _shown(given: Any) -> str:
    return f"{type(given).__name__} {str(given)[:80]!r}"
