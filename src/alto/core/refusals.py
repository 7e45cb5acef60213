"""What a reader is told whose call the pool cannot serve.

Every message says what was asked, what stands against it now, replica by replica, and what would
mend it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DeadlineExceeded, EngineError, Overloaded
from .rate import Rate
from .replicas import Limits, ReplicaState
from .scheduling import Policy


class Refusals:
    """The errors of one pool."""

    def __init__(
        self,
        name: str,
        replicas: Sequence[ReplicaState],
        limits: Limits,
        rate: Rate | None = None,
    ) -> None:
        self.name = name
        self.replicas = replicas
        self.limits = limits
        self.rate = rate

    def too_late(self, stage: str, waiting: int, now: float) -> DeadlineExceeded:
        """The deadline of a call that waits is over."""
        limits, mend = "", "Give requests more time, or the engine more replicas."
        if self.rate is not None:
            limits = f", {self.rate.describe(now)}"
            mend = "Give requests more time, or the engine more replicas or higher limits."
        return DeadlineExceeded(
            f"engine {self.name}: the deadline of a call{_of(stage)} passed before a replica had "
            f"room for it ({waiting} calls waiting, {self._load()}{limits}). {mend}"
        )

    def overloaded(self, waiting: int) -> Overloaded:
        """The queue is full."""
        return Overloaded(
            f"engine {self.name}: {waiting} calls wait already and waiting_max is "
            f"{self.limits.waiting_max} ({self._load()}). Try later, raise waiting_max, or add "
            "replicas.",
            retry_after=1.0,
        )

    def too_busy(self, stage: str, now: float, last: EngineError | None = None) -> EngineError:
        """All replicas want to be left alone for longer than a call may wait."""
        again = min(one.ready_at(now) or now for one in self.replicas) - now
        said = "; ".join(
            f"{one.name} {_asked(one)}: {one.last_error or 'no failure seen'}"
            for one in self.replicas
        )
        error = EngineError(
            f"engine {self.name}: a call{_of(stage)} is not taken by any replica for another "
            f"{again:.3g} s, and busy_wait_max_s, for which a call waits for busy servers, is "
            f"{self.limits.busy_wait_max_s:g} s. {said}. Try later, see to the quota there, or "
            "name a second engine for the stage.",
            engine=self.name,
            status=429,
            retry_after=again,
        )
        error.__cause__ = last
        return error

    def nobody(
        self, stage: str, failures: int, turned_away: int, resumes: int, last: EngineError | None
    ) -> EngineError:
        """Every way to go on is used up: each replica by name, with what it said."""
        said = "; ".join(
            f"{replica.name}: {replica.last_error or 'no failure seen'}"
            for replica in self.replicas
        )
        error = EngineError(
            f"engine {self.name}: no replica could answer a call{_of(stage)} ({failures} failures, "
            f"{turned_away} times too busy, {resumes} resumed). {said}. Check that the servers run "
            "and can be reached.",
            engine=self.name,
            status=last.status if last else None,
            retry_after=last.retry_after if last else None,
        )
        error.__cause__ = last
        return error

    def policy(self, verb: str, policy: Policy, cause: Exception) -> EngineError:
        """The user's own policy failed."""
        error = EngineError(
            f"engine {self.name}: {verb}() of scheduling policy {policy!r} failed: "
            f"{type(cause).__name__}: {cause}. Expected an index into the candidates from "
            "choose() and no exception from either.",
            engine=self.name,
            retryable=False,
        )
        error.__cause__ = cause
        return error

    def _load(self) -> str:
        return ", ".join(
            f"{replica.name} {'is down' if replica.open_until is not None else 'runs'} "
            f"{replica.sequences} of {int(replica.sequences_limit)}"
            for replica in self.replicas
        )


def _asked(replica: ReplicaState) -> str:
    if replica.open_until is not None:
        return "is down"
    if replica.asked_s is None:
        return "is busy"
    return f"asks to be left alone for {replica.asked_s:.6g} s"


def _of(stage: str) -> str:
    return f" of stage {stage}" if stage else ""


def is_busy(error: EngineError) -> bool:
    """Too many requests, which is no failure. A bare 503 is one."""
    return error.status == 429 or (error.status == 503 and error.retry_after is not None)


def is_of_the_server(error: EngineError) -> bool:
    """It does not know the key, the model or the page: that says nothing of the call, which another
    one may answer. If none does, the call has failed at once, as it would anywhere."""
    status = error.status or 0
    return not error.retryable and (300 <= status < 400 or status in (401, 403, 404, 405))


def no_replicas(engine: str) -> EngineError:
    """A pool was made of nothing."""
    return EngineError(
        f"engine {engine}: it has no replicas; give at least one", engine=engine, retryable=False
    )
