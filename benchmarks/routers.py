"""Does ALTO's pool beat a router? Real llama-server replicas, real sockets, sglang-router beside.

Eight prompt templates, four replicas that each keep three prompts: whoever sends a prompt to the
wrong one has it read again. All contenders send the same requests, each in turn to servers that
were just started, so with empty caches; rounds are interleaved and the median round counts.

    python -m benchmarks.routers [--quick] [--only alto,sglang-router]

CPU is that of the client's process and, where there is one, the router's, without the servers'.
The first use builds llama-server (some minutes) and installs sglang-router, both in ALTO_CACHE_DIR.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from .report import Report, Spread, Target, machine
from .requests import percentile
from .router_load import Plan
from .router_servers import ROOT, Router, build, cache_counts, replicas

REPLICAS, SLOTS, CONTEXT_TOKENS = 4, 3, 12288
LOAD_TIMEOUT_S = 600.0
SERVERS_DISAGREE_MAX = 0.02
"""How far hit ratios by the answers and by the servers' counters may be apart."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A way from a client to the replicas."""

    name: str
    client: str = "alto"
    policy: str = "prompt-aware"
    router: bool = False


SUBJECT, RIVAL = "alto", "sglang-router"
CONTENDERS = (
    Contender(SUBJECT),
    Contender("alto prefix-affinity", policy="prefix-affinity"),
    Contender("alto least-outstanding", policy="least-outstanding"),
    Contender("alto round-robin", policy="round-robin"),
    Contender(RIVAL, router=True),
    Contender(f"{RIVAL} + OpenAI SDK", client="openai", router=True),
)


@dataclass(frozen=True, slots=True)
class Load:
    """How many clients ask at once, and how often all together."""

    clients: int
    requests: int
    rounds: int
    contenders: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.clients} clients"


PLAIN = ("alto least-outstanding", "alto round-robin")
"""They read nearly every prompt anew, so they take longest and are measured once."""
NAMES = tuple(contender.name for contender in CONTENDERS)
BUSY = Load(16, 144, 2, tuple(name for name in NAMES if name not in PLAIN))
BUSY_PLAIN = Load(16, 144, 1, PLAIN)
CALM = Load(8, 96, 1, (SUBJECT, RIVAL))
ALONE = Load(1, 48, 1, (SUBJECT, RIVAL))
"""One client never waits for another, so what a router adds to the first token shows."""


def measure_once(contender: Contender, load: Load, seed: int) -> dict[str, Any]:
    """One contender under one load, on fresh servers."""
    with ExitStack() as running:
        servers = running.enter_context(replicas(REPLICAS, SLOTS, CONTEXT_TOKENS))
        router = running.enter_context(Router(servers)) if contender.router else None
        plan = Plan(
            client=contender.client,
            policy=contender.policy,
            urls=(router.url,) if router else tuple(server.url for server in servers),
            router_pid=router.pid if router else None,
            clients=load.clients,
            requests=load.requests,
            seed=seed,
        )
        command = [sys.executable, "-m", "benchmarks.router_load", json.dumps(asdict(plan))]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S
        )
        if done.returncode != 0:
            said = f"\nThe router said:\n{router.said()}" if router else ""
            raise RuntimeError(
                f"{contender.name} with {load.name} ended with {done.returncode}:\n"
                f"{done.stderr[-2000:]}{said}"
            )
        counts = [cache_counts(server) for server in servers]
    return summary(json.loads(done.stdout), counts)


def summary(found: dict[str, Any], counts: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The numbers of one run. Raises if the answers and the servers disagree on what was found."""
    answers = found["answers"]
    number = len(answers)
    hits = sum(one["cached_tokens"] for one in answers) / sum(
        one["prompt_tokens"] for one in answers
    )
    by_servers = sum(hit for hit, _ in counts) / sum(hit + read for hit, read in counts)
    if abs(hits - by_servers) > SERVERS_DISAGREE_MAX:
        raise AssertionError(
            f"a hit ratio of {hits:.3f} by cached_tokens and of {by_servers:.3f} by the servers' "
            "own counters; expected the same"
        )
    first = [one["first_s"] for one in answers]
    total = [one["total_s"] for one in answers]
    return {
        "hit_ratio": hits,
        "rate": number / found["seconds"],
        "first_p50_s": percentile(first, 50),
        "first_mean_s": statistics.fmean(first),
        "p50_s": percentile(total, 50),
        "p99_s": percentile(total, 99),
        "client_cpu_ms": found["client_cpu_s"] / number * 1e3,
        "router_cpu_ms": found["router_cpu_s"] / number * 1e3,
        "cpu_ms": (found["client_cpu_s"] + found["router_cpu_s"]) / number * 1e3,
        "prompts_by_replica": [round(hit + read) for hit, read in counts],
    }


Runs = dict[str, dict[str, list[dict[str, Any]]]]
"""Per load and contender, the summary of each round."""


def middle(runs: Runs, load: Load, name: str, number: str) -> float:
    """The median over the rounds; NaN if there was none."""
    values = [run[number] for run in runs.get(load.name, {}).get(name, [])]
    return statistics.median(values) if values else float("nan")


def targets(runs: Runs) -> list[Target]:
    """What is promised of ALTO beside sglang-router in the same run."""
    found = []
    for load in (BUSY, CALM):
        ours, theirs = (middle(runs, load, name, "hit_ratio") for name in (SUBJECT, RIVAL))
        claim = f"prefix hit ratio, {load.name}, above {RIVAL}'s"
        found.append(Target(claim, ours - theirs, 0.0, "at least"))
    cpu = middle(runs, BUSY, SUBJECT, "cpu_ms") / middle(runs, BUSY, RIVAL, "cpu_ms")
    found.append(Target(f"CPU per request, client and router, times {RIVAL}'s", cpu, 1.0))
    for load in (BUSY, ALONE):
        first = middle(runs, load, SUBJECT, "first_p50_s") / middle(
            runs, load, RIVAL, "first_p50_s"
        )
        claim = f"median time to the first token, {load.name}, times {RIVAL}'s"
        found.append(Target(claim, first, 1.0, unit="x"))
    return found


def measure(quick: bool = False, only: Sequence[str] | None = None) -> Report:
    """Run the router benchmark. `quick` asks less, once."""
    build()
    runs: Runs = {}
    for load in (BUSY, BUSY_PLAIN, CALM, ALONE):
        requests = load.requests // 2 if quick else load.requests
        asked = Load(load.clients, requests, 1 if quick else load.rounds, load.contenders)
        for turn in range(asked.rounds):
            for contender in CONTENDERS:
                if contender.name not in asked.contenders or (only and contender.name not in only):
                    continue
                print(f"  {asked.name}: {contender.name}", file=sys.stderr, flush=True)
                run = measure_once(contender, asked, seed=turn + 1)
                runs.setdefault(asked.name, {}).setdefault(contender.name, []).append(run)
    report = Report(
        name="routers",
        title=f"{REPLICAS} llama-server replicas of {SLOTS} slots, 8 templates, 1500 + 200 tokens",
        header=(
            *("load", "contender", "hit ratio", "requests/s"),
            *("first p50 s", "p50 s", "p99 s", "CPU ms, client", "router"),
        ),
        raw=dict(runs),
    )
    for load, contenders in runs.items():
        for name, found in contenders.items():
            report.rows.append((load, name, *row(found)))
    if not only:
        report.targets = targets(runs)
    report.notes.append(machine())
    return report


def row(found: list[dict[str, Any]]) -> list[str]:
    digits = {"hit_ratio": 2, "rate": 1, "first_p50_s": 2, "p50_s": 2, "p99_s": 2}
    digits |= {"client_cpu_ms": 2, "router_cpu_ms": 2}
    return [Spread.of(run[name] for run in found).text(places) for name, places in digits.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="half of the requests, one round")
    parser.add_argument("--only", help="contenders, by comma", type=lambda t: t.split(","))
    options = parser.parse_args()
    report = measure(quick=options.quick, only=options.only)
    report.save()
    print(report.text())


if __name__ == "__main__":
    main()
