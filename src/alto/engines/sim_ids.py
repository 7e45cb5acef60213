"""Token ids of simulated servers: numbers from which the tokens can be read again, on any of them.

The vocabulary of simulated servers is a rule without a table (`tokens.py`), so an id holds its
token: up to eight characters of ASCII, or two of any script. A token that is longer takes several
ids. The marks of the chat template have ids of their own.

Always true:
    I1  the text of the ids of a text is the text
    I2  ids of a chat prompt give its messages, and what of the answer had been written
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from ..core.calls import Message
from .tokens import content_text, tokenize

BEGIN, END = 1, 2
_ROLES = {3: "assistant", 4: "system", 5: "user", 6: "tool"}
_ROLE_IDS = {role: number for number, role in _ROLES.items()}
_WIDE = 1 << 62
_ASCII_CHARS, _ASCII_BITS = 8, 7
_WIDE_CHARS, _WIDE_BITS = 2, 21


def ids_of(text: str, piece: int) -> list[int]:
    """The ids of the tokens of a text."""
    ids: list[int] = []
    for token in tokenize(text, piece):
        if token.isascii():
            parts = range(0, len(token), _ASCII_CHARS)
            ids += [_packed(token[at : at + _ASCII_CHARS], _ASCII_BITS) for at in parts]
        else:
            parts = range(0, len(token), _WIDE_CHARS)
            ids += [_WIDE | _packed(token[at : at + _WIDE_CHARS], _WIDE_BITS) for at in parts]
    return ids


def text_of(ids: Iterable[int]) -> str:
    """The text of ids. Raises `ValueError` for a number that is none of a piece of text."""
    return "".join(map(_unpacked, ids))


def chat_ids(
    messages: Sequence[Message], piece: int, *, open_end: bool = False
) -> list[int] | None:
    """The ids of a chat prompt, template included; None for messages with parts that are no text.
    See `tokens.render`."""
    ids: list[int] = []
    for message in messages:
        content = message.get("content")
        if not (content is None or isinstance(content, str) or all(map(_is_text, content))):
            return None
        role = str(message.get("role", "user"))
        ids += [BEGIN, *_role_ids(role, piece), *ids_of("\n", piece)]
        ids += [*ids_of(content_text(content), piece), END, *ids_of("\n", piece)]
    if open_end:
        return ids[: -1 - len(ids_of("\n", piece))]
    return [*ids, BEGIN, *_role_ids("assistant", piece), *ids_of("\n", piece)]


def chat_of(ids: Sequence[int]) -> tuple[list[Message], bool]:
    """The messages of a chat prompt, and whether the last one is an answer to be gone on with.
    Raises `ValueError` for ids that are no such prompt."""
    messages: list[Message] = []
    is_open = False
    for at, (mark, group) in enumerate(groupby(ids, lambda number: number == BEGIN)):
        if mark != (at % 2 == 0) or (mark and len(list(group)) > 1):
            raise ValueError("they do not begin with the beginning of a message")
        if mark:
            continue
        head, *rest = _split(group)
        role, newline, content = text_of(head).partition("\n")
        if not newline or len(rest) > 1 or (rest and text_of(rest[0]) != "\n"):
            raise ValueError("a message has no role, or more than one end")
        is_open = not rest
        messages.append({"role": role, "content": content})
    if not messages or messages[-1]["role"] != "assistant" or not is_open:
        raise ValueError("they do not end in an answer")
    if not messages[-1]["content"]:
        return messages[:-1], False
    return messages, True


def _split(ids: Iterable[int]) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for number in ids:
        if number == END:
            parts.append([])
        else:
            parts[-1].append(number)
    return parts


def _role_ids(role: str, piece: int) -> list[int]:
    return [_ROLE_IDS[role]] if role in _ROLE_IDS else ids_of(role, piece)


def _is_text(part: object) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)


def _packed(chars: str, bits: int) -> int:
    number = 1
    for char in chars:
        number = number << bits | ord(char)
    return number


def _unpacked(number: int) -> str:
    if number in _ROLES:
        return _ROLES[number]
    bits = _WIDE_BITS if number & _WIDE else _ASCII_BITS
    rest = number & ~_WIDE
    chars = ""
    while rest > 1:
        chars = chr(rest & (1 << bits) - 1) + chars
        rest >>= bits
    if rest != 1 or not chars:
        raise ValueError(f"{number} is the id of no token")
    return chars
