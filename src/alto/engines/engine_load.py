"""What a server says of its load and its prefix cache, from its Prometheus page. No I/O.

Servers with the same API queue in different places and name it differently; the names here are
those of vLLM, SGLang, llama.cpp, TensorRT-LLM and TGI. A server with several engines behind it
(data parallelism) gives a line for each; they add up. Numbers of its cache that make no
sense count as unsaid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from ..core.pool_events import CacheFacts

_RUNNING, _WAITING, _ASKED, _FOUND, _CAPACITY = range(5)

_METERS: Mapping[bytes, tuple[int, ...]] = {
    b"vllm:num_requests_running": (_RUNNING,),
    b"vllm:num_requests_waiting": (_WAITING,),
    b"vllm:prefix_cache_queries_total": (_ASKED,),
    b"vllm:prefix_cache_hits_total": (_FOUND,),
    b"vllm:gpu_prefix_cache_queries_total": (_ASKED,),  # before 0.10
    b"vllm:gpu_prefix_cache_hits_total": (_FOUND,),
    b"vllm:cache_config_info": (_CAPACITY,),
    b"sglang:num_running_reqs": (_RUNNING,),
    b"sglang:num_queue_reqs": (_WAITING,),
    b"sglang:prompt_tokens_total": (_ASKED,),
    b"sglang:cached_tokens_total": (_FOUND,),
    b"sglang:cache_config_info": (_CAPACITY,),
    b"llamacpp:requests_processing": (_RUNNING,),
    b"llamacpp:requests_deferred": (_WAITING,),
    b"llamacpp:prompt_tokens_total": (_ASKED,),  # without those found
    b"llamacpp:prompt_tokens_cached_total": (_ASKED, _FOUND),
    b"trtllm_num_requests_running": (_RUNNING,),
    b"trtllm_num_requests_waiting": (_WAITING,),
    b"tgi_batch_current_size": (_RUNNING,),
    b"tgi_queue_size": (_WAITING,),
}

_BLOCK_TOKENS = re.compile(rb'[{,]\s*(?:block_size|page_size)="(\d{1,6})"')
_BLOCKS = re.compile(rb'[{,]\s*(?:num_gpu_blocks|num_pages)="(\d{1,12})"')
_VALUE_MAX = 1e15


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Calls in a server's batch and in its own queue, whoever sent them, and its cache."""

    running: int
    waiting: int
    cache: CacheFacts | None = None
    """None: nothing was said of it."""
    has_slots: bool = False
    """It is a llama.cpp, which says elsewhere (`/props`) how many slots it has."""


def load_of(page: bytes) -> EngineLoad | None:
    """What a page of metrics says, or None if it does not say how many calls run."""
    sums: list[float | None] = [None] * 5
    has_slots = False
    for line in page.splitlines():
        name, _, rest = line.partition(b"{") if b"{" in line else line.partition(b" ")
        for meter in _METERS.get(name, ()):
            value = _capacity(line) if meter == _CAPACITY else _value(rest)
            if value is None and meter in (_RUNNING, _WAITING):
                value = 0.0
            if value is not None:
                sums[meter] = (sums[meter] or 0.0) + value
            has_slots = has_slots or (meter == _RUNNING and name.startswith(b"llamacpp:"))
    running, waiting, asked, found, capacity = sums
    if running is None:
        return None
    counted = asked is not None and found is not None and found <= asked
    cache = CacheFacts(
        capacity_tokens=capacity or None,
        asked_tokens=asked if counted else None,
        found_tokens=found if counted else None,
    )
    said = None if cache == CacheFacts() else cache
    return EngineLoad(round(running), round(waiting or 0.0), said, has_slots)


def with_slots(load: EngineLoad, props: bytes) -> EngineLoad:
    """The same load, and how many slots a llama.cpp says under `/props` that it has."""
    try:
        slots = msgspec.json.decode(props, type=_Props).total_slots
    except (msgspec.DecodeError, UnicodeDecodeError):
        return load
    return replace(load, cache=replace(load.cache or CacheFacts(), slots=slots))


class _Props(msgspec.Struct):
    total_slots: int


def _value(rest: bytes) -> float | None:
    """The number behind the labels, of which a value may hold any character."""
    fields = rest.rpartition(b"}")[2].split()
    try:
        value = float(fields[0]) if fields else math.nan
    except ValueError:
        return None
    return value if 0 <= value < _VALUE_MAX else None


def _capacity(line: bytes) -> float | None:
    """Tokens in all blocks: they stand in the labels of this line, its value is always 1."""
    size, count = _BLOCK_TOKENS.search(line), _BLOCKS.search(line)
    return float(size[1]) * float(count[1]) if size and count else None
