"""What a server's page of metrics says about its load."""

from __future__ import annotations

import pytest

from alto.core.pool_events import CacheFacts
from alto.engines.engine_load import EngineLoad, load_of, with_slots

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta/llama} 9"} 3.0
vllm:num_requests_running{engine="1",model_name="meta/llama} 9"} 4.0
vllm:num_requests_waiting{engine="0",model_name="meta/llama} 9"} 2.0
vllm:num_requests_waiting_by_reason{reason="capacity"} 100.0
"""


@pytest.mark.parametrize(
    ("page", "load"),
    [
        (VLLM, EngineLoad(7, 2)),
        (b'sglang:num_running_reqs{m="x"} 1.0\nsglang:num_queue_reqs{m="x"} 5.0', EngineLoad(1, 5)),
        (
            b"llamacpp:requests_processing 2\r\nllamacpp:requests_deferred 1\r\n",
            EngineLoad(2, 1, has_slots=True),
        ),
        (b"vllm:num_requests_running 2 1730000000000", EngineLoad(2, 0)),
        (b"vllm:num_requests_running NaN\nvllm:num_requests_waiting +Inf", EngineLoad(0, 0)),
        (b"vllm:num_requests_running\nvllm:num_requests_waiting many", EngineLoad(0, 0)),
        (b"vllm:num_requests_waiting 2", None),
        (b"process_cpu_seconds_total 7", None),
        (b"<html>not found</html>", None),
        (b"", None),
    ],
)
def test_the_load_on_a_page_of_metrics(page: bytes, load: EngineLoad | None) -> None:
    assert load_of(page) == load


RUNS = {
    "vllm": b"vllm:num_requests_running 1\n",
    "sglang": b"sglang:num_running_reqs 1\n",
    "llamacpp": b"llamacpp:requests_processing 1\n",
}
PAGES = [
    (
        "vllm",
        b'vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="2000"} 1.0\n'
        b'vllm:prefix_cache_queries_total{engine="0"} 1000.0\n'
        b'vllm:prefix_cache_queries_created{engine="0"} 1.7e9\n'
        b'vllm:prefix_cache_hits_total{engine="0"} 250.0\n',
        CacheFacts(capacity_tokens=32_000, asked_tokens=1000, found_tokens=250),
    ),
    (
        "vllm",
        b'vllm:cache_config_info{engine="0",num_gpu_blocks="100",block_size="16"} 1.0\n'
        b'vllm:cache_config_info{engine="1",num_gpu_blocks="200",block_size="16"} 1.0\n',
        CacheFacts(capacity_tokens=4800),
    ),
    (
        "vllm",
        b"vllm:gpu_prefix_cache_queries_total 10\nvllm:gpu_prefix_cache_hits_total 4\n",
        CacheFacts(asked_tokens=10, found_tokens=4),
    ),
    ("vllm", b'vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0\n', None),
    ("vllm", b'vllm:cache_config_info{block_size="16",num_gpu_blocks="0"} 1.0\n', None),
    ("vllm", b'vllm:cache_config_info{block_size="-1",num_gpu_blocks="7"} 1.0\n', None),
    ("vllm", b'vllm:cache_config_info{cpu_block_size="16",num_gpu_blocks="7"} 1.0\n', None),
    ("vllm", b"vllm:prefix_cache_queries_total 10\nvllm:prefix_cache_hits_total 11\n", None),
    ("vllm", b"vllm:prefix_cache_queries_total NaN\nvllm:prefix_cache_hits_total 1\n", None),
    ("vllm", b"vllm:prefix_cache_queries_total 1\n", None),
    (
        "sglang",
        b'sglang:cache_config_info{num_pages="500",page_size="64"} 1.0\n'
        b'sglang:prompt_tokens_total{model="m"} 900\nsglang:cached_tokens_total{model="m"} 300\n'
        b"sglang:cache_hit_rate 0.9\n",
        CacheFacts(capacity_tokens=32_000, asked_tokens=900, found_tokens=300),
    ),
    (
        "llamacpp",
        b"llamacpp:prompt_tokens_total 600\nllamacpp:prompt_tokens_cached_total 300\n",
        CacheFacts(asked_tokens=900, found_tokens=300),
    ),
    ("llamacpp", b"llamacpp:prompt_tokens_total 600\n", None),
]


@pytest.mark.parametrize(("engine", "page", "cache"), PAGES)
def test_the_cache_on_a_page_of_metrics(engine: str, page: bytes, cache: CacheFacts | None) -> None:
    load = load_of(RUNS[engine] + page)
    assert load is not None
    assert (load.cache, load.has_slots) == (cache, engine == "llamacpp")


@pytest.mark.parametrize(
    ("props", "slots"),
    [
        (b'{"total_slots":3,"model_path":"m.gguf"}', 3),
        (b'{"total_slots":"3"}', None),
        (b'{"total_slots":null}', None),
        (b'{"default_generation_settings":{"total_slots":3}}', None),
        (b"[3]", None),
        (b'{"total_slots":3', None),
        (b"\xff\xfe", None),
        (b"", None),
    ],
)
def test_the_slots_of_a_server_stand_on_another_page(props: bytes, slots: int | None) -> None:
    load = EngineLoad(1, 0, CacheFacts(asked_tokens=9, found_tokens=3), has_slots=True)
    cache = with_slots(load, props).cache
    assert cache == CacheFacts(slots=slots, asked_tokens=9, found_tokens=3)
    bare = with_slots(EngineLoad(1, 0), props).cache
    assert bare == (None if slots is None else CacheFacts(slots=slots))
