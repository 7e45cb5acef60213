"""What an engine gives as a piece of text: a `Delta`, or a plain string where that is all there is
to it. Classes of users are engines too, and give what they give."""

from __future__ import annotations

from ..core.calls import Delta
from ..errors import EngineError


def delta_of(engine: str, piece: object) -> Delta:
    """A piece as a `Delta`. Raises `EngineError` if it is no text."""
    if isinstance(piece, Delta):
        return piece
    if isinstance(piece, str):
        return Delta(piece)
    raise no_text(engine, piece)


def no_text(engine: str, piece: object) -> EngineError:
    """What an engine's author is told of a piece that is no text."""
    return EngineError(
        f"engine {engine!r} gave {repr(piece)[:80]} as a piece of text, expected an alto.Delta "
        "or a str. This is a fault of the engine's class, not of the call.",
        engine=engine,
        retryable=False,
    )
