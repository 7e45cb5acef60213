"""A pool under test: events by hand, actions compared, books checked after each."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from alto.core.calls import Usage
from alto.core.pool import CallPool
from alto.core.pool_events import Action, Began, Broke, Ended, Left, Refuse, Send, Submitted, Woke
from alto.core.prefix import Prompt
from alto.core.replicas import Limits
from alto.core.scheduling import CallId, ReplicaId
from alto.errors import AltoError, EngineError

SMALL = Prompt((), 400)


class Machine:
    """A pool under test: short words for events, books checked after each."""

    def __init__(self, replicas: int = 2, **options: Any) -> None:
        limits = options.pop("limits", {})
        options.setdefault("policy", "least-outstanding")
        self.core = CallPool(
            "chat",
            [f"r{n}" for n in range(replicas)],
            random=Random(1),
            limits=Limits(**limits),
            **options,
        )

    def tell(self, event: Any, now: float) -> list[Action]:
        actions = self.core.handle(event, now)
        self.core.check()
        return actions

    def submit(self, call: int, now: float = 0.0, **facts: Any) -> list[Action]:
        return self.tell(Submitted(CallId(call), facts.pop("prompt", SMALL), **facts), now)

    def began(self, call: int, replica: int, now: float) -> list[Action]:
        return self.tell(Began(CallId(call), ReplicaId(replica)), now)

    def ended(
        self, call: int, replica: int, now: float, usage: Usage | None = None
    ) -> list[Action]:
        return self.tell(Ended(CallId(call), ReplicaId(replica), 40, usage), now)

    def broke(self, call: int, replica: int, now: float, **more: Any) -> list[Action]:
        rest = {key: more.pop(key) for key in ("rest", "rest_tokens") if key in more}
        error = EngineError(more.pop("message", "connection refused"), **more)
        return self.tell(Broke(CallId(call), ReplicaId(replica), error, **rest), now)

    def left(self, call: int, now: float) -> list[Action]:
        return self.tell(Left(CallId(call)), now)

    def wake(self) -> tuple[float, list[Action]]:
        """Come back when the pool asks for it, until that leads to something.

        Calls that left may have left a time behind at which nothing happens.
        """
        actions: list[Action] = []
        at: float | None = 0.0
        while not actions and (at := self.core.wake_at()) is not None:
            actions = self.tell(Woke(), at)
        assert at is not None
        return at, actions


def send(call: int, replica: int) -> Send:
    return Send(CallId(call), ReplicaId(replica))


def calls(actions: Sequence[Action]) -> list[int]:
    return [action.call for action in actions if isinstance(action, Send)]


def refused(actions: Sequence[Action]) -> AltoError:
    (action,) = actions
    assert isinstance(action, Refuse)
    return action.error
