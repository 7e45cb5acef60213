"""The bounds of one request, as a user sets them."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one request. Bytes are estimates of the user's values.

    `scope_items`, `scope_bytes`: how far a producer may run ahead of the slowest reader of its
    items, unless somebody waits for it. `request_bytes`: all that a request may hold; then it
    fails. `replay_bytes`: what is kept beyond need, for re-runs.
    """

    scope_items: int = 1024
    scope_bytes: int = 16 << 20
    request_bytes: int = 1 << 30
    replay_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name in ("scope_items", "scope_bytes", "request_bytes", "replay_bytes"):
            value, least = getattr(self, name), 0 if name == "replay_bytes" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"Limits: {name} is {value!r}, expected a whole number, {least} or more."
                )
