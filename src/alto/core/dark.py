"""Are all replicas down, and since when have calls waited for one to come back?"""

from __future__ import annotations

from collections.abc import Sequence

from .replicas import ReplicaState


class Dark:
    """It is dark while every replica is open. Calls wait for light for `wait_s` at the most."""

    def __init__(self, replicas: Sequence[ReplicaState], wait_s: float) -> None:
        self._replicas = replicas
        self._wait_s = wait_s
        self._since: float | None = None

    @property
    def ends_at(self) -> float | None:
        """When those who wait give up; None while a replica is well.

        One that is probed may be well again, so the probe is waited for, but no longer than that.
        """
        if self._since is None:
            return None
        return max(self._since, *(one.probed_at or 0.0 for one in self._replicas)) + self._wait_s

    def look(self, now: float) -> None:
        """A replica failed: notice the moment when the last one went out."""
        if self._since is None and all(one.open_until is not None for one in self._replicas):
            self._since = now

    def lit(self) -> None:
        """A replica that was open answered."""
        self._since = None
