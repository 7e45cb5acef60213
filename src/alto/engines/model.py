"""A continuous-batching LM server as a model in time: which token is written when.

One server takes *steps*. In a step every decoding sequence writes one token, and what is left of
the step's token budget goes to prompts: first to the one that is half read, then to waiting ones
in the order of their coming (chunked prefill, as in vLLM). The step that reads the last of a
prompt writes the first token. A prompt that begins with blocks that are in the KV cache skips
them. When blocks run out, the sequence admitted last loses its blocks and goes back to the head
of the queue, to be computed again (preemption by recompute).

Nothing here sleeps or reads a clock: `submit` and `cancel` take `now`, `wake_at()` says when to
call `advance(now)`, and that tells which sequences have come to a token their reader waits for.

Long stretches cost nothing. While the batch stays as it is, every step is longer than the one
before by the same amount (each sequence reads one more token of context), so the end of the k-th
step is a closed form. Such a stretch is one *run* of steps, cut short by an arrival that could be
admitted or by a cancellation. A decoding sequence never misses a step, so "its token i" is "step
offset + i" for good, and the heaps of what comes next need no repair when a run is cut.

Always true (`check()`):
    M1  a sequence is waiting, reading its prompt, decoding, or done; only the last admitted one
        can be half read
    M2  blocks held = blocks of the sequences that are reading or decoding
    M3  what a step needs is allocated when it begins; a cancelled sequence frees its blocks at
        once, though the step under way ends when it would have
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from heapq import heappop, heappush

from ..errors import EngineError
from .batch import Generation, Run
from .kv_cache import Key, KvCache
from .measures import Measures
from .profiles import StepCosts


@dataclass(frozen=True, slots=True)
class Limits:
    """Engine settings, with vLLM's defaults for an online server.

    `tokens_per_step_max` is vLLM's `max_num_batched_tokens`, the budget of one step for prompts
    and decoding together; 2048 keeps a long prompt from stalling those who are being served.
    """

    kv_blocks: int
    block_tokens: int = 16
    sequences_max: int = 256
    tokens_per_step_max: int = 2048
    sharing: bool = True


class BatchingServer:
    """The model. Its owner calls `advance` at `wake_at()`; see the top of the file."""

    def __init__(self, costs: StepCosts, limits: Limits) -> None:
        self.costs = costs
        self.limits = limits
        self.cache = KvCache(limits.kv_blocks, sharing=limits.sharing)
        self.measures = Measures()
        self.steps = 0
        """Steps that are complete and in the books."""
        self._run: Run | None = None
        self._start_at: float | None = None  # when an idle server begins its next step
        self._waiting: OrderedDict[Generation, None] = OrderedDict()
        self._admitted: OrderedDict[Generation, None] = OrderedDict()
        self._half_read: Generation | None = None
        self._decoding = 0
        self._kv_read = 0  # context that the next step reads, summed over decoding sequences
        self._head_found_idle = False  # the head of the queue was refused with idle blocks found
        self._block_turns = [0] * limits.block_tokens  # who needs a block at step t mod size
        self._finishes: list[tuple[int, int, int, Generation]] = []
        self._marks: list[tuple[int, int, int, Generation]] = []
        self._woken: list[Generation] = []
        self._count = 0

    # ------------------------------------------------------------------ what the owner calls

    @property
    def running(self) -> int:
        """Sequences that hold a slot in the batch."""
        return len(self._admitted)

    @property
    def waiting(self) -> int:
        """Sequences in the server's own queue."""
        return len(self._waiting)

    def kv_usage(self, now: float) -> float:
        """Share of the KV blocks that is held at `now`."""
        self._play(now, inclusive=False)
        run = self._run
        if run is not None:
            self._book(run, min(run.steps, run.first_end_from(now)) - 1)
        return self.cache.held / self.cache.total

    def submit(self, generation: Generation, now: float) -> None:
        """Queue a sequence. It is admitted, at the earliest, by the step that begins at `now`."""
        blocks = self._blocks(generation.prompt_tokens + generation.output_tokens)
        if blocks > self.cache.total:
            raise EngineError(
                f"a prompt of {generation.prompt_tokens} tokens with an answer of "
                f"{generation.output_tokens} needs {blocks} KV blocks, the server has "
                f"{self.cache.total}: shorten the prompt, lower max_tokens, or give it more KV "
                "memory (kv_tokens)",
                status=400,
                retryable=False,
            )
        self._play(now, inclusive=False)
        self._count += 1
        generation.number = self._count
        generation.arrived_at = now
        heads_queue = not self._waiting
        self._waiting[generation] = None
        self.measures.prompt_tokens += generation.prompt_tokens
        if self._run is None:
            if self._start_at is None:
                self._start_at = now
        elif heads_queue and len(self._admitted) < self.limits.sequences_max:
            self._cut(self._run, now)

    def cancel(self, generation: Generation, now: float) -> None:
        """Drop a sequence wherever it is; its slot and blocks are free at once."""
        if generation.done:
            return
        self._play(now, inclusive=False)
        if generation.done:  # it finished before `now`
            return
        waits = generation.state == "waiting"
        if self._run is not None and (not waits or generation is next(iter(self._waiting))):
            self._cut(self._run, now)  # who stood behind it may be admitted now
        if waits:
            del self._waiting[generation]
        else:
            self._evict(generation)
        generation.state = "done"
        generation.epoch += 1
        self.measures.cancelled += 1

    def wake_at(self) -> float | None:
        """When `advance` has something to do; None while idle."""
        if self._woken:
            return -math.inf
        run = self._run
        if run is None:
            return self._start_at
        return run.end_of(self._next_stop(run))

    def advance(self, now: float) -> list[Generation]:
        """Everything up to and including `now`: who has come to a mark or to the end, in order."""
        self._play(now, inclusive=True)
        woken, self._woken = self._woken, []
        return woken

    def check(self) -> None:
        """Raise if an invariant does not hold. For tests."""
        self.cache.check()
        private = sum(each.private for each in self._admitted)
        shared = {key for each in self._admitted for key in each.shared}
        allocated = self._allocated_lazily()
        if private + len(shared) + allocated != self.cache.held:
            raise AssertionError(f"M2: {private} + {len(shared)} blocks, held {self.cache.held}")
        states = [each.state for each in self._admitted]
        if states.count("decoding") != self._decoding:
            raise AssertionError(f"M1: {self._decoding} decoding, states {states}")

    # ------------------------------------------------------------------ time

    def _play(self, now: float, *, inclusive: bool) -> None:
        while True:
            run = self._run
            if run is None:
                start = self._start_at
                if start is None or start > now or (start == now and not inclusive):
                    return
                self._start_at = None
                self._plan(start)
                continue
            stop = self._next_stop(run)
            at = run.end_of(stop)
            if at > now or (at == now and not inclusive):
                return
            if stop == run.steps:
                self._close(run, at)
                self._plan(at)
            else:
                self._wake_marks(run.base + stop)

    def _next_stop(self, run: Run) -> int:
        """The next step of the run after which somebody must be told something."""
        marks = self._marks
        while marks and self._stale(marks[0]):
            heappop(marks)
        if marks and marks[0][0] < run.base + run.steps:
            return marks[0][0] - run.base
        return run.steps

    @staticmethod
    def _stale(entry: tuple[int, int, int, Generation]) -> bool:
        return entry[2] != entry[3].epoch

    def _wake_marks(self, step: int) -> None:
        marks = self._marks
        while marks and marks[0][0] <= step:
            entry = heappop(marks)
            if self._stale(entry):
                continue
            generation = entry[3]
            generation.written = step - generation.offset
            self._woken.append(generation)
            self._push_mark(generation)

    def _push_mark(self, generation: Generation) -> None:
        mark = generation.next_mark()
        if mark < generation.output_tokens:
            step = generation.offset + mark
            heappush(self._marks, (step, generation.number, generation.epoch, generation))

    def _cut(self, run: Run, now: float) -> None:
        """Let the run end with the step that is under way at `now`."""
        under_way = min(run.steps, run.first_end_from(now))
        run.steps = under_way
        self._book(run, under_way - 1)

    def _book(self, run: Run, steps: int) -> None:
        """Bring the books up to `steps` complete steps of the run; the next one is under way."""
        more = steps - run.applied
        if more <= 0:
            return
        turns = self._block_turns
        size = len(turns)
        # The blocks of the first of these steps are taken, those of the one after them are not.
        rounds, rest = divmod(more, size)
        blocks = rounds * self._decoding
        for step in range(self.steps + 1, self.steps + 1 + rest):
            blocks += turns[step % size]
        self.cache.take(blocks)
        self._count_steps(run, more)

    def _count_steps(self, run: Run, steps: int) -> None:
        took = run.end_of(run.applied + steps) - run.end_of(run.applied)
        self.measures.steps += steps
        self.measures.busy_seconds += took
        if run.decoding:
            self.measures.inter_token.observe(took / steps, steps * run.decoding)
        self.steps += steps
        self._kv_read += steps * self._decoding
        run.applied += steps

    # ------------------------------------------------------------------ the end of a run

    def _close(self, run: Run, at: float) -> None:
        self._book(run, run.steps - 1)
        self._count_steps(run, 1)
        self._run = None
        self._finish_due(at)
        for generation, tokens in run.prompts:
            if generation.state == "reading":  # not cancelled meanwhile
                self._read(generation, tokens, at)
        self._wake_marks(self.steps)

    def _finish_due(self, at: float) -> None:
        finishes = self._finishes
        while finishes and (self._stale(finishes[0]) or finishes[0][0] <= self.steps):
            entry = heappop(finishes)
            if not self._stale(entry):
                self._finish(entry[3], at)

    def _finish(self, generation: Generation, at: float) -> None:
        generation.written = generation.output_tokens
        self._evict(generation)
        generation.state = "done"
        generation.epoch += 1
        generation.finished_at = at
        self._woken.append(generation)
        self.measures.finished(generation, at)

    def _read(self, generation: Generation, tokens: int, at: float) -> None:
        generation.computed += tokens
        if generation.computed < generation.target:
            self._half_read = generation
            return
        wakes = generation.next_mark() == generation.written + 1
        generation.written += 1
        if generation.first_token_at is None:
            generation.first_token_at = at
            self.measures.first_token.observe(at - generation.arrived_at)
        generation.offset = self.steps - generation.written
        generation.state = "decoding"
        self._decoding += 1
        self._kv_read += self._context(generation)
        size = self.limits.block_tokens
        # At step s it writes into token prompt + s - offset; a block begins at 1 modulo size.
        generation.block_shift = (1 + generation.offset - generation.prompt_tokens) % size
        self._block_turns[generation.block_shift] += 1
        if generation.written >= generation.output_tokens:
            self._finish(generation, at)
            return
        last = generation.offset + generation.output_tokens
        heappush(self._finishes, (last, generation.number, generation.epoch, generation))
        if wakes:
            self._woken.append(generation)
        self._push_mark(generation)

    # ------------------------------------------------------------------ planning

    def _plan(self, start: float) -> None:
        """Decide the next step, or the next run of equal ones."""
        preempted = self._make_room()
        self.cache.take(self._block_turns[self.steps % self.limits.block_tokens])
        budget = self.limits.tokens_per_step_max - self._decoding
        prompts: list[tuple[Generation, int]] = []
        half, self._half_read = self._half_read, None
        if half is not None:
            tokens = min(half.target - half.computed, max(0, budget))
            if self._grow(half, tokens):
                prompts.append((half, tokens))
                budget -= tokens
            else:
                self._preempt(half)
                preempted = True
        if not preempted:
            self._admit(prompts, budget, start)
        if not prompts and not self._decoding:
            return
        # After a preemption nobody was admitted; the next step may, so it is planned by itself.
        self._run = self._new_run(start, prompts, single=preempted or bool(prompts))

    def _make_room(self) -> bool:
        """Preempt, last admitted first, until every decoding sequence has the block it needs."""
        preempted = False
        turns = self._block_turns
        while turns[self.steps % len(turns)] > self.cache.free:
            self._preempt(next(reversed(self._admitted)))
            preempted = True
        return preempted

    def _admit(self, prompts: list[tuple[Generation, int]], budget: int, start: float) -> None:
        size = self.limits.block_tokens
        self._head_found_idle = False
        while self._waiting and budget > 0 and len(self._admitted) < self.limits.sequences_max:
            generation = next(iter(self._waiting))
            # The last token of the prompt is computed always: the first answer token comes of it.
            keys = generation.keys((generation.target - 1) // size)
            hits = self.cache.match(keys) if self.cache.sharing else 0
            found = keys[:hits]
            tokens = min(generation.target - hits * size, budget)
            needed = self._blocks(hits * size + tokens) - hits
            idle = self.cache.idle_among(found)
            if needed + idle > self.cache.free:
                # Who finds less asks for less at first: what is evicted may let it in.
                self._head_found_idle = idle > 0
                return
            del self._waiting[generation]
            self._admitted[generation] = None
            self.cache.hold(found)
            self._begin(generation, list(found), hits * size, start)
            self._grow(generation, tokens)
            prompts.append((generation, tokens))
            budget -= tokens

    def _begin(
        self, generation: Generation, found: list[Key], hit_tokens: int, start: float
    ) -> None:
        generation.state = "reading"
        generation.shared = found
        generation.published = len(found)
        generation.computed = hit_tokens
        self.measures.cache_queries += generation.target
        self.measures.cache_hits += hit_tokens
        if generation.epoch == 0:
            generation.cached_tokens = hit_tokens
            self.measures.queued.observe(start - generation.arrived_at)

    def _grow(self, generation: Generation, tokens: int) -> bool:
        """Give a prompt the blocks for its next tokens. False when there are not so many."""
        known = generation.computed + tokens
        needed = self._blocks(known) - self._blocks(generation.computed)
        if needed > self.cache.free:
            return False
        self.cache.take(needed)
        generation.private += needed
        self._publish(generation, known)
        return True

    def _new_run(self, start: float, prompts: list[tuple[Generation, int]], *, single: bool) -> Run:
        tokens = sum(count for _, count in prompts)
        pairs = sum(count * (each.computed + count / 2) for each, count in prompts)
        first = self.costs.step(tokens, self._decoding, self._kv_read, pairs, len(prompts))
        self.measures.prefilled_tokens += tokens
        steps = 1 if single else self._steps_ahead()
        growth = self.costs.per_kv_token * self._decoding
        return Run(start, first, growth, steps, self.steps, self._decoding, prompts)

    def _steps_ahead(self) -> int:
        """How many steps until a sequence ends or blocks run out. The first has its blocks."""
        finishes = self._finishes
        while self._stale(finishes[0]):
            heappop(finishes)
        more = finishes[0][0] - self.steps - 1
        turns = self._block_turns
        size = len(turns)
        spare = self.cache.free - (self.cache.idle if self._head_found_idle else 0)
        rounds, left = divmod(spare, self._decoding)
        steps = rounds * size
        while steps < more:
            left -= turns[(self.steps + 1 + steps) % size]
            if left < 0:
                break
            steps += 1
        return 1 + min(steps, more)

    # ------------------------------------------------------------------ slots and blocks

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_tokens)

    def _context(self, generation: Generation) -> int:
        """Tokens in the KV cache when the step under way (or next) has run, while decoding."""
        return generation.prompt_tokens + self.steps - generation.offset

    def _publish(self, generation: Generation, computed: int) -> None:
        """Share the blocks that are full with `computed` tokens."""
        full = computed // self.limits.block_tokens
        if full <= generation.published or not self.cache.sharing:
            return
        keys = generation.keys(full)
        for at in range(generation.published, full):
            if self.cache.publish(keys[at]):
                generation.shared.append(keys[at])
                generation.private -= 1
        generation.published = full

    def _preempt(self, generation: Generation) -> None:
        decoding = generation.state == "decoding"
        if decoding:
            generation.written = self.steps - generation.offset
        self._evict(generation, under_way=False)
        generation.state = "waiting"
        generation.epoch += 1
        generation.target = generation.prompt_tokens + generation.written
        self._waiting[generation] = None
        self._waiting.move_to_end(generation, last=False)
        self.measures.preemptions += 1

    def _evict(self, generation: Generation, *, under_way: bool = True) -> None:
        """Take an admitted sequence out of the batch and give its blocks back.

        `under_way`: its blocks for the step that runs are taken already.
        """
        del self._admitted[generation]
        if self._half_read is generation:
            self._half_read = None
        if generation.state == "decoding":
            context = self._context(generation)
            self._decoding -= 1
            self._kv_read -= context
            self._block_turns[generation.block_shift] -= 1
            held = self._blocks(context if under_way and self._run is not None else context - 1)
            generation.private = held - len(generation.shared)
            self._publish(generation, context - 1)
        self.cache.release(generation.shared, generation.private)
        generation.shared = []
        generation.private = 0
        generation.published = 0
        generation.computed = 0

    def _allocated_lazily(self) -> int:
        """Blocks of decoding sequences that are not yet on their own account."""
        extra = 0
        for each in self._admitted:
            if each.state == "decoding":
                context = self._context(each) - (0 if self._run is not None else 1)
                extra += self._blocks(context) - len(each.shared) - each.private
        return extra
