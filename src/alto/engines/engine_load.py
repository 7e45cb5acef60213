"""How busy a server says it is: two numbers from its Prometheus page. No I/O.

Servers with the same API queue in different places and name it differently; the names here are
those of vLLM, SGLang, llama.cpp, TensorRT-LLM and TGI. A server with several engines behind it
(data parallelism) gives a line for each; they add up.
"""

from __future__ import annotations

from dataclasses import dataclass

RUNNING = frozenset(
    {
        b"vllm:num_requests_running",
        b"sglang:num_running_reqs",
        b"llamacpp:requests_processing",
        b"trtllm_num_requests_running",
        b"tgi_batch_current_size",
    }
)
WAITING = frozenset(
    {
        b"vllm:num_requests_waiting",
        b"sglang:num_queue_reqs",
        b"llamacpp:requests_deferred",
        b"trtllm_num_requests_waiting",
        b"tgi_queue_size",
    }
)


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Calls in a server's batch and in its own queue, whoever sent them."""

    running: int
    waiting: int


def load_of(page: bytes) -> EngineLoad | None:
    """What a page of metrics says, or None if it does not say how many calls run."""
    running = waiting = 0.0
    told = False
    for line in page.splitlines():
        name, _, rest = line.partition(b"{") if b"{" in line else line.partition(b" ")
        if name in RUNNING:
            running += _value(rest)
            told = True
        elif name in WAITING:
            waiting += _value(rest)
    return EngineLoad(round(running), round(waiting)) if told else None


def _value(rest: bytes) -> float:
    """The number behind the labels, of which a value may hold any character."""
    fields = rest.rpartition(b"}")[2].split()
    try:
        value = float(fields[0]) if fields else 0.0
    except ValueError:
        return 0.0
    return value if 0 <= value < 1e9 else 0.0
