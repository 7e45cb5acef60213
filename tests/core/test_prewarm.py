"""Growing prompts: what is sent ahead, when, and where the call goes then. Events and actions."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from alto.core.calls import Usage
from alto.core.pool import CallPool
from alto.core.pool_events import (
    Action,
    Began,
    Broke,
    Drop,
    Ended,
    Grew,
    Left,
    Send,
    Submitted,
    Warm,
    Warmed,
    Woke,
)
from alto.core.prefix import Prompt, chain
from alto.core.rate import Rate
from alto.core.replicas import Limits
from alto.core.scheduling import CallId, Candidate, Facts, ReplicaId
from alto.errors import EngineError

POLICIES = ["round-robin", "least-outstanding", "prefix-affinity", "prompt-aware"]


def text(tokens: int, of: str = "a") -> Prompt:
    """A prompt of so many tokens, four bytes each. Two texts begin alike if `of` is the same."""
    data = (of * 4 * tokens).encode()
    return Prompt(chain(data), len(data))


class Machine:
    """A pool whose books are checked after each event."""

    def __init__(self, replicas: int = 2, policy: Any = "prompt-aware", **limits: Any) -> None:
        self.core = CallPool(
            "chat",
            [f"r{n}" for n in range(replicas)],
            policy=policy,
            random=Random(1),
            rate=limits.pop("rate", None),
            limits=Limits(**limits),
        )

    def tell(self, event: Any, now: float) -> list[Action]:
        actions = self.core.handle(event, now)
        self.core.check()
        return actions

    def grew(self, call: int, tokens: int, now: float = 0.0, **more: Any) -> list[Action]:
        prompt = text(tokens, more.pop("of", "a"))
        return self.tell(Grew(CallId(call), prompt, **more), now)

    def warmed(self, call: int, replica: int, now: float, **more: Any) -> list[Action]:
        return self.tell(Warmed(CallId(call), ReplicaId(replica), **more), now)

    def submit(self, call: int, tokens: int, now: float = 0.0, **more: Any) -> list[Action]:
        prompt = text(tokens, more.pop("of", "a"))
        return self.tell(Submitted(CallId(call), prompt, **more), now)

    def began(self, call: int, replica: int, now: float) -> list[Action]:
        return self.tell(Began(CallId(call), ReplicaId(replica)), now)

    def ended(self, call: int, replica: int, now: float) -> list[Action]:
        return self.tell(Ended(CallId(call), ReplicaId(replica), 40), now)

    def left(self, call: int, now: float) -> list[Action]:
        return self.tell(Left(CallId(call)), now)

    def books(self) -> list[tuple[int, float]]:
        return [(one.sequences, one.prefill_tokens) for one in self.core.replicas]


def warm(call: int, replica: int) -> Warm:
    return Warm(CallId(call), ReplicaId(replica))


def send(call: int, replica: int) -> Send:
    return Send(CallId(call), ReplicaId(replica))


def home_of(actions: Sequence[Action]) -> int:
    (action,) = actions
    assert isinstance(action, Warm)
    return action.replica


# ---------------------------------------------------------------------- what is worth it


@pytest.mark.parametrize(("tokens", "sent"), [(100, False), (511, False), (512, True)])
def test_a_prompt_is_sent_ahead_once_there_is_enough_of_it(tokens: int, sent: bool) -> None:
    pool = Machine(1)
    assert pool.grew(1, tokens) == ([warm(1, 0)] if sent else [])
    assert pool.books() == ([(1, tokens)] if sent else [(0, 0.0)])


def test_what_a_replica_knows_already_is_not_sent_ahead() -> None:
    pool = Machine(1)
    pool.submit(1, 4000)
    pool.began(1, 0, 1.0)
    pool.ended(1, 0, 2.0)
    assert pool.grew(2, 4000, 3.0) == []
    assert pool.grew(2, 4300, 3.1) == []
    assert pool.grew(2, 5000, 3.2) == [warm(2, 0)]


def test_only_what_is_new_since_the_last_time_counts() -> None:
    pool = Machine(1)
    assert pool.grew(1, 600) == [warm(1, 0)]
    assert pool.warmed(1, 0, 0.1) == []
    assert pool.grew(1, 1000, 1.0) == []
    assert pool.grew(1, 1200, 2.0) == [warm(1, 0)]


def test_the_next_one_waits_for_the_last_one_and_for_the_pause() -> None:
    pool = Machine(1, prewarm_pause_s=0.5)
    assert pool.grew(1, 600, 0.0) == [warm(1, 0)]
    assert pool.grew(1, 1200, 0.1) == []  # one is under way
    assert pool.warmed(1, 0, 0.2) == []  # the pause is not over
    assert pool.core.wake_at() == 0.5
    assert pool.tell(Woke(), 0.5) == [warm(1, 0)]
    assert pool.core.wake_at() is None


def test_a_replica_that_has_other_prompts_to_read_is_left_alone() -> None:
    pool = Machine(1)
    pool.submit(1, 100, of="b")
    assert pool.grew(2, 5000, 0.1) == []
    assert pool.core.wake_at() is None
    assert pool.began(1, 0, 0.2) == [warm(2, 0)]  # it writes now: nothing waits to be read


@pytest.mark.parametrize(("writers", "sent"), [(1, True), (2, False)])
def test_those_who_write_there_are_not_held_up_for_more_than_it_saves(
    writers: int, sent: bool
) -> None:
    pool = Machine(1)
    for call in range(writers):
        pool.submit(call, 100, request=f"request {call}")
        pool.began(call, 0, 0.1)
    assert pool.grew(9, 5000, 0.2) == ([warm(9, 0)] if sent else [])
    if not sent:
        assert pool.ended(0, 0, 0.3) == [warm(9, 0)]


def test_two_growing_prompts_go_to_two_replicas_and_a_third_waits() -> None:
    pool = Machine(2)
    first, second = home_of(pool.grew(1, 600)), home_of(pool.grew(2, 600, of="b"))
    assert {first, second} == {0, 1}
    assert pool.grew(3, 600, of="c") == []
    assert pool.warmed(1, first, 0.1) == [warm(3, first)]


def test_while_calls_wait_nothing_is_sent_ahead() -> None:
    pool = Machine(1, sequences_start=1, sequences_max=1)
    assert pool.submit(1, 100) == [send(1, 0)]
    pool.began(1, 0, 0.1)
    pool.submit(2, 100, 0.2)  # waits
    assert pool.grew(3, 5000, 0.3) == []
    assert pool.ended(1, 0, 1.0) == [send(2, 0)]
    pool.began(2, 0, 1.1)
    assert pool.ended(2, 0, 2.0) == [warm(3, 0)]


def test_so_many_growing_calls_are_looked_at_and_not_one_more() -> None:
    pool = Machine(4, prewarms_max=2)
    assert pool.grew(1, 600, of="a")
    assert pool.grew(2, 600, of="b")
    assert pool.grew(3, 600, of="c") == []
    pool.left(1, 0.1)
    assert pool.grew(3, 700, 0.2, of="c")


def test_where_tokens_are_limited_per_minute_none_is_spent_on_prewarming() -> None:
    pool = Machine(1, rate=Rate(None, 10**6))
    assert pool.grew(1, 5000) == []
    assert pool.submit(1, 5000, 0.1) == [send(1, 0)]


# ---------------------------------------------------------------------- the call follows


@pytest.mark.parametrize("policy", POLICIES)
def test_the_call_goes_where_its_prompt_is(policy: str) -> None:
    pool = Machine(4, policy)
    home = home_of(pool.grew(1, 4000))
    pool.warmed(1, home, 0.3)
    pool.grew(1, 8000, 0.4)
    pool.warmed(1, home, 0.7)
    assert pool.submit(1, 8200, 0.8) == [send(1, home)]


@pytest.mark.parametrize("policy", POLICIES[1:])  # whose turn it is has nothing to do with load
@pytest.mark.parametrize(("others", "follows"), [(4, True), (5, False)])
def test_unless_it_is_swamped(policy: str, others: int, follows: bool) -> None:
    pool = Machine(2, policy)
    home = home_of(pool.grew(1, 600))
    pool.warmed(1, home, 0.1)
    pool.core.replicas[home].reported(others, 0, 0.1)  # the other one has none
    assert pool.submit(1, 700, 0.8) == [send(1, home if follows else 1 - home)]


@pytest.mark.parametrize("policy", POLICIES)
def test_but_not_if_there_is_no_room(policy: str) -> None:
    pool = Machine(2, policy, sequences_start=1, sequences_max=1)
    home = home_of(pool.grew(1, 4000))
    pool.warmed(1, home, 0.3)
    pool.core.replicas[home].hold_until = 9.0  # too busy, it says
    assert pool.submit(1, 8200, 0.8) == [send(1, 1 - home)]


def test_a_prewarm_counts_for_nothing_that_is_waited_for() -> None:
    pool = Machine(1)
    pool.grew(1, 2000)
    assert pool.core.replicas[0].weight == 0.0
    assert pool.core.waiting == 0


# ---------------------------------------------------------------------- its end


@pytest.mark.parametrize("policy", POLICIES)
def test_a_prewarm_under_way_ends_when_the_call_is_submitted(policy: str) -> None:
    pool = Machine(2, policy)
    home = home_of(pool.grew(1, 3000))
    assert pool.submit(1, 3100, 0.1) == [send(1, home)]
    assert pool.core.replicas[home].sequences == 1  # the call's own
    assert pool.warmed(1, home, 0.2) == []  # late news changes nothing
    pool.began(1, home, 0.3)
    pool.ended(1, home, 0.4)
    assert pool.books() == [(0, 0.0), (0, 0.0)]


def test_or_when_it_is_left() -> None:
    pool = Machine(1)
    assert pool.grew(1, 3000) == [warm(1, 0)]
    assert pool.left(1, 0.1) == []
    assert pool.books() == [(0, 0.0)]
    assert pool.core.wake_at() is None


def test_prewarms_make_way_for_a_call_that_finds_no_room() -> None:
    pool = Machine(1)
    assert pool.grew(1, 50_000) == [warm(1, 0)]  # more than a replica is given to read at once
    assert pool.submit(2, 100, 0.1, of="b") == [Drop(CallId(1), ReplicaId(0)), send(2, 0)]
    assert pool.books() == [(1, 100)]
    assert pool.grew(1, 51_000, 0.2) == []  # not before the other prompt is read
    assert pool.began(2, 0, 0.3) == [warm(1, 0)]


def test_a_call_that_is_refused_at_once_leaves_no_prewarm() -> None:
    pool = Machine(1)
    assert pool.grew(1, 3000, deadline=1.0) == [warm(1, 0)]
    (refused,) = pool.submit(1, 3100, 2.0, deadline=1.0)
    assert type(refused).__name__ == "Refuse"
    assert pool.books() == [(0, 0.0)]


def test_a_failed_prewarm_does_not_count_against_the_replica() -> None:
    pool = Machine(1, failures_max=1)
    assert pool.grew(1, 3000) == [warm(1, 0)]
    assert pool.warmed(1, 0, 0.1, failed=True) == []
    (replica,) = pool.core.replicas
    assert (replica.failures, replica.open_until) == (0, None)
    assert pool.grew(1, 6000, 1.0) == []  # not there again
    assert pool.submit(1, 6000, 1.1) == [send(1, 0)]  # it is the only one


def test_but_its_call_is_tried_elsewhere_first() -> None:
    pool = Machine(2)
    home = home_of(pool.grew(1, 3000))
    pool.warmed(1, home, 0.1, failed=True)
    assert pool.grew(1, 3600, 0.2) == [warm(1, 1 - home)]
    pool.warmed(1, 1 - home, 0.3, failed=True)
    assert pool.grew(1, 9000, 0.4) == []
    (sent,) = pool.submit(1, 9000, 0.5)
    assert isinstance(sent, Send)


def test_when_its_replica_breaks_it_begins_again_on_another() -> None:
    pool = Machine(2, failures_max=1)
    home = home_of(pool.grew(1, 3000))
    pool.warmed(1, home, 0.1)
    pool.core.replicas[1 - home].hold_until = 0.15
    (sent,) = pool.submit(2, 100, 0.1, of="b")
    pool.tell(Broke(CallId(2), ReplicaId(home), EngineError("reset")), 0.2)
    assert isinstance(sent, Send)
    assert sent.replica == home
    pool.left(2, 0.3)
    assert pool.grew(1, 3100, 0.4) == [warm(1, 1 - home)]


# ---------------------------------------------------------------------- templates, before any call


def test_templates_are_dealt_over_the_replicas_once_each() -> None:
    pool = Machine(2)
    first = home_of(pool.grew(1, 600, alone=True))
    assert pool.grew(2, 600, of="b", alone=True) == [warm(2, 1 - first)]
    assert pool.grew(3, 600, of="c", alone=True) == []
    assert pool.warmed(1, first, 0.1) == [warm(3, first)]
    pool.warmed(2, 1 - first, 0.2)
    pool.warmed(3, first, 0.3)
    assert not pool.core.ahead.calls
    assert pool.core.wake_at() is None


def test_a_template_that_is_known_is_forgotten() -> None:
    pool = Machine(1)
    pool.submit(1, 4000)
    pool.began(1, 0, 0.1)
    assert pool.grew(2, 3900, 0.2, alone=True) == []
    assert not pool.core.ahead.calls


def test_one_that_has_to_make_way_is_left_to_the_calls() -> None:
    pool = Machine(1)
    assert pool.grew(1, 50_000, alone=True) == [warm(1, 0)]
    assert pool.submit(2, 100, 0.1, of="b") == [Drop(CallId(1), ReplicaId(0)), send(2, 0)]
    assert not pool.core.ahead.calls
    assert pool.began(2, 0, 0.2) == []


# ---------------------------------------------------------------------- what is learned


def test_the_engines_counts_teach_the_pool_like_those_of_a_call() -> None:
    pool = Machine(1)
    pool.grew(1, 3000)
    before = pool.core.replicas[0].prefill_s
    usage = Usage(prompt_tokens=6000, completion_tokens=1, calls=1)
    pool.warmed(1, 0, 3.0, usage=usage)  # a second for a thousand tokens
    assert pool.core.replicas[0].prefill_s > 2 * before
    assert pool.core.texts.tokens_per_byte.value > 0.25


def test_the_policy_is_asked_where_and_hears_of_calls_only() -> None:
    seen: list[Any] = []

    class Last:
        def choose(
            self, candidates: Sequence[Candidate], facts: Facts, now: float, random: Random
        ) -> int:
            seen.append((facts.prompt_tokens, [one.replica for one in candidates]))
            return len(candidates) - 1

        def observe(self, one: Any) -> None:
            seen.append(type(one).__name__)

    pool = Machine(3, Last())
    assert pool.grew(1, 600) == [warm(1, 2)]
    pool.warmed(1, 2, 0.1)
    assert pool.grew(1, 1200, 0.2) == [warm(1, 2)]
    pool.warmed(1, 2, 0.3)
    assert seen == [(600, [0, 1, 2]), (1200, [2])]
    pool.submit(1, 1300, 0.4)
    pool.began(1, 2, 0.5)
    pool.ended(1, 2, 0.6)
    assert seen[2:] == [(1300, [2]), "Placed", "Finished"]


def test_a_policy_that_raises_is_told_of_by_the_call_itself() -> None:
    class Broken:
        def choose(self, *_: Any) -> int:
            raise ValueError("no idea")

        def observe(self, _: Any) -> None: ...

    pool = Machine(2, Broken())
    assert pool.grew(1, 3000) == []
    (refused,) = pool.submit(1, 3000)
    assert "no idea" in str(getattr(refused, "error"))  # noqa: B009
