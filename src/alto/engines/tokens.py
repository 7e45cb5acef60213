"""Tokens of simulated engines: a cheap, fixed rule in place of a model's vocabulary.

A token is a word piece of up to `piece` letters with the space before it, up to three digits, one
sign, a run of white space, or one character of a script that is written without spaces. English
comes out at a little over four characters a token, as with the vocabularies of real models.

Always true:
    T1  the tokens of a text, joined, are the text
    T2  equal beginnings of two texts give equal tokens, but for the last few before they differ
    T3  nothing depends on the process: no `hash()`, no table that grows
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from ..core.calls import Message
from .kv_cache import Key

PIECE_LETTERS = 7
"""Letters a token holds at most."""

IMAGE_TOKENS = 576
"""What an image part of a message counts as: 24 x 24 patches."""

_SLICE = 512
"""Texts are cut into slices of so many characters, and the tokens of a slice are remembered: the
fixed part of a stage's prompts is then tokenised once. A slice's end is a token's end too."""

_WIDE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"


@lru_cache(maxsize=16)
def _rule(piece: int) -> re.Pattern[str]:
    letter = rf"(?:(?![{_WIDE}])[^\W\d_])"
    return re.compile(
        rf" ?[A-Za-z]{{1,{piece}}}|[{_WIDE}]| ?{letter}{{1,{piece}}}"
        r"| ?\d{1,3}| ?[^\w\s]|_|\s+|."
    )


@lru_cache(maxsize=2048)
def _slice_tokens(text: str, piece: int) -> tuple[str, ...]:
    return tuple(_rule(piece).findall(text))


def tokenize(text: str, piece: int = PIECE_LETTERS) -> list[str]:
    """The tokens of a text."""
    if len(text) <= _SLICE:
        return _rule(piece).findall(text)
    tokens: list[str] = []
    for at in range(0, len(text), _SLICE):
        tokens += _slice_tokens(text[at : at + _SLICE], piece)
    return tokens


def render(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    piece: int = PIECE_LETTERS,
    open_end: bool = False,
) -> list[str]:
    """The tokens of a chat prompt, template included.

    The template costs five tokens a message (begin, role, line end; end, line end) and three for
    the head of the answer. `open_end`: the last message is the beginning of the answer and is
    left open (continue-final-message), so that the answer goes on in it.
    """
    tokens: list[str] = []
    if tools:
        tokens += ["<|tools|>", *tokenize(repr(list(tools)), piece), "<|end|>"]
    last = len(messages) - 1
    for at, message in enumerate(messages):
        tokens += ["<|begin|>", str(message.get("role", "user")), "\n"]
        tokens += _content(message.get("content"), piece)
        if not (open_end and at == last):
            tokens += ["<|end|>", "\n"]
    if not open_end:
        tokens += ["<|begin|>", "assistant", "\n"]
    return tokens


def _content(content: object, piece: int) -> list[str]:
    if isinstance(content, str):
        return tokenize(content, piece)
    if content is None:
        return []
    tokens: list[str] = []
    for part in content if isinstance(content, Iterable) else (content,):
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            tokens += tokenize(part["text"], piece)
        else:
            tokens += [repr(part)] * IMAGE_TOKENS
    return tokens


def content_text(content: object) -> str:
    """The text of a message's content, parts that are no text left out."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Iterable):
        return ""
    return "".join(
        part["text"]
        for part in content
        if isinstance(part, Mapping) and isinstance(part.get("text"), str)
    )


def prompt_text(messages: Sequence[Message]) -> str:
    """The text of a prompt: that of its one message, or of all of them, a blank line between."""
    return "\n\n".join(content_text(message.get("content")) for message in messages)


class BlockKeys:
    """The keys of the full blocks of a growing list of tokens, each computed once and only when
    asked for. A key hashes the block's tokens and the key before it."""

    __slots__ = ("_block", "_keys", "_tokens")

    def __init__(self, prompt: Sequence[str], answer: Sequence[str], block_tokens: int) -> None:
        self._tokens = (*prompt, *answer)
        self._block = block_tokens
        self._keys: list[Key] = []

    def __call__(self, blocks: int) -> Sequence[Key]:
        """The keys of the first `blocks` blocks."""
        keys = self._keys
        size = self._block
        last = keys[-1] if keys else b""
        for at in range(len(keys) * size, blocks * size, size):
            last = _block_key(last, self._tokens[at : at + size])
            keys.append(last)
        return keys if len(keys) == blocks else keys[:blocks]


@lru_cache(maxsize=4096)
def _block_key(before: Key, tokens: tuple[str, ...]) -> Key:
    text = "\0".join(tokens).encode("utf-8", "surrogatepass")
    return blake2b(before + text, digest_size=16).digest()
