"""What came of a simulated load, in numbers by name and in a few lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .simulation import Report


def summary_of(report: Report, outputs: Sequence[str]) -> dict[str, Any]:
    """The numbers of a report by name; `outputs` are those of its pipeline."""
    return {
        "requests": len(report.requests),
        "failed": len(report.errors),
        "shed": report.shed,
        "late": report.late,
        "throughput_per_s": report.throughput,
        "latency_s": {
            "mean": report.mean_latency,
            **{f"p{p}": report.latency(p) for p in (50, 90, 99)},
        },
        "first_item_s_p50": {name: report.time_to_first(name) for name in outputs},
        "engines": {
            name: {
                "prefix_hit_rate": engine.prefix_hit_rate,
                "prompt_tokens": engine.prompt_tokens,
                "generation_tokens": engine.generation_tokens,
                "preemptions": engine.preemptions,
                "texts_embedded": engine.embedded,
                "documents_reranked": engine.reranked,
                "busy": engine.busy_seconds / (engine.replicas * report.end)
                if engine.replicas
                else 0,
            }
            for name, engine in report.engines.items()
        },
        "first_failure": str(report.errors[0]) if report.errors else None,
    }


def table_of(summary: dict[str, Any]) -> str:
    """A summary in a few lines."""
    latency = summary["latency_s"]
    failed = f"{summary['failed']} failed"
    if summary["shed"] or summary["late"]:
        failed += f" ({summary['shed']} shed, {summary['late']} late)"
    lines = [
        f"requests     {summary['requests']}, {failed}, "
        f"{summary['throughput_per_s']:.2f} finished per second",
        "latency      " + _times_of(latency),
        "first item   " + _times_of(summary["first_item_s_p50"]) + "  (p50)",
    ]
    for name, engine in summary["engines"].items():
        lines.append(
            f"engine {name:<6}{engine['busy']:.0%} busy, {engine['prefix_hit_rate']:.0%} of prompt "
            f"tokens cached, {engine['generation_tokens']:,} tokens written, "
            f"{engine['preemptions']} preemptions" + _numbers(engine)
        )
    return "\n".join(lines)


def _times_of(times: dict[str, float]) -> str:
    return "  ".join(
        f"{name} {value:.3f} s" if math.isfinite(value) else f"{name} -"
        for name, value in times.items()
    )


def _numbers(engine: dict[str, Any]) -> str:
    """What an engine did beside writing."""
    told = ""
    if engine["texts_embedded"]:
        told += f", {engine['texts_embedded']:,} texts embedded"
    if engine["documents_reranked"]:
        told += f", {engine['documents_reranked']:,} documents reranked"
    return told
