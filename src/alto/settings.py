"""What the value of a setting may be, and the one form of error where it is not.

`what` names the setting as the user wrote it: "alto.OpenAI: max_connections".
"""

from __future__ import annotations

import math
from typing import Any

from .errors import ConfigError, GraphError
from .stages import seconds


def whole(what: str, value: Any, least: int | None) -> int:
    """The value, if it is a whole number of at least so much; else `ConfigError`."""
    wrong = isinstance(value, bool) or not isinstance(value, int)
    if wrong or (least is not None and value < least):
        bound = "" if least is None else f", {least} or more"
        raise ConfigError(f"{what} is {value!r}, expected a whole number{bound}.")
    return int(value)


def number(what: str, value: Any, *, zero: bool = False) -> None:
    """Raise `ConfigError` unless it is a finite number above 0, or 0 where that will do."""
    wrong = isinstance(value, bool) or not isinstance(value, int | float)
    if wrong or not 0 <= value < math.inf or (value == 0 and not zero):
        bound = "0 or more" if zero else "more than 0"
        raise ConfigError(f"{what} is {value!r}, expected a number, {bound}.")


def flag(what: str, value: Any) -> bool:
    """The value, if it is True or False; else `ConfigError`, for the text "no" would be true."""
    if not isinstance(value, bool):
        raise ConfigError(f"{what} is {value!r}, expected true or false.")
    return value


def duration(what: str, value: Any, *, needed: bool = False) -> float | None:
    """Seconds, from a number or a text such as "5ms"; None stays None, unless one is needed. Else
    `ConfigError`."""
    try:
        return seconds(value, what, needed=needed)
    except GraphError as error:
        raise ConfigError(str(error)) from None
