"""The batching server in its plainest form, to compare the real model with: one loop round a step,
one loop round a sequence, and physical lists of blocks. No runs, no heaps, no closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from alto.engines.model import Limits
from alto.engines.profiles import StepCosts


@dataclass
class Job:
    """A sequence: when it comes, what it needs, when (if ever) it is cancelled."""

    number: int
    at: float
    prompt: int
    output: int
    keys: Sequence[bytes]  # of every full block of prompt and output
    cancel_at: float | None = None
    written: int = 0
    computed: int = 0
    target: int = 0
    cached: int | None = None
    shared: list[bytes] = field(default_factory=list)
    private: int = 0
    published: int = 0
    token_times: list[float] = field(default_factory=list)
    cancelled: bool = False

    @property
    def reading(self) -> bool:
        return self.computed < self.target


class NaiveServer:
    def __init__(self, costs: StepCosts, limits: Limits) -> None:
        self.costs, self.limits = costs, limits
        self.holders: dict[bytes, int] = {}
        self.idle: list[bytes] = []
        self.held = 0
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.preemptions = 0

    def play(self, jobs: Sequence[Job]) -> None:
        """Run every job to its end. Cancellations count from the step boundary on for the batch,
        at once for the blocks."""
        coming = sorted(jobs, key=lambda job: (job.at, job.number))
        now = 0.0
        while coming or self.waiting or self.running:
            if not self.waiting and not self.running:
                now = max(now, coming[0].at)
            while coming and coming[0].at <= now:
                job = coming.pop(0)
                job.target = job.prompt
                self.waiting.append(job)
            self.drop_cancelled(now)
            plan = self.schedule()
            if not plan:
                if not coming:
                    return
                continue
            end = now + self.duration(plan)
            self.leave_during(now, end)
            self.complete(plan, end)
            now = end

    def drop_cancelled(self, now: float) -> None:
        for job in [*self.waiting, *self.running]:
            if job.cancel_at is not None and job.cancel_at <= now:
                self.leave(job)

    def leave_during(self, now: float, end: float) -> None:
        """Cancelled while the step runs: blocks go back before those of who ends with it."""
        leaving = [
            job
            for job in [*self.waiting, *self.running]
            if job.cancel_at is not None and now < job.cancel_at <= end
        ]
        for job in sorted(leaving, key=lambda job: (job.cancel_at, job.number)):
            self.leave(job)

    def leave(self, job: Job) -> None:
        job.cancelled = True
        if job in self.waiting:
            self.waiting.remove(job)
            return
        self.running.remove(job)
        if not job.reading:
            self.publish(job, job.prompt + job.written - 1)
        self.give_back(job)

    def schedule(self) -> list[tuple[Job, int]]:
        plan: list[tuple[Job, int]] = []
        preempted = False
        size = self.limits.block_tokens
        decoders = [job for job in self.running if not job.reading]
        budget = self.limits.tokens_per_step_max - len(decoders)
        while decoders:
            needy = [job for job in decoders if self.lacks(job, job.prompt + job.written) > 0]
            if len(needy) <= self.free:
                break
            victim = self.running[-1]
            self.preempt(victim)
            preempted = True
            decoders = [job for job in self.running if not job.reading]
            budget = self.limits.tokens_per_step_max - len(decoders)
        for job in decoders:
            self.take(job, self.lacks(job, job.prompt + job.written))
            plan.append((job, 0))
        for job in [job for job in self.running if job.reading]:
            tokens = min(job.target - job.computed, budget)
            if self.lacks(job, job.computed + tokens) > self.free:
                self.preempt(job)
                preempted = True
                continue
            self.read(job, tokens)
            plan.append((job, tokens))
            budget -= tokens
        while not preempted and self.waiting and budget > 0:
            if len(self.running) == self.limits.sequences_max:
                break
            job = self.waiting[0]
            found: list[bytes] = []
            for key in job.keys[: (job.target - 1) // size] if self.limits.sharing else ():
                if key not in self.holders:
                    break
                found.append(key)
            tokens = min(job.target - len(found) * size, budget)
            blocks = -(-(len(found) * size + tokens) // size) - len(found)
            if blocks + sum(key in self.idle for key in found) > self.free:
                break
            self.waiting.pop(0)
            self.running.append(job)
            for key in found:
                if key in self.idle:
                    self.idle.remove(key)
                    self.held += 1
                self.holders[key] += 1
            job.shared, job.published = found, len(found)
            job.computed = len(found) * size
            job.cached = job.computed if job.cached is None else job.cached
            self.read(job, tokens)
            plan.append((job, tokens))
            budget -= tokens
        return plan

    def duration(self, plan: list[tuple[Job, int]]) -> float:
        decoders = [job for job, tokens in plan if tokens == 0]
        readers = [(job, tokens) for job, tokens in plan if tokens]
        return self.costs.step(
            sum(tokens for _, tokens in readers),
            len(decoders),
            sum(job.prompt + job.written for job in decoders),
            sum(tokens * (job.computed + tokens / 2) for job, tokens in readers),
            len(readers),
        )

    def complete(self, plan: list[tuple[Job, int]], end: float) -> None:
        ending = [job for job, tokens in plan if tokens == 0] + [job for job, t in plan if t]
        tokens_of = {job.number: tokens for job, tokens in plan}
        for job in ending:
            if job.cancelled:
                continue
            job.computed += tokens_of[job.number]
            if job.reading:
                continue
            job.written += 1
            job.token_times.append(end)
        for job in ending:
            if not job.cancelled and job.written == job.output:
                self.running.remove(job)
                self.publish(job, job.prompt + job.written - 1)
                self.give_back(job)

    # -- blocks

    @property
    def free(self) -> int:
        return self.limits.kv_blocks - self.held

    def lacks(self, job: Job, tokens: int) -> int:
        return -(-tokens // self.limits.block_tokens) - len(job.shared) - job.private

    def take(self, job: Job, blocks: int) -> None:
        assert blocks <= self.free
        job.private += blocks
        self.held += blocks
        while self.held + len(self.idle) > self.limits.kv_blocks:
            del self.holders[self.idle.pop(0)]

    def read(self, job: Job, tokens: int) -> None:
        self.take(job, self.lacks(job, job.computed + tokens))
        self.publish(job, job.computed + tokens)

    def publish(self, job: Job, tokens: int) -> None:
        full = tokens // self.limits.block_tokens
        for key in job.keys[job.published : full] if self.limits.sharing else ():
            if key not in self.holders:
                self.holders[key] = 1
                job.shared.append(key)
                job.private -= 1
        job.published = max(job.published, full)

    def give_back(self, job: Job) -> None:
        self.held -= job.private
        for key in reversed(job.shared):
            self.holders[key] -= 1
            if self.holders[key] == 0:
                self.idle.append(key)
                self.held -= 1
        job.shared, job.private, job.published, job.computed = [], 0, 0, 0

    def preempt(self, job: Job) -> None:
        self.preemptions += 1
        self.running.remove(job)
        if not job.reading:
            self.publish(job, job.prompt + job.written - 1)
        self.give_back(job)
        job.target = job.prompt + job.written
        self.waiting.insert(0, job)
