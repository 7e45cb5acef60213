"""What every prompt of an LM stage begins with: the text before its first argument.

The stage's function is called once with stand-ins for its arguments, which show in the text that it
gives. What stands before the first of them is the same for every call. A stand-in can be formatted,
joined, indexed, looped over, and asked for attributes and methods; all that gives stand-ins again.
What needs a value (a condition, a comparison, arithmetic) cannot be answered, so then nothing, or
for a generator nothing further, is known.

Only functions that promise to do nothing but write are called (`@lm(prewarm=True)`), and no
asynchronous ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NoReturn

from .core.calls import Message
from .stages import LM

_MARK = "90417326580415729036"
"""Stands for an argument in a text. Digits, which nothing that is done to texts makes other ones
of: JSON, another case, quoting."""

USES_MAX = 10_000
"""How often a function may use its stand-ins: some loops would never end with them."""

PARTS_MAX = 100
"""How many parts of a generator are looked at."""


class _NoValue(Exception):
    """The function wants to know what an argument is, or looks at them for ever."""


class _Argument(str):
    """Stands for an argument, or for anything that is made of one. A string, so that it may be
    joined."""

    uses: list[int]

    def __new__(cls, uses: list[int]) -> _Argument:
        self = super().__new__(cls, _MARK)
        self.uses = uses
        return self

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return super().__getattribute__(name)
        return _another(self)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return _another(self)

    def __getitem__(self, _: Any) -> Any:
        return _another(self)

    def __iter__(self) -> Iterator[Any]:
        return iter((_another(self),))

    def __str__(self) -> str:
        return _MARK

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return _MARK

    def _unknown(self, *_: Any) -> NoReturn:
        raise _NoValue

    __bool__ = __len__ = __contains__ = __eq__ = __ne__ = _unknown
    __lt__ = __le__ = __gt__ = __ge__ = __mul__ = __rmul__ = _unknown
    __hash__ = str.__hash__


def _another(argument: _Argument) -> _Argument:
    uses: list[int] = str.__getattribute__(argument, "uses")
    uses[0] += 1
    if uses[0] > USES_MAX:
        raise _NoValue
    return _Argument(uses)


def prefix_of(stage: LM[Any, Any]) -> list[Message]:
    """The messages that every prompt of the stage begins with, the last perhaps in part; none if
    that is not known. Never raises."""
    if stage.is_async:
        return []
    names = stage.signature.parameters.values()
    if any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in names):
        return []
    argument = _Argument([0])
    given = [argument for one in names if one.kind is not one.KEYWORD_ONLY]
    named = {one.name: argument for one in names if one.kind is one.KEYWORD_ONLY}
    try:
        made: Any = stage.function(*given, **named)
        return _known(made if inspect.isgenerator(made) else _whole(made))
    except Exception:
        return []


def _whole(prompt: Any) -> Iterator[Any]:
    return iter((prompt,) if isinstance(prompt, str) else prompt)


def _known(parts: Iterator[Any]) -> list[Message]:
    """The parts up to the first argument, as messages."""
    messages: list[Message] = []
    texts: list[str] = []
    for _ in range(PARTS_MAX):
        try:
            part = next(parts, None)
        except Exception:
            break
        text = str(part) if isinstance(part, str) else None
        if text is not None:
            texts.append(text.partition(_MARK)[0])
            if _MARK in text:
                break
            continue
        if not isinstance(part, dict):
            break
        messages += _user(texts)
        texts = []
        if _MARK in repr({**part, "content": ""}) or "role" not in part:
            break
        content = part.get("content")
        if _MARK in repr(content):
            if isinstance(content, str) and (text := content.partition(_MARK)[0]):
                messages.append({**part, "content": text})
            break
        messages.append(part)
    close = getattr(parts, "close", None)
    if close is not None:
        close()
    return messages + _user(texts)


def _user(texts: list[str]) -> list[Message]:
    text = "".join(texts)
    return [{"role": "user", "content": text}] if text else []
