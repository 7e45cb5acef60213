"""What can go wrong, by whose fault it is.

    AltoError
    ├── GraphError          the pipeline as written cannot run (raised while it is built)
    ├── ConfigError         a configuration value, file or variable is wrong
    ├── StageError          a stage failed for good: `.stage`, `.path`, `.attempts`, cause chained
    ├── ParseError          LM text is not what the stage's annotation says: `.text`
    ├── EngineError         an LM server failed: `.engine`, `.status`, `.retryable`
    ├── DeadlineExceeded    the time of a request or of an attempt ran out (also a TimeoutError)
    ├── Overloaded          refused, or given up because it would end too late; try again later
    └── OrchestratorLost    the process that held the request died

Every message says what was attempted, with which value, what was expected and a way to mend it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core.calls import TokenIds, Usage


class AltoError(Exception):
    """The root of everything ALTO raises on purpose."""


class GraphError(AltoError):
    """A pipeline that cannot run as written. Raised while it is built, before anything runs.

    `.problems` holds every single message when several were found at once.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)


class ConfigError(AltoError):
    """A configuration value, file or environment variable that cannot be used."""


class StageError(AltoError):
    """A stage failed and its retries, if any, are used up. The last exception is `__cause__`."""

    def __init__(
        self, message: str, *, stage: str, path: tuple[int, ...] = (), attempts: int = 1
    ) -> None:
        super().__init__(message)
        self.stage = stage
        self.path = path
        self.attempts = attempts


class StageMistake(StageError):
    """What ALTO itself found wrong with a stage. `__cause__` is what the stage had raised, if it
    had. The request's `StageError` says the same, with the stage's path, and has the same cause."""


class ParseError(AltoError):
    """LM text that is not what the stage's return annotation says. `.text` is the whole text."""

    def __init__(self, message: str, *, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class EngineError(AltoError):
    """An LM server failed, refused or broke off.

    `.status` is the HTTP status when there was one; `.retryable` says whether another try (here
    or on another replica) can help; `.retry_after` is the server's own wish in seconds.
    `.token_ids` are those of a text that broke off, if the server told them; `.usage` is what a
    text has cost that broke off for good (a part of the request's usage).
    """

    token_ids: TokenIds | None = None
    usage: Usage | None = None

    def __init__(
        self,
        message: str,
        *,
        engine: str = "",
        status: int | None = None,
        retryable: bool = True,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.engine = engine
        self.status = status
        self.retryable = retryable
        self.retry_after = retry_after


class DeadlineExceeded(AltoError, TimeoutError):
    """A request's or an attempt's time ran out."""


class Overloaded(AltoError):
    """There is too much to do. A request ends with it when it would miss its deadline because of
    the load (mostly before any work was done), a call when a queue is full. `.retry_after` is in
    seconds, if known."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OrchestratorLost(AltoError):
    """The process that held the request died; its state went with it."""
