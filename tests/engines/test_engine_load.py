"""What a server's page of metrics says about its load."""

from __future__ import annotations

import pytest

from alto.engines.engine_load import EngineLoad, load_of

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
        (b"llamacpp:requests_processing 2\r\nllamacpp:requests_deferred 1\r\n", EngineLoad(2, 1)),
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
