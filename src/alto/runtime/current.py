"""`alto.current()`: what a stage may know about the invocation it runs in."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..core.path import Path

if TYPE_CHECKING:
    from ..core.execution import Invocation
    from .driver import Run

running: ContextVar[Invocation | None] = ContextVar("alto_running", default=None)


class Current:
    """The invocation that is running here. Made by `alto.current()`."""

    __slots__ = ("_invocation", "_run")

    def __init__(self, run: Run, invocation: Invocation) -> None:
        self._run = run
        self._invocation = invocation

    @property
    def request(self) -> str:
        """The id of the request."""
        return self._run.id

    request_id = request

    @property
    def stage(self) -> str:
        """The stage's name in this pipeline; a second use of it is called `name#2`."""
        return self._invocation.use.name

    @property
    def path(self) -> Path:
        """The path of the item that this invocation is for."""
        return self._invocation.path

    @property
    def attempt(self) -> int:
        """1 for the first attempt, one more for each that follows."""
        return self._invocation.attempt

    @property
    def remaining(self) -> float | None:
        """Seconds until the request's deadline or this attempt's timeout; None without either."""
        now = self._run.loop.time()
        times = [at for at in (self._run.deadline, self._invocation.due) if at is not None]
        return max(0.0, min(times) - now) if times else None

    @property
    def tokens_left(self) -> int | None:
        """Tokens that the request's LM calls may still spend, less what calls under way hold; None
        without a `token_budget`."""
        budget = self._run.budget
        return None if budget is None else budget.left

    def emit(self, name: str, value: Any) -> None:
        """Send a progress event to the client: `event.output == name`, `event.progress` is True."""
        self._run.progress(self._invocation, name, value)

    def __repr__(self) -> str:
        return f"<{self.stage} at {self.path} of request {self.request}>"


def current() -> Current:
    """The invocation that is running here. Raises `RuntimeError` outside a stage."""
    here = running.get()
    if here is None:
        raise RuntimeError(
            "alto.current() was called outside a stage. It works in the functions that a pipeline "
            "runs, and in tasks and threads that they start with their context."
        )
    return Current(here.run, here)
