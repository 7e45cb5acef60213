"""What a call costs at each replica: reckoned from the books at once, and from what policies see."""

from __future__ import annotations

from random import Random

from alto.core.cost import Need, cheapest_place, costs
from alto.core.peers import ReplicaSummary, Summary
from alto.core.pool import CallPool
from alto.core.pool_events import Began, Ended, Heard, Reported, Send, Submitted
from alto.core.prefix import Prompt, chain
from alto.core.replicas import Limits, places_of, taking
from alto.core.scheduling import CallId, ReplicaId
from alto.core.where import cheapest_at

PROMPTS = [Prompt(chain(letter * 9000), 9000) for letter in (b"a", b"b", b"c")] + [Prompt((), 300)]


def used_pool(seed: int) -> CallPool:
    """One in the midst of its work, whose replicas differ in all that a cost is made of."""
    random = Random(seed)
    names = ["r0", "r1", "r2", "r3"]
    core = CallPool("chat", names, random=random, limits=Limits(cache_tokens=6000))
    now = 0.0
    sent: dict[CallId, ReplicaId] = {}
    for number in range(1, 60):
        now += random.random()
        call = CallId(number)
        for action in core.handle(Submitted(call, random.choice(PROMPTS), "s", f"q{number}"), now):
            if isinstance(action, Send):
                sent[action.call] = action.replica
        while len(sent) > 6:
            call = random.choice(list(sent))
            core.handle(Began(call, sent[call]), now)
            core.handle(Ended(call, sent[call], random.randrange(40, 4000)), now + random.random())
            del sent[call]
        now += 1.0
    core.handle(Reported(ReplicaId(1), 9, 0), now)
    said = ReplicaSummary("r2", 3, 2.0, 700.0, 0.0)
    core.handle(Heard("other", Summary(1, 3, (said,))), now)
    core.check()
    return core


def test_a_choice_from_the_books_is_that_from_the_places_that_policies_see() -> None:
    for seed in range(20):
        fresh = CallPool("chat", ["r0", "r1", "r2", "r3"], random=Random(0))
        for core in (used_pool(seed), fresh):  # where fresh, all are as cheap
            for prompt in PROMPTS:
                need = Need("s", prompt.size * 0.25, 90.0, None, 0.0, 0.5)
                places = places_of(core.replicas, prompt.blocks, 0.25)
                chosen = cheapest_at(core.replicas, prompt.blocks, need, 0.25, Random(seed))
                assert chosen.replica == cheapest_place(places, need, Random(seed))
                shown = costs(places, need)
                assert [one.cost_s for one in core.replicas] == shown
                assert (len(set(shown)) == 1) == (core is fresh)


def test_those_that_take_a_call_are_those_that_say_so() -> None:
    for seed in range(20):
        core = used_pool(seed)
        now = core.now
        for tokens in (0.0, 1e9):  # that wait to be read at one of them
            core.replicas[0].prefill_tokens = tokens
            expected = [one for one in core.replicas if one.takes(now)]
            assert taking(core.replicas, now) == expected
            assert taking(core.replicas, now) == expected  # asked again, when most know it
        assert core.replicas[0] not in expected
