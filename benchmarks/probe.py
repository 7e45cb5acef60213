"""One measurement of one contender, in this process; it prints one line of JSON.

    python -m benchmarks.probe fanout alto 2000 1.5      items, seconds to repeat it for
    python -m benchmarks.probe requests alto 200         requests at once

`measure.py` starts this in a fresh process for every number, so that no measurement sees another's
imports, heap or warmed caches. Collection of garbage stays as Python has it.

Always true:
    - results are checked against what they must be before any number is printed;
    - CPU is this process's own (every thread, user and system), memory its own peak;
    - a small warm-up runs first: compiled graphs and first imports are nobody's cost per item.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from typing import Any

from . import contenders, workload

WARMUP_ITEMS = 50
WARMUP_REQUESTS = 3


def memory_peak_mb() -> float:
    """The most memory that this process has held at a time.

    Linux hands `ru_maxrss` of a parent down to what it starts, which here would say how big the
    harness is; `VmHWM` starts afresh with the program.
    """
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


async def fanout(contender: contenders.Contender, items: int, budget_s: float) -> dict[str, Any]:
    """CPU seconds of each round of `items` items through three stages, for `budget_s` or once."""
    loaded_mb = memory_peak_mb()
    cpu_s: list[float] = []
    async with contender.fanout() as run:
        await run(min(items, WARMUP_ITEMS))
        stop = time.perf_counter() + budget_s
        while not cpu_s or time.perf_counter() < stop:
            gc.collect()
            before = time.process_time()
            results = await run(items)
            cpu_s.append(time.process_time() - before)
            check_fanout(results, items)
            del results
    return {"cpu_s": cpu_s, "loaded_mb": loaded_mb, "peak_mb": memory_peak_mb()}


def check_fanout(results: list[int], items: int) -> None:
    """Every item once, in order, three added."""
    if results != list(range(3, items + 3)):
        raise AssertionError(
            f"a fan-out of {items} items gave {len(results)} results beginning {results[:5]}; "
            f"expected {items} beginning [3, 4, 5, 6, 7]"
        )


async def requests(contender: contenders.Contender, count: int) -> dict[str, Any]:
    """CPU and each latency of `count` verification requests that start at once."""
    questions = workload.questions(count)
    right = {question: workload.expected(question) for question in questions}
    loaded_mb = memory_peak_mb()
    async with contender.verification(workload.ScheduledLM()) as serve:

        async def timed(question: str) -> float:
            start = time.perf_counter()
            report = await serve(question)
            elapsed = time.perf_counter() - start
            check_tally(report, right[question], question)
            return elapsed

        await asyncio.gather(*(timed(question) for question in questions[:WARMUP_REQUESTS]))
        gc.collect()
        before = time.process_time()
        latency_s = await asyncio.gather(*(timed(question) for question in questions))
        cpu_s = time.process_time() - before
    peak_mb = memory_peak_mb()
    return {"cpu_s": cpu_s, "latency_s": latency_s, "loaded_mb": loaded_mb, "peak_mb": peak_mb}


def check_tally(report: dict[str, int], right: dict[str, int], question: str) -> None:
    """The verdicts of a request, counted, are the ones its texts hold."""
    if report != right:
        raise AssertionError(f"{question!r} was answered {report}, expected {right}")


def main(arguments: list[str]) -> None:
    kind, name, *numbers = arguments
    contender = contenders.load(name)
    match kind, numbers:
        case "fanout", [items, budget_s]:
            measured = asyncio.run(fanout(contender, int(items), float(budget_s)))
        case "requests", [count]:
            measured = asyncio.run(requests(contender, int(count)))
        case _:
            raise SystemExit(f"{arguments}: expected 'fanout NAME N SECONDS' or 'requests NAME N'")
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1:])
