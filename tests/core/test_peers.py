"""What pools before the same replicas tell each other: values in, values out."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import msgspec
import pytest

from alto.core.calls import Usage
from alto.core.cost import Place
from alto.core.peer_load import BLOCKS_TOLD_MAX, Told
from alto.core.peers import ReplicaSummary, Summary
from alto.core.pool import CallPool
from alto.core.pool_events import Action, Began, Ended, Heard, Reported, Send, Submitted, Woke
from alto.core.prefix import PrefixIndex, Prompt, chain
from alto.core.replicas import Limits, places_of
from alto.core.scheduling import CallId, ReplicaId

SMALL = Prompt((), 400)
LETTER = chain(b"a" * 4000)


def pool(replicas: int = 2, *, policy: Any = "least-outstanding", **limits: Any) -> CallPool:
    names = [f"r{n}" for n in range(replicas)]
    return CallPool("chat", names, policy=policy, random=Random(1), limits=Limits(**limits))


def on(name: str, sequences: int = 0, **more: Any) -> ReplicaSummary:
    more.setdefault("weight", float(sequences))
    return ReplicaSummary(name, sequences, **{"prefill_tokens": 0.0, "read_tokens": 0.0, **more})


def hear(
    core: CallPool, *said: ReplicaSummary, now: float = 0.0, number: int = 1, **more: Any
) -> list[Action]:
    demand = more.pop("demand", sum(each.sequences for each in said))
    actions = core.handle(Heard(more.pop("peer", "b"), Summary(number, demand, said)), now)
    core.check()
    return actions


def submit(core: CallPool, *calls: int, now: float = 0.0, prompt: Prompt = SMALL) -> list[int]:
    """Where they were sent, in order."""
    actions = [
        action
        for call in calls
        for action in core.handle(Submitted(CallId(call), prompt, "s", f"q{call}"), now)
    ]
    core.check()
    return sent(actions)


def sent(actions: list[Action]) -> list[int]:
    return [action.replica for action in actions if isinstance(action, Send)]


def seen(core: CallPool) -> list[Place]:
    return places_of(core.replicas, (), 0.25)


def test_calls_of_others_count_as_load() -> None:
    core = pool()
    hear(core, on("r0", 3, weight=2.0, prefill_tokens=500.0))
    first, second = seen(core)
    assert (first.running, first.weight, first.prefill_tokens) == (3, 2.0, 500.0)
    assert (second.running, second.weight, second.prefill_tokens) == (0, 0.0, 0.0)
    assert first.step_s > second.step_s
    assert submit(core, 1, 2, 3) == [1, 1, 1]


def test_several_others_add_up() -> None:
    core = pool()
    hear(core, on("r0", 3), peer="b")
    hear(core, on("r0", 2), on("r1", 4), peer="c")
    assert [each.running for each in seen(core)] == [5, 4]


def test_of_a_change_only_a_part_is_believed_at_a_time() -> None:
    core = pool()
    hear(core, on("r0", 8))
    told = []
    for number in range(2, 6):
        hear(core, on("r0", 0), number=number)
        told.append(core.replicas[0].peers.sequences)
    assert told == [4.0, 2.0, 1.0, 0.5]


def test_with_more_pools_the_part_is_smaller() -> None:
    core = pool()
    for peer in "bcd":
        hear(core, on("r0", 8), peer=peer)
    hear(core, on("r0", 0), peer="b", number=2)
    assert core.replicas[0].peers.sequences == 24 - 8 / 4


def test_room_is_for_all_together() -> None:
    core = pool(1, sequences_start=4, sequences_max=4)
    hear(core, on("r0", 3), demand=30)
    assert submit(core, 1, 2, 3) == [0]
    assert core.waiting == 2
    # A half of the change is believed: of 3, one has gone.
    assert sent(hear(core, on("r0", 1), number=3, now=0.1, demand=30)) == [0]


def test_room_for_prompts_is_for_all_together() -> None:
    limits = {"prefill_tokens_min": 1000, "prefill_wait_s": 0.0}
    core = pool(1, **limits)
    hear(core, on("r0", 5, prefill_tokens=990.0), demand=50)
    big = Prompt((), 400)
    assert submit(core, 1, 2, prompt=big) == [0]
    assert core.handle(Began(CallId(1), ReplicaId(0)), 0.1) == [Send(CallId(2), ReplicaId(0))]


@pytest.mark.parametrize(("demand", "own"), [(0, 4), (4, 3), (12, 2), (1000, 1)])
def test_a_pool_may_always_use_its_part_of_the_room(demand: int, own: int) -> None:
    """The others have filled the replica, but a part of it belongs to this pool by its demand. One
    call at least always goes, whatever the others say."""
    core = pool(1, sequences_start=4, sequences_max=4)
    hear(core, on("r0", 100), demand=demand)
    submit(core, 1, 2, 3, 4)
    hear(core, on("r0", 100), demand=demand, number=2)
    assert core.replicas[0].sequences == own


def test_who_is_silent_for_too_long_is_forgotten_with_all_it_had() -> None:
    core = pool(1, sequences_start=4, sequences_max=4, peer_silence_s=2.0)
    hear(core, on("r0", 100, prefill_tokens=1e6), now=5.0)
    assert submit(core, 1, 2, now=6.0) == [0]
    assert core.wake_at() == 7.0
    assert sent(core.handle(Woke(), 7.0)) == [0]
    core.check()
    assert seen(core)[0].prefill_tokens == 200.0
    assert core.replicas[0].share == 1.0
    assert core.wake_at() is None


def test_who_leaves_is_forgotten_at_once() -> None:
    core = pool(1, sequences_start=4, sequences_max=4)
    hear(core, on("r0", 100), now=5.0)
    submit(core, 1, 2, now=5.0)
    assert sent(core.handle(Heard("b", None), 5.1)) == [0]
    assert core.handle(Heard("never heard of", None), 5.2) == []


def test_what_was_overtaken_by_news_is_dropped() -> None:
    core = pool()
    hear(core, on("r0", 2), number=7)
    hear(core, on("r0", 50), number=6, now=0.5)
    hear(core, on("r0", 50), number=7, now=0.5)
    assert seen(core)[0].running == 2
    assert core.wake_at() == core.limits.peer_silence_s


def test_of_too_many_others_the_longest_unheard_is_forgotten() -> None:
    core = pool(peers_max=2)
    for at, peer in enumerate("bcd"):
        hear(core, on("r0", 10**at), peer=peer, now=float(at))
    assert seen(core)[0].running == 110


@pytest.mark.parametrize("lie", [math.nan, math.inf, -math.inf, -5.0, 1e300])
def test_a_lie_cannot_break_the_books(lie: float) -> None:
    core = pool(policy="prompt-aware")
    said: Any = ReplicaSummary("r0", lie, lie, lie, lie, ((1, 2), (99 << 32,), LETTER[1:]), lie)  # type: ignore[arg-type]
    for number in (1, 2):
        hear(core, said, on("no such replica", 9), number=number, demand=lie)
    for each in seen(core):
        assert 0 <= each.running <= 1e9
        assert 0 <= each.weight <= 1e9
        assert 0 <= each.prefill_tokens <= 1e9
        assert math.isfinite(each.step_s)
    assert len(submit(core, 1, 2)) == 2  # on r1, or on the part of r0 that is its own
    assert core.replicas[0].cache.index.size == 0  # type: ignore[union-attr]


def test_the_engines_metrics_count_nobody_twice() -> None:
    core = pool()
    submit(core, 1, 2)
    hear(core, on("r0", 3))
    core.handle(Reported(ReplicaId(0), running=6, waiting=0), 1.0)
    assert core.replicas[0].others == 2  # 6, less one of its own and the three that were told
    assert seen(core)[0].running == 6
    core.handle(Reported(ReplicaId(0), running=2, waiting=0), 2.0)
    assert core.replicas[0].others == 0


def test_a_queue_behind_the_replicas_door_is_everybodys_who_tells() -> None:
    core = pool(1)
    submit(core, 1, 2)
    hear(core, on("r0", 6))
    core.handle(Reported(ReplicaId(0), running=6, waiting=2), 1.0)
    assert core.replicas[0].sequences_limit == 0.75 * 8


def test_what_others_sent_there_is_warm_there() -> None:
    core = pool(policy="prompt-aware")
    hear(core, on("r1", 0, prompts=(LETTER,)))
    assert submit(core, 1, 2, prompt=Prompt(LETTER, 4000)) == [1, 1]


def room(core: CallPool) -> int:
    index = core.replicas[0].cache.index
    assert isinstance(index, PrefixIndex)
    return index.bytes_max


def test_what_one_pool_did_not_find_in_a_cache_all_believe_in_less() -> None:
    """Two calls of one pool: the prompt that it sent a moment ago is gone."""
    one, other = pool(1, policy="prompt-aware"), pool(1, policy="prompt-aware")
    hear(one, on("r0"))
    one.peers.summary()
    for call, cached in ((1, 400), (2, 400), (3, 0)):
        now = float(call)
        submit(one, call, now=now, prompt=Prompt(LETTER, 4000))
        one.handle(Began(CallId(call), ReplicaId(0)), now + 0.1)
        one.handle(Ended(CallId(call), ReplicaId(0), 40, Usage(1000, 10, cached)), now + 0.5)
    (said,) = one.peers.summary().replicas
    assert said.cache_bytes == room(one) < room(other)
    hear(other, said)
    assert room(other) == room(one)
    assert other.peers.summary().replicas[0].cache_bytes == 0
    assert one.peers.summary().replicas[0].cache_bytes == 0


def test_a_pool_raises_the_limit_for_the_calls_that_it_does_not_see() -> None:
    """Of the calls there a fourth is its own. Each first token of those that comes in time stands
    for four."""
    core = pool(1, sequences_start=8)
    hear(core, on("r0", 3), demand=6)
    submit(core, 1)
    hear(core, on("r0", 3), demand=6, number=2)
    assert core.replicas[0].share == 0.25
    core.handle(Began(CallId(1), ReplicaId(0)), 0.01)
    assert core.replicas[0].sequences_limit == 8 + 4


def test_a_late_first_token_is_blamed_on_all_that_run_there_not_on_what_was_known_of() -> None:
    """The call was sent when nothing was heard of others. Eight of theirs held it up."""
    core = pool(1, sequences_start=16)
    submit(core, 1, 2)
    hear(core, on("r0", 8), now=0.5)
    core.handle(Began(CallId(2), ReplicaId(0)), 5.0)
    assert core.replicas[0].sequences_limit == 0.75 * 10


def test_a_summary_tells_what_a_pool_has_and_has_sent_since_the_last() -> None:
    core = pool(1)
    core.peers.summary()
    submit(core, 1, 2, prompt=Prompt(LETTER, 4000))
    core.handle(Submitted(CallId(3), SMALL, deadline=9.0), 0.0)
    core.handle(Began(CallId(1), ReplicaId(0)), 0.5)
    told = core.peers.summary()
    (replica,) = told.replicas
    assert (told.number, told.demand) == (2, 3)
    assert (replica.name, replica.sequences, replica.weight) == ("r0", 3, 3.0)
    assert replica.read_tokens == 1000.0
    assert replica.prompts == (LETTER,)
    assert core.peers.summary().replicas[0].prompts == ()


def test_what_others_read_is_not_told_as_its_own() -> None:
    core = pool(1)
    hear(core, on("r0", read_tokens=1000.0))
    hear(core, on("r0", read_tokens=5000.0), number=2)
    assert core.peers.summary().replicas[0].read_tokens == 0.0


def test_of_many_prompts_the_last_are_told() -> None:
    told = Told()
    prompts = [chain(bytes([letter]) * 10_000) for letter in range(40)]
    for prompt in prompts:
        told.add(prompt)
    kept = BLOCKS_TOLD_MAX // len(prompts[0])
    assert told.take() == tuple(prompts[-kept:])
    assert told.take() == ()


def test_a_prompt_too_long_to_tell_is_left_out() -> None:
    told = Told()
    told.add(tuple(range(BLOCKS_TOLD_MAX + 1)))
    assert told.take() == ()
    told.add(LETTER)
    assert told.take() == (LETTER,)


def test_summaries_are_plain_values_for_any_codec() -> None:
    summary = Summary(3, 2, (on("http://10.0.0.1:8000/v1", 2, prompts=(LETTER,)),))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(summary), type=Summary) == summary


def test_alone_a_pool_is_told_nothing_and_collects_nothing() -> None:
    core = pool(1)
    submit(core, 1, prompt=Prompt(LETTER, 4000))
    assert core.peers.summary().replicas[0].prompts == ()
    assert core.wake_at() is None
