"""A world for admission: requests that share one server, and nothing but that.

The server gives each request its full speed while at most `places` are there, and shares equally
beyond that, so a crowd makes everybody late. Sizes are drawn (a spread of a third). A request has
two LM stages: the second begins at 60 % of its work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from alto.core.admission import Admission, PipelineLoad, Ticket
from alto.errors import Overloaded


@dataclass(slots=True)
class Job:
    arrival: float
    size: float
    timeout: float | None
    pipeline: PipelineLoad
    name: str
    priority: int = 0
    left: float = 0.0
    ticket: Ticket | None = None
    staged: bool = False
    outcome: str = ""
    """`good`, `late`, `refused` (at its start) or `dropped` (later)."""
    refusal: Overloaded | None = None
    finish: float = 0.0


@dataclass(slots=True)
class World:
    """Runs jobs through an `Admission`; `shed=False` counts them and refuses nobody."""

    places: float = 20.0
    shed: bool = True
    admission: Admission = field(default_factory=Admission)
    now: float = 0.0
    running: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)

    def job(self, at: float, size: float, timeout: float | None, **more: object) -> Job:
        name = str(more.get("name", "p"))
        engine = str(more.get("engine", "chat"))
        known = self.admission.find(name) or self.admission.add(name, name, [engine])
        priority = int(str(more.get("priority", 0)))
        return Job(at, size, timeout, known, name, priority, size)

    def run(self, jobs: list[Job], until: float | None = None) -> list[Job]:
        """All of them, to the end of the last."""
        for job in sorted(jobs, key=lambda job: job.arrival):
            self._advance(job.arrival)
            self._arrive(job)
        self._advance(float("inf") if until is None else until)
        return jobs

    def _speed(self) -> float:
        return min(1.0, self.places / max(1, len(self.running)))

    def _advance(self, until: float) -> None:
        while self.running:
            speed = self._speed()
            step, job, event = min(self._next(*one, speed) for one in enumerate(self.running))
            at = self.now + step
            if at > until:
                break
            self._work(at, speed)
            self._happen(self.running[job], event)
        if until != float("inf"):
            self._work(until, self._speed())

    def _next(self, number: int, job: Job, speed: float) -> tuple[float, int, str]:
        """What happens to a job, and in how many seconds."""
        if job.staged:
            after, event = job.left / speed, "end"
        else:
            after, event = (job.left - 0.4 * job.size) / speed, "stage"
        if job.timeout is not None and job.arrival + job.timeout - self.now < after:
            after, event = job.arrival + job.timeout - self.now, "deadline"
        return max(0.0, after), number, event

    def _work(self, at: float, speed: float) -> None:
        for job in self.running:
            job.left -= speed * (at - self.now)
        self.now = at

    def _arrive(self, job: Job) -> None:
        deadline = None if job.timeout is None else job.arrival + job.timeout
        if job.timeout is not None and self.shed:
            job.refusal = self.admission.ask(job.pipeline, job.timeout, job.priority, self.now)
        if job.refusal is not None:
            job.outcome, job.finish = "refused", self.now
            return
        job.ticket = self.admission.begin(job.pipeline, deadline, job.priority, self.now)
        self.running.append(job)
        self._reach(job, "first")

    def _reach(self, job: Job, stage: str) -> None:
        assert job.ticket is not None
        refusal = self.admission.reached(job.ticket, stage, self.now)
        if refusal is not None and self.shed:
            job.refusal = refusal
            self._over(job, "dropped", False)

    def _happen(self, job: Job, event: str) -> None:
        if event == "stage":
            job.staged = True
            self._reach(job, "second")
        elif event == "end":
            self._over(job, "good", True)
        else:
            self._over(job, "late", False)

    def _over(self, job: Job, outcome: str, ended: bool) -> None:
        assert job.ticket is not None
        self.running.remove(job)
        self.done.append(job)
        job.outcome, job.finish = outcome, self.now
        self.admission.end(job.ticket, ended, 100.0 * job.size, self.now)


def arrivals(
    rate: float, start: float, stop: float, random: Random, cv: float = 1.0
) -> list[float]:
    """Times with gamma-distributed gaps; `cv` 1 is Poisson, 3 comes in bursts."""
    shape = 1.0 / cv**2
    times = []
    now = start
    while (now := now + random.gammavariate(shape, 1.0 / (shape * rate))) < stop:
        times.append(now)
    return times


def size(mean: float, random: Random) -> float:
    """A duration on an idle server."""
    return random.gammavariate(9.0, mean / 9.0)


def goodput(jobs: list[Job], start: float, stop: float) -> float:
    """Per second, of those that came in this time."""
    good = [job for job in jobs if start <= job.arrival < stop and job.outcome == "good"]
    return len(good) / (stop - start)


def counted(jobs: list[Job], outcome: str, start: float = 0.0, stop: float = 1e9) -> int:
    return sum(job.outcome == outcome and start <= job.arrival < stop for job in jobs)
