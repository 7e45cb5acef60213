"""New text, cut where an earlier attempt's was, as far as their characters agree."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.execution import Invocation


def earlier(invocation: Invocation) -> Iterator[str]:
    """The deltas that an earlier attempt gave at this place, in order."""
    scope = invocation.scope
    if scope is None:
        return
    slot = invocation.use.out.slot
    for child in list(scope.children):
        if child is None or not isinstance(child.vals[slot], str):
            return
        yield child.vals[slot]


class Recut:
    """Cuts new text at the boundaries of old pieces for as long as the characters are the same."""

    def __init__(self, old: Iterator[str]) -> None:
        self._old = old
        self._next = next(old, None)
        self._held = ""

    def feed(self, text: str) -> list[str]:
        """New text; the pieces that it completes."""
        self._held += text
        pieces = []
        while self._next is not None and self._held:
            if self._held.startswith(self._next):
                pieces.append(self._next)
                self._held = self._held[len(self._next) :]
                self._next = next(self._old, None)
            elif self._next.startswith(self._held):
                return pieces
            else:
                self._next = None
        if self._next is None and self._held:
            pieces.append(self._held)
            self._held = ""
        return pieces

    def finish(self) -> list[str]:
        """What is left when the text ends inside an old piece."""
        held, self._held = self._held, ""
        return [held] if held else []
