"""The pool's decisions: events by hand, actions compared."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from pool_machine import SMALL, Machine, calls, refused, send

from alto.core.calls import Usage
from alto.core.pool_events import (
    Action,
    Drop,
    Reported,
    Send,
    Woke,
)
from alto.core.prefix import Prompt, chain
from alto.core.scheduling import CallId, Candidate, Facts, Finished, Placed, ReplicaId
from alto.errors import DeadlineExceeded, EngineError, Overloaded


@pytest.fixture
def one() -> Machine:
    """One replica with room for one call."""
    return Machine(1, limits={"sequences_start": 1, "sequences_max": 1})


def test_a_call_goes_out_at_once_while_there_is_room() -> None:
    pool = Machine(2)
    (first,) = pool.submit(1)
    (second,) = pool.submit(2)
    assert isinstance(first, Send)
    assert isinstance(second, Send)
    assert {first.replica, second.replica} == {0, 1}
    assert pool.core.wake_at() is None


def test_a_call_waits_until_a_replica_has_room(one: Machine) -> None:
    assert one.submit(1) == [send(1, 0)]
    assert one.submit(2, 0.1) == []
    assert one.core.waiting == 1
    assert one.began(1, 0, 0.2) == []
    assert one.ended(1, 0, 1.0) == [send(2, 0)]
    assert one.core.waiting == 0


def test_prompts_that_wait_to_be_read_are_limited() -> None:
    pool = Machine(1, limits={"prefill_tokens_min": 1000, "prefill_wait_s": 0.0})
    big = Prompt((), 3600)
    assert pool.submit(1, prompt=big) == [send(1, 0)]
    assert pool.submit(2, prompt=big) == [send(2, 0)]
    assert pool.submit(3, prompt=big) == []
    assert pool.began(1, 0, 0.1) == [send(3, 0)]


def test_the_call_with_least_slack_goes_first(one: Machine) -> None:
    one.submit(1)
    one.submit(2, 0.1, deadline=20.0)
    one.submit(3, 0.2, deadline=10.0)
    one.submit(4, 0.3)
    order = [calls(one.left(call, 1.0)) for call in (1, 3, 2)]
    assert order == [[3], [2], [4]]


def test_among_calls_without_deadline_the_oldest_request_goes_first(one: Machine) -> None:
    one.submit(1, 0.0, request="old")
    one.submit(2, 1.0, request="young")
    one.submit(3, 2.0, request="old")
    assert calls(one.left(1, 3.0)) == [3]


def test_a_call_without_deadline_is_not_overtaken_for_ever(one: Machine) -> None:
    one.submit(0, 0.0)
    one.submit(1, 0.0)
    for n in range(2, 100):
        at = float(n)
        one.submit(n, at, deadline=at + 5)
        (sent,) = calls(one.left(n - 1 if n > 2 else 0, at))
        if sent == 1:
            break
    else:
        pytest.fail("overtaken by all calls with deadlines")
    assert at <= one.core.limits.patience_s


def at_home(letter: bytes) -> Prompt:
    return Prompt(chain(letter * 6000), 6000)


def test_with_a_queue_a_free_replica_takes_a_call_that_it_knows() -> None:
    limits = {"sequences_start": 1, "sequences_max": 1}
    pool = Machine(2, policy="prefix-affinity", limits=limits)
    (first,) = pool.submit(1, prompt=at_home(b"a"))
    pool.submit(2, prompt=at_home(b"b"))
    assert isinstance(first, Send)
    pool.submit(3, prompt=at_home(b"b"))
    pool.submit(4, prompt=at_home(b"a"))
    assert pool.ended(1, first.replica, 1.0) == [send(4, first.replica)]
    assert pool.ended(2, 1 - first.replica, 1.0) == [send(3, 1 - first.replica)]


def test_who_is_overtaken_too_often_or_is_due_much_sooner_goes_first() -> None:
    limits = {"sequences_start": 1, "sequences_max": 1}
    for sooner, turns in ((0.0, 16), (5.0, 0)):
        pool = Machine(1, policy="prefix-affinity", limits=limits)
        pool.submit(0, 5.0, prompt=at_home(b"a"))
        pool.submit(1000, 5.0 - sooner, prompt=at_home(b"b"))
        for call in range(1, 40):
            pool.submit(call, 5.0, prompt=at_home(b"a"))
        order = []
        running = 0
        while running != 1000:
            (running,) = calls(pool.ended(running, 0, 6.0))
            order.append(running)
        assert len(order) - 1 == turns


def test_one_call_too_many_is_refused() -> None:
    pool = Machine(1, limits={"waiting_max": 2, "sequences_start": 1, "sequences_max": 1})
    for call in (1, 2, 3):
        pool.submit(call)
    error = refused(pool.submit(4))
    assert isinstance(error, Overloaded)
    assert "waiting_max is 2" in str(error)
    assert error.retry_after is not None


def test_a_call_that_leaves_the_queue_is_gone_at_once(one: Machine) -> None:
    one.submit(1)
    for call in range(2, 300):
        one.submit(call)
    for call in range(2, 299):
        assert one.left(call, 0.5) == []
    assert one.core.waiting == 1
    assert len(one.core._waiting.queue) < 70
    assert calls(one.ended(1, 0, 1.0)) == [299]


def test_calls_that_are_gone_leave_no_deadlines_behind(one: Machine) -> None:
    one.submit(1)
    for call in range(2, 300):
        one.submit(call, deadline=1e9)
        assert one.left(call, 0.5) == []
    assert len(one.core._waiting._deadlines) < 70


def test_a_deadline_that_passes_in_the_queue_ends_the_call(one: Machine) -> None:
    one.submit(1)
    one.submit(2, 0.0, stage="verify", deadline=3.0)
    at, actions = one.wake()
    error = refused(actions)
    assert at == 3.0
    assert isinstance(error, DeadlineExceeded)
    assert "stage verify" in str(error)
    assert one.core.wake_at() is None


def test_room_that_comes_too_late_is_not_wasted_on_a_call_that_is_over(one: Machine) -> None:
    one.submit(1)
    one.submit(2, 0.0, deadline=3.0)
    one.submit(3, 0.0)
    actions = one.ended(1, 0, 3.5)
    assert calls(actions) == [3]
    assert isinstance(refused(actions[:1]), DeadlineExceeded)


def test_a_deadline_that_is_over_is_not_queued(one: Machine) -> None:
    assert isinstance(refused(one.submit(1, 5.0, deadline=5.0)), DeadlineExceeded)


def test_a_call_that_fails_before_it_begins_is_tried_elsewhere() -> None:
    pool = Machine(2)
    (first,) = pool.submit(1)
    assert isinstance(first, Send)
    assert pool.broke(1, first.replica, 0.1) == [send(1, 1 - first.replica)]


def test_a_failure_that_no_other_try_can_help_ends_the_call() -> None:
    pool = Machine(2)
    (first,) = pool.submit(1)
    assert isinstance(first, Send)
    error = refused(
        pool.broke(1, first.replica, 0.1, message="bad request", status=400, retryable=False)
    )
    assert str(error) == "bad request"


def test_on_the_only_replica_it_is_tried_again_after_pauses_that_grow() -> None:
    pool = Machine(1, limits={"failures_max": 10})
    pool.submit(1)
    pauses = []
    now = 0.0
    for _ in range(2):
        assert pool.broke(1, 0, now) == []
        at, actions = pool.wake()
        assert actions == [send(1, 0)]
        pauses.append(at - now)
        now = at
    error = refused(pool.broke(1, 0, now))
    assert 0.1 <= pauses[0] < 0.2 <= pauses[1] < 0.4
    assert isinstance(error, EngineError)
    assert "r0: connection refused" in str(error)


@pytest.mark.parametrize("status", [307, 401, 403, 404, 405])
def test_what_one_server_knows_nothing_of_another_is_asked(status: int) -> None:
    """It may serve another model, or be no LM server at all: that is no fault of the call."""
    pool = Machine(2)
    refusals = 0
    for call in range(40):
        (sent,) = pool.submit(call, 0.0)
        assert isinstance(sent, Send)
        if sent.replica == 0:
            refusals += 1
            assert pool.broke(call, 0, 0.0, status=status, retryable=False) == [send(call, 1)]
        pool.began(call, 1, 0.0)
        pool.ended(call, 1, 0.0)
    assert refusals == 3, "then it is left alone"
    assert pool.submit(50, 0.0) == [send(50, 1)]
    error = refused(pool.broke(50, 1, 0.0, status=status, retryable=False))
    assert str(error) == "connection refused", "nobody else is left to ask"
    assert pool.core.replicas[1].open_until is None, "and it is not left alone for that"


def test_when_no_server_knows_it_the_call_fails_at_once_and_names_them_all() -> None:
    pool = Machine(2, policy="round-robin")
    pool.submit(1)
    assert pool.broke(1, 0, 0.1, message="no model m", status=404, retryable=False) == [send(1, 1)]
    error = refused(pool.broke(1, 1, 0.2, message="no page", status=404, retryable=False))
    assert isinstance(error, EngineError)
    assert error.status == 404
    assert "r0: no model m; r1: no page" in str(error)


def test_the_last_error_names_every_replica_and_what_it_said() -> None:
    pool = Machine(2, limits={"tries_max": 2})
    (first,) = pool.submit(1, stage="answer")
    assert isinstance(first, Send)
    pool.broke(1, first.replica, 0.1, message="no route")
    error = refused(pool.broke(1, 1 - first.replica, 0.2, message="reset", status=502))
    assert isinstance(error, EngineError)
    assert f"r{first.replica}: no route" in str(error)
    assert f"r{1 - first.replica}: reset" in str(error)
    assert "stage answer" in str(error)
    assert error.status == 502
    assert error.__cause__ is not None


def open_replica(pool: Machine, replica: int, now: float) -> None:
    """Let it fail until it is left alone, with calls that nobody waits for."""
    state = pool.core.replicas[replica]
    number = 1000 * (replica + 1)
    while state.open_until is None:
        number += 1
        actions = pool.submit(number, now)
        while actions == [send(number, 1 - replica)]:
            pool.left(number, now)
            number += 1
            actions = pool.submit(number, now)
        pool.broke(number, replica, now, retryable=True)
        pool.left(number, now)


def test_a_replica_that_fails_again_and_again_is_left_alone() -> None:
    pool = Machine(2)
    open_replica(pool, 0, 1.0)
    assert [calls(pool.submit(n, 1.1)) for n in range(1, 4)] == [[1], [2], [3]]
    assert pool.core.replicas[0].sequences == 0


def test_after_a_while_one_call_probes_it_and_its_first_word_closes_the_case() -> None:
    pool = Machine(2)
    open_replica(pool, 0, 1.0)
    at = pool.core.replicas[0].open_until
    assert at is not None
    assert 1.9 <= at <= 2.1
    pool.submit(1, at)
    pool.submit(2, at)
    assert pool.core.replicas[0].sequences == 1
    probe = 1 if any(t.probe for t in pool.core._flights[CallId(1)].tries) else 2
    pool.began(probe, 0, at + 0.1)
    assert pool.core.replicas[0].open_until is None


def test_a_probe_that_fails_doubles_the_pause() -> None:
    pool = Machine(1, limits={"tries_max": 9, "dark_s": 100.0})
    pool.submit(1)
    now, pauses = 0.0, []
    for _ in range(7):
        pool.broke(1, 0, now)
        at, _ = pool.wake()
        pauses.append(at - now)
        now = at
    assert pauses[4] > 1.7 * pauses[3] > 3.0 * pauses[2]


def test_a_probe_whose_reader_leaves_makes_room_for_another() -> None:
    pool = Machine(1, limits={"failures_max": 1, "tries_max": 1})
    pool.submit(1)
    pool.broke(1, 0, 0.0)
    at = pool.core.replicas[0].open_until
    assert at is not None
    assert calls(pool.submit(2, at)) == [2]
    assert pool.submit(3, at) == []
    assert calls(pool.left(2, at + 0.1)) == [3]


def test_one_death_that_breaks_many_calls_counts_once() -> None:
    pool = Machine(1, limits={"tries_max": 1})
    for call in range(1, 21):
        pool.submit(call)
    for call in range(1, 21):
        pool.broke(call, 0, 1.0)
    assert pool.core.replicas[0].openings == 1


def test_calls_wait_when_all_replicas_are_down_but_not_for_ever() -> None:
    pool = Machine(2, limits={"failures_max": 1, "open_s": 60.0, "dark_s": 5.0})
    open_replica(pool, 0, 0.0)
    open_replica(pool, 1, 1.0)
    assert pool.submit(1, 2.0) == []
    at, actions = pool.wake()
    error = refused(actions)
    assert at == 6.0
    assert "r0: connection refused; r1: connection refused" in str(error)
    assert pool.submit(2, 7.0) == []
    assert pool.core.wake_at() == 6.0
    assert "connection refused" in str(refused(pool.wake()[1]))


def test_who_comes_when_it_has_been_dark_for_long_waits_for_the_probe() -> None:
    """Nobody was there to see that the replica is back; so it is not known to be still down."""
    pool = Machine(1, limits={"dark_s": 10.0})
    open_replica(pool, 0, 0.0)
    assert calls(pool.submit(8, 100.0)) == [8]
    assert pool.submit(9, 100.1) == []
    assert pool.tell(Woke(), 100.2) == []
    assert pool.core.wake_at() == 110.0
    assert calls(pool.began(8, 0, 101.0)) == [9]


def test_a_silent_probe_is_not_waited_for_for_ever() -> None:
    pool = Machine(1, limits={"dark_s": 10.0})
    open_replica(pool, 0, 0.0)
    pool.submit(8, 100.0)
    pool.submit(9, 100.1)
    assert "connection refused" in str(refused(pool.tell(Woke(), 110.0)))


def test_a_replica_that_comes_back_serves_who_waited() -> None:
    pool = Machine(2, limits={"failures_max": 1, "open_s": 2.0, "dark_s": 5.0})
    open_replica(pool, 0, 0.0)
    open_replica(pool, 1, 0.5)
    pool.submit(1, 1.0)
    pool.submit(2, 1.0)
    at, actions = pool.wake()
    assert actions == [send(1, 0)]
    assert calls(pool.began(1, 0, at + 0.1)) == [2]
    assert pool.core.wake_at() is None


def test_too_many_requests_is_no_failure_but_a_sign_of_less_room() -> None:
    pool = Machine(1, limits={"sequences_start": 8})
    for call in range(1, 5):
        pool.submit(call)
    assert pool.broke(4, 0, 0.1, status=429, retry_after=2.0) == []
    assert pool.core.replicas[0].failures == 0
    assert pool.core.replicas[0].sequences_limit == 3.0
    pool.left(1, 0.2)
    at, actions = pool.wake()
    assert at == pytest.approx(2.1)
    assert actions == [send(4, 0)]


def test_who_is_turned_away_again_and_again_gives_up() -> None:
    pool = Machine(1, limits={"busy_max": 3})
    pool.submit(1)
    at = 0.0
    for _ in range(3):
        assert pool.broke(1, 0, at, status=503, retry_after=1.0) == []
        at, actions = pool.wake()
        assert actions == [send(1, 0)]
    assert "4 times too busy" in str(refused(pool.broke(1, 0, at, status=429)))


def test_a_text_that_breaks_is_gone_on_with_elsewhere() -> None:
    pool = Machine(2)
    (first,) = pool.submit(1, max_tokens=100)
    assert isinstance(first, Send)
    pool.began(1, first.replica, 0.1)
    rest = Prompt((), 500)
    assert pool.broke(1, first.replica, 0.5, rest=rest, rest_tokens=60) == [
        send(1, 1 - first.replica)
    ]
    assert pool.core._flights[CallId(1)].max_tokens == 60


def test_a_text_that_breaks_and_cannot_be_resumed_fails_with_its_own_error() -> None:
    pool = Machine(2)
    (first,) = pool.submit(1)
    assert isinstance(first, Send)
    pool.began(1, first.replica, 0.1)
    assert str(refused(pool.broke(1, first.replica, 0.5, message="reset"))) == "reset"


def test_a_text_is_not_resumed_for_ever() -> None:
    pool = Machine(2, limits={"resumes_max": 2, "failures_max": 100})
    (action,) = pool.submit(1)
    for n in range(2):
        assert isinstance(action, Send)
        pool.began(1, action.replica, n + 0.1)
        (action,) = pool.broke(1, action.replica, n + 0.2, rest=SMALL)
    assert isinstance(action, Send)
    pool.began(1, action.replica, 3.0)
    assert "3 resumed" in str(refused(pool.broke(1, action.replica, 3.1, rest=SMALL)))


def hedging(replicas: int = 3) -> Machine:
    return Machine(replicas, hedge_s=1.0, limits={"hedge_ratio_max": 0.5})


def test_a_silent_replica_gets_a_rival_and_the_first_to_begin_wins() -> None:
    pool = hedging()
    (first,) = pool.submit(1)
    assert isinstance(first, Send)
    at, (second,) = pool.wake()
    assert at == 1.0
    assert isinstance(second, Send)
    assert second.replica != first.replica
    assert pool.began(1, second.replica, 1.2) == [Drop(CallId(1), first.replica)]
    assert pool.began(1, first.replica, 1.2) == []
    pool.ended(1, second.replica, 2.0)
    assert sum(replica.sequences for replica in pool.core.replicas) == 0


def test_a_hedged_call_survives_the_loss_of_either_try() -> None:
    pool = hedging()
    (first,) = pool.submit(1)
    assert isinstance(first, Send)
    _, (second,) = pool.wake()
    assert isinstance(second, Send)
    assert pool.broke(1, first.replica, 1.1) == []
    assert pool.began(1, second.replica, 1.2) == []


def test_a_call_that_began_is_not_hedged_and_hedges_are_few() -> None:
    pool = hedging()
    for call in (1, 2, 3, 4):
        (sent,) = pool.submit(call)
        assert isinstance(sent, Send)
        if call == 1:
            pool.began(1, sent.replica, 0.1)
    actions = pool.wake()[1]
    assert calls(actions) == [2, 3]
    assert pool.core.wake_at() is None


def test_a_replica_whose_first_words_come_far_too_late_gets_fewer_calls() -> None:
    pool = Machine(1)
    for call in range(1, 41):
        pool.submit(call)
    for call in range(1, 5):
        pool.began(call, 0, 0.1)
    for call in range(5, 41):
        pool.began(call, 0, 5.0)
    assert pool.core.replicas[0].sequences_limit < 32


def test_room_grows_while_first_words_come_in_time() -> None:
    pool = Machine(1, limits={"sequences_start": 4})
    number = 0
    for round_ in range(5):
        started = []
        while pool.submit(number := number + 1, round_):
            started.append(number)
        pool.left(number, round_)
        for call in started:
            pool.began(call, 0, round_ + 0.05)
        for call in started:
            pool.left(call, round_ + 0.5)
    assert pool.core.replicas[0].sequences_limit > 30


def test_a_faster_replica_is_known_by_its_calls() -> None:
    pool = Machine(2, policy="round-robin")
    for call in range(40):
        at = call * 10.0
        (sent,) = pool.submit(call, at)
        assert isinstance(sent, Send)
        speed = 2 if sent.replica == 0 else 1
        pool.began(call, sent.replica, at + 0.1 / speed)
        usage = Usage(prompt_tokens=100, completion_tokens=50)
        pool.ended(call, sent.replica, at + 2.1 / speed, usage)
    fast, slow = pool.core.replicas
    assert fast.step_s(1) * 2 == pytest.approx(slow.step_s(1), rel=0.1)
    assert slow.step_s(1) == pytest.approx(2.0 / 49, rel=0.1)
    assert fast.prefill_s * 2 == pytest.approx(slow.prefill_s, rel=0.1)


def test_a_replica_that_was_slow_once_is_tried_again_after_a_while() -> None:
    pool = Machine(2, policy="prompt-aware")

    def where(call: int, at: float) -> int:
        (sent,) = pool.submit(call, at)
        assert isinstance(sent, Send)
        first_s = 5.0 if sent.replica == 0 and at < 100 else 0.1
        pool.began(call, sent.replica, at + first_s)
        usage = Usage(prompt_tokens=100, completion_tokens=50)
        pool.ended(call, sent.replica, at + 2 * first_s, usage)
        return int(sent.replica)

    early = [where(call, call * 11.0) for call in range(9)]
    assert set(early[3:]) == {1}
    assert 0 in [where(call, call * 11.0) for call in range(9, 60)]


def test_what_others_send_is_seen_in_the_engines_own_metrics() -> None:
    pool = Machine(2)
    pool.tell(Reported(ReplicaId(0), running=5, waiting=0), 0.0)
    assert [calls(pool.submit(n)) for n in range(1, 6)]
    assert pool.core.replicas[0].sequences == 0
    assert pool.core.replicas[0].others == 5


def test_output_lengths_are_learned_stage_by_stage() -> None:
    pool = Machine(1)
    assert pool.core.texts.expected_tokens("verify", None) == 128.0
    assert pool.core.texts.expected_tokens("verify", 10) == 5.0
    for call in range(1, 4):
        pool.submit(call, call, stage="verify")
        pool.ended(call, 0, call + 0.5, Usage(prompt_tokens=100, completion_tokens=4))
    assert pool.core.texts.expected_tokens("verify", None) == 4.0
    assert pool.core.texts.expected_tokens("answer", None) == 128.0


@pytest.mark.parametrize(
    "lie",
    [
        Usage(-100, 10),
        Usage(100, -10),
        Usage(10**12, 10),
        Usage(100, 10**12),
        Usage(100, 10, cached_tokens=101),
        Usage(100, 10, cached_tokens=-1),
        Usage(100, 10, reasoning_tokens=11),
    ],
    ids=str,
)
def test_usage_that_cannot_be_true_teaches_nothing(lie: Usage) -> None:
    told, silent = Machine(1, policy="prompt-aware"), Machine(1, policy="prompt-aware")
    for pool, usage in ((told, lie), (silent, None)):
        for call in range(5):
            pool.submit(call, float(call), stage="s")
            pool.began(call, 0, call + 0.1)
            pool.ended(call, 0, call + 0.9, usage)
    assert learned(told) == learned(silent)


def learned(pool: Machine) -> list[float]:
    texts, replica = pool.core.texts, pool.core.replicas[0]
    return [
        texts.tokens_per_byte.value,
        texts.tokens_per_char.value,
        texts.expected_tokens("s", None),
        replica.prefill_s,
        replica.step_s(1),
        replica.cache.index.bytes_max,
    ]


def test_an_answer_with_more_tokens_than_letters_teaches_nothing_about_letters() -> None:
    pool = Machine(1)
    pool.submit(1)
    pool.ended(1, 0, 1.0, Usage(100, 5000))  # the rest was thinking that it does not show
    assert pool.core.texts.tokens_per_char.value == 0.25


def test_tokens_per_byte_are_learned_from_usage() -> None:
    pool = Machine(1)
    for call in range(1, 40):
        pool.submit(call, call)
        pool.ended(call, 0, call + 0.5, Usage(prompt_tokens=200, completion_tokens=20))
    assert pool.core.texts.tokens_per_byte.value == pytest.approx(0.5, rel=0.1)
    assert pool.core.texts.tokens_per_char.value == pytest.approx(0.5, rel=0.1)


def test_a_warm_replica_takes_a_call_that_a_cold_one_of_equal_load_would() -> None:
    pool = Machine(2, policy="prompt-aware")
    prompt = Prompt(chain(b"t" * 6000), 6000)
    (first,) = pool.submit(1, prompt=prompt, max_tokens=10)
    assert isinstance(first, Send)
    pool.began(1, first.replica, 0.1)
    for call in range(2, 6):
        assert pool.submit(call, 0.2, prompt=prompt, max_tokens=10) == [send(call, first.replica)]


def test_a_policy_that_fails_ends_its_call_and_nothing_else() -> None:
    class Wild:
        def choose(
            self, candidates: Sequence[Candidate], facts: Facts, now: float, random: Random
        ) -> int:
            return 7 if facts.stage == "bad" else 0

        def observe(self, seen: Placed | Finished) -> None:
            if isinstance(seen, Finished):
                raise RuntimeError("no room in my notebook")
            if seen.facts.stage == "placed":
                raise RuntimeError("what place?")

    pool = Machine(2, policy=Wild())
    assert pool.submit(1) == [send(1, 0)]
    error = refused(pool.submit(2, stage="bad"))
    assert isinstance(error, EngineError)
    assert not error.retryable
    assert "choose()" in str(error)
    assert "chose 7 of 2 candidates" in str(error)
    assert "observe() of scheduling policy" in str(refused(pool.submit(3, stage="placed")))
    assert "no room in my notebook" in str(refused(pool.ended(1, 0, 1.0)))


def test_a_pool_without_replicas_is_refused() -> None:
    with pytest.raises(EngineError, match="has no replicas"):
        Machine(0)


def test_events_of_calls_that_are_gone_change_nothing() -> None:
    pool = Machine(2)
    pool.submit(1)
    pool.left(1, 0.1)
    for actions in (
        pool.began(1, 0, 0.2),
        pool.ended(1, 0, 0.2),
        pool.broke(1, 0, 0.2),
        pool.left(1, 0.2),
    ):
        assert actions == []


def test_the_requests_longest_unheard_of_are_forgotten_first() -> None:
    pool = Machine(1, limits={"requests_remembered_max": 2})
    for n, request in enumerate(("a", "b", "a", "c")):
        pool.submit(n, float(n), request=request)
    since = {name: known.since for name, known in pool.core._requests._known.items()}
    assert since == {"a": 0.0, "c": 3.0}


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_the_books_agree_and_a_replay_does_the_same(seed: int) -> None:
    """A random life: every event at a random time, `check()` after each."""
    # Errors are equal only to themselves, so their texts are compared.
    assert repr(life(seed)) == repr(life(seed))


def life(seed: int) -> list[Action]:
    random = Random(seed)
    pool = Machine(
        random.randint(1, 4),
        policy=random.choice(("round-robin", "prefix-affinity", "prompt-aware")),
        hedge_s=random.choice((None, 0.5)),
        limits={
            "sequences_start": random.randint(1, 4),
            "waiting_max": random.randint(3, 20),
            "failures_max": random.randint(1, 3),
            "dark_s": 2.0,
            "cache_tokens": random.choice((0, 2000)),
        },
    )
    log: list[Action] = []
    tries: dict[tuple[int, int], bool] = {}
    now, number = 0.0, 0

    def take(actions: Sequence[Action]) -> None:
        log.extend(actions)
        for action in actions:
            if isinstance(action, Send):
                tries[action.call, action.replica] = False
            elif isinstance(action, Drop):
                del tries[action.call, action.replica]
            else:
                assert not any(call == action.call for call, _ in tries)

    for _ in range(300):
        now += random.expovariate(5.0)
        while (at := pool.core.wake_at()) is not None and at <= now:
            take(pool.tell(Woke(), at))
        kind = random.choice(("submit", "submit", "begin", "end", "break", "leave"))
        if kind == "submit" or not tries:
            number += 1
            prompt = Prompt(chain(bytes([random.randrange(3)]) * 2000), 2000)
            deadline = random.choice((None, now + random.uniform(0.1, 5.0)))
            take(pool.submit(number, now, prompt=prompt, deadline=deadline, stage="s"))
            continue
        call, replica = random.choice(list(tries))
        if kind == "begin":
            if not tries[call, replica]:
                tries[call, replica] = True
                take(pool.began(call, replica, now))
        elif kind == "end":
            del tries[call, replica]
            usage = Usage(500, random.randint(1, 50), random.choice((0, 480)))
            take(pool.ended(call, replica, now, random.choice((None, usage))))
        elif kind == "break":
            began = tries.pop((call, replica))
            rest = {"rest": SMALL} if began and random.random() < 0.5 else {}
            status = random.choice((None, 429, 500))
            retryable = random.random() < 0.8
            take(pool.broke(call, replica, now, status=status, retryable=retryable, **rest))
        else:
            for key in [key for key in tries if key[0] == call]:
                del tries[key]
            take(pool.left(call, now))
    for call in list(pool.core._flights):
        pool.left(call, now)
    pool.core.check()
    assert pool.core.waiting == 0
    assert not any(replica.sequences for replica in pool.core.replicas)
    return log


def test_all_replicas_are_tried_though_the_first_looks_fast() -> None:
    """All are twice as fast as thought before. Who is measured first must not keep the others from being."""
    pool = Machine(3, policy="prompt-aware")
    sent: list[int] = []
    for call in range(30):
        (send,) = pool.submit(call, float(call))
        assert isinstance(send, Send)
        sent.append(send.replica)
        pool.began(call, send.replica, call + 0.05)
        pool.ended(call, send.replica, call + 0.55, Usage(prompt_tokens=100, completion_tokens=50))
    assert set(sent) == {0, 1, 2}
