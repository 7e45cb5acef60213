"""Going on with a broken text exactly: its tokens on the wire, as numbers.

vLLM tells a caller who asks (`return_token_ids`) the ids of the prompt with the first chunk, and
with each chunk those of its text. Handed back as the prompt of a plain completion they are the very
state in which the text broke off, where text would have to be cut into tokens anew. SGLang refuses
the field for streamed chats, llama.cpp and others do not know it: those go on from the text.

The ids are only used where they are sure to be all there:
    - calls with tools are not asked with them, as parsers of tool calls swallow tokens; nor calls
      with stop strings, whose text comes later than its tokens
    - a text with reasoning, or with a chunk of text without ids, is gone on with as text
    - ids after the last chunk of text are left out: their text was not given yet

Nothing is decoded before a text breaks off: until then the ids are bytes.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec

from ..core.calls import Call, Delta, TokenIds
from ..openai_api import AnswerReader, Choice, Chunk, Piece


def can_ask(call: Call) -> bool:
    """Whether the ids of an answer to this call would be worth anything."""
    return not (call.tools or call.stop or call.prewarm)


class _Choice(Choice, gc=False):
    text: Any = None
    """In a plain completion."""
    token_ids: msgspec.Raw = msgspec.Raw()
    prompt_token_ids: msgspec.Raw = msgspec.Raw()


class _Chunk(Chunk, gc=False):
    choices: list[_Choice] | None = None  # type: ignore[assignment]
    prompt_token_ids: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_ids = msgspec.json.Decoder(list[int]).decode


class ExactReader(AnswerReader):
    """Reads an answer of a chat or of a plain completion, and keeps the ids in it."""

    def __init__(self) -> None:
        super().__init__()
        self.told = False
        """There were ids of text."""
        self._exact = True
        self._prompt = b""
        self._ids: list[bytes] = []
        self._settled = 0
        """So many of them are of text that was given."""

    def token_ids(self) -> TokenIds | None:
        """The prompt and the text so far; None if they are not known for sure."""
        if not (self._exact and self._settled and self._prompt):
            return None
        try:
            answer = [_decode_ids(ids) for ids in self._ids[: self._settled]]
            return TokenIds(_decode_ids(self._prompt), list(chain.from_iterable(answer)))
        except msgspec.DecodeError:
            return None

    def _parse(self, event: bytes) -> Chunk:
        try:
            return _decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._exact = False
            return super()._parse(event)

    def _chunk(self, chunk: Chunk, deltas: list[Delta], *, named_error: bool, event: bytes) -> None:
        if isinstance(chunk, _Chunk):
            self._note(chunk.prompt_token_ids)
            for choice in chunk.choices or ():
                if not choice.index:
                    self._keep(choice)
        super()._chunk(chunk, deltas, named_error=named_error, event=event)

    def _keep(self, choice: _Choice) -> None:
        self._note(choice.prompt_token_ids)
        if choice.delta is None and choice.text is not None:
            choice.delta = Piece(content=choice.text)
        ids = _array(choice.token_ids)
        if ids:
            self._ids.append(ids)
        piece = choice.delta
        if piece is None:
            return
        if piece.reasoning_content or piece.reasoning or piece.refusal or piece.tool_calls:
            self._exact = False
        elif piece.content:
            self.told = self.told or bool(ids)
            self._exact = self._exact and bool(ids)
            self._settled = len(self._ids)

    def _note(self, prompt: msgspec.Raw) -> None:
        self._prompt = self._prompt or _array(prompt)


def _array(raw: msgspec.Raw) -> bytes:
    """A list that is not empty; else nothing."""
    data = bytes(raw)
    return b"" if data in (b"", b"null", b"[]") else data
