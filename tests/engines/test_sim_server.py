"""The served simulated engine, over real sockets: the stock OpenAI client, raw HTTP, metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families

from alto.core.calls import Call
from alto.engines.recorded import Recorded
from alto.engines.sim_server import Server, start
from alto.engines.simulated import Answer, Simulated
from alto.engines.tokens import tokenize
from alto.errors import ConfigError

TEXT = "One small answer. Then a second sentence, and 漢字 at the end."
ASK = [{"role": "user", "content": "Say something."}]


def fast(**settings: Any) -> Simulated:
    settings.setdefault("respond", lambda call: TEXT)
    return Simulated(speed=200.0, **settings)


def served(
    spec: Any, use: Callable[[Server, AsyncOpenAI], Awaitable[None]], **options: Any
) -> None:
    async def main() -> None:
        async with (
            await start(spec, **options) as server,
            AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client,
        ):
            await use(server, client)

    asyncio.run(main())


async def post(server: Server, path: str, body: Any, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await client.post(server.url + path, content=content, headers=headers)


async def get(server: Server, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(server.url.removesuffix("/v1") + path)


# ---------------------------------------------------------------------- the stock client


def test_the_stock_client_gets_a_whole_answer() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(model="sim", messages=ASK, seed=1)
        choice = answer.choices[0]
        assert choice.message.content == TEXT
        assert choice.finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 5 + 3 + 4  # template, head of the answer, words
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + (
            answer.usage.completion_tokens
        )

    served(fast(), use)


def test_the_stock_client_gets_a_stream_and_its_usage() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model="sim", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(pieces) == TEXT
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].choices == []
        usage = chunks[-1].usage
        assert usage is not None
        assert usage.completion_tokens == len(tokenize(TEXT))

    served(fast(), use)


def test_max_tokens_and_stop_strings_end_an_answer() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        short = await client.chat.completions.create(model="sim", messages=ASK, max_tokens=3)
        assert short.choices[0].finish_reason == "length"
        assert short.usage is not None
        assert short.usage.completion_tokens == 3
        assert TEXT.startswith(short.choices[0].message.content or "?")
        new = await client.chat.completions.create(
            model="sim", messages=ASK, max_completion_tokens=2
        )
        assert new.usage is not None
        assert new.usage.completion_tokens == 2
        stopped = await client.chat.completions.create(model="sim", messages=ASK, stop=["second"])
        assert stopped.choices[0].message.content == "One small answer. Then a "
        assert stopped.choices[0].finish_reason == "stop"

    served(fast(), use)


def test_a_json_schema_is_followed() -> None:
    schema = {
        "type": "object",
        "properties": {"names": {"type": "array", "items": {"type": "string"}, "minItems": 2}},
        "required": ["names"],
    }

    async def use(server: Server, client: AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(
            model="sim",
            messages=ASK,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "names", "schema": schema},
            },
        )
        read = json.loads(answer.choices[0].message.content or "")
        assert len(read["names"]) >= 2
        chosen = await client.chat.completions.create(
            model="sim",
            messages=ASK,
            extra_body={"structured_outputs": {"choice": ["left", "right"]}},
        )
        assert chosen.choices[0].message.content in ("left", "right")

    served(fast(respond=None), use)


def test_completions_take_a_raw_prompt() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        whole = await client.completions.create(model="sim", prompt="Say it", max_tokens=100)
        assert whole.choices[0].text == TEXT
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == 2
        stream = await client.completions.create(
            model="sim", prompt=["Say it"], max_tokens=100, stream=True
        )
        assert "".join([chunk.choices[0].text async for chunk in stream]) == TEXT

    served(fast(), use)


def test_token_ids_go_out_and_in() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        asked = {"messages": ASK, "return_token_ids": True}
        whole = (await post(server, "/chat/completions", asked)).json()
        prompt, ids = whole["prompt_token_ids"], whole["choices"][0]["token_ids"]
        assert len(prompt) == whole["usage"]["prompt_tokens"]
        assert len(ids) == whole["usage"]["completion_tokens"]
        rest = {"prompt": [*prompt, *ids[:5]], "max_tokens": None, "return_token_ids": True}
        went_on = (await post(server, "/completions", rest)).json()
        (choice,) = went_on["choices"]
        assert choice["token_ids"] == ids[5:]
        assert choice["prompt_token_ids"] == rest["prompt"]
        assert TEXT.endswith(choice["text"])
        assert went_on["usage"]["prompt_tokens"] == len(prompt) + 5
        short = (await post(server, "/completions", {"prompt": prompt})).json()
        assert short["usage"]["completion_tokens"] == min(16, len(ids))
        for wrong in ([1], [9], [], [[1], [2]], ["a", "b"], [True]):
            refused = await post(server, "/completions", {"prompt": wrong})
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == "prompt"

    served(fast(), use)


def test_reasoning_is_given_apart() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(model="sim", messages=ASK, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
        thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        assert thought == "Let me think."
        assert "".join(delta.content or "" for delta in deltas) == "Yes."

    served(fast(respond=lambda call: Answer("Yes.", "Let me think.")), use)


def test_an_answer_that_was_begun_is_gone_on_with() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(
            model="sim",
            messages=[*ASK, {"role": "assistant", "content": TEXT[:20]}],
            extra_body={"continue_final_message": True, "add_generation_prompt": False},
        )
        assert answer.choices[0].message.content == TEXT[20:]

    served(fast(), use)


def test_tokens_can_be_asked_for_to_the_last() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(
            model="sim", messages=ASK, max_tokens=60, extra_body={"ignore_eos": True}
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 60

    served(fast(), use)


def test_equal_seeds_give_equal_text_and_models_are_listed() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        texts = [
            (await client.chat.completions.create(model="tiny", messages=ASK, seed=seed))
            .choices[0]
            .message.content
            for seed in (1, 1, 2)
        ]
        assert texts[0] == texts[1] != texts[2]
        assert [model.id async for model in client.models.list()] == ["tiny"]

    served(fast(respond=None), use, model_name="tiny")


def test_a_recording_can_be_served() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        known = await client.chat.completions.create(model="sim", messages=ASK)
        assert known.choices[0].message.content == "Something."
        with pytest.raises(openai.BadRequestError, match="no recorded answer"):
            await client.chat.completions.create(
                model="sim", messages=[{"role": "user", "content": "Say nothing."}]
            )

    entry = {"stage": "greet", "prompt": "Say something.", "text": "Something."}
    served(Recorded(entries=[entry], speed=200.0), use)


# ---------------------------------------------------------------------- what is wrong with requests


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        (b"{not json", 400, None, "not JSON"),
        (b"[1]", 400, None, "expected a JSON object"),
        ({"model": "sim"}, 400, "messages", "messages is missing"),
        ({"messages": [{"content": "x"}]}, 400, "messages[0]", "role and content"),
        ({"messages": [{"role": "user", "content": 7}]}, 400, "messages[0].content", "7"),
        ({"messages": ASK, "model": "other"}, 404, "model", "this server has 'sim'"),
        ({"messages": ASK, "n": 0}, 400, "n", "expected an integer of at least 1"),
        ({"messages": ASK, "n": 129}, 400, "n", "n is 129, expected at most 128"),
        ({"messages": ASK, "max_tokens": 0}, 400, "max_tokens", "at least 1"),
        ({"messages": ASK, "temperature": 3}, 400, "temperature", "from 0 to 2"),
        ({"messages": ASK, "stop": [1]}, 400, "stop", "strings"),
        ({"messages": ASK, "logprobs": True}, 400, "logprobs", "not served"),
        ({"messages": ASK, "stream_options": {}}, 400, "stream_options", "stream=true"),
        ({"messages": ASK, "response_format": {"type": "x"}}, 400, "response_format", "'x'"),
        (
            {"messages": ASK, "response_format": {"type": "json_schema"}},
            400,
            "response_format.json_schema.schema",
            "expected a JSON schema",
        ),
        (
            {"messages": ASK, "response_format": {"type": "json_schema", "json_schema": "x"}},
            400,
            "response_format.json_schema.schema",
            "expected a JSON schema",
        ),
        ({"messages": ASK, "tools": 5}, 400, "tools", "expected a list of objects"),
        ({"messages": ASK, "guided_choice": 5}, 400, "guided_choice", "expected a list of texts"),
        (b'{"messages": ' + b"[" * 99_999 + b"]" * 99_999 + b"}", 400, None, "nested too deeply"),
        ({"messages": ASK, "continue_final_message": True}, 400, "messages", "'user'"),
        ({"messages": [{"role": "user", "content": "word " * 900}]}, 400, None, "KV blocks"),
        (
            {"messages": [{"role": "user", "content": "word " * 900}], "stream": True},
            400,
            None,
            "KV blocks",
        ),
    ],
)
def test_a_bad_request_is_answered_with_an_error_object(
    body: Any, status: int, param: str | None, says: str
) -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        answer = await post(server, "/chat/completions", body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, status, param)
        assert says in error["message"]
        assert error["type"] == ("NotFoundError" if status == 404 else "BadRequestError")

    served(fast(kv_tokens=800), use)


def test_unknown_paths_and_methods_are_error_objects_too() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        assert (await get(server, "/v1/nothing")).json()["error"]["code"] == 404
        assert (await get(server, "/v1/chat/completions")).json()["error"]["code"] == 405

    served(fast(), use)


def test_request_ids_go_in_and_out() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        body = {"messages": ASK}
        given = await post(server, "/chat/completions", body, **{"x-request-id": "abc"})
        assert given.headers["x-request-id"] == "abc"
        assert given.json()["id"] == "chatcmpl-abc"
        made = await post(server, "/chat/completions", {**body, "stream": True})
        assert len(made.headers["x-request-id"]) == 32
        assert made.text.endswith("data: [DONE]\n\n")

    served(fast(), use)


def test_a_failure_after_the_first_byte_is_told_in_band() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(model="sim", messages=ASK, stream=True)
        chunks = aiter(stream)
        await anext(chunks)
        await server.sim.aclose()
        with pytest.raises(openai.APIError, match="was closed while it answered"):
            async for _ in chunks:
                pass

    served(Simulated(respond=lambda call: TEXT * 1000, speed=0.05), use)


# ---------------------------------------------------------------------- dropped connections


class Watched:
    """A spec's respond that says when a call has come."""

    def __init__(self) -> None:
        self.came = asyncio.Event()

    def __call__(self, call: Call) -> str:
        self.came.set()
        return "word " * 2000


@pytest.mark.parametrize("stream", [True, False])
def test_a_dropped_connection_frees_its_slot_at_once(stream: bool) -> None:
    async def main() -> None:
        watched = Watched()
        # A step takes 67 s here: nothing but the drop can end the call.
        async with await start(Simulated(respond=watched, speed=1e-4)) as server:
            replica = server.replicas[0]
            port = int(server.url.split(":")[2].split("/")[0])
            body = json.dumps({"messages": ASK, "stream": stream}).encode()
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
            writer.write(head.encode() + b"\r\n\r\n" + body)
            await watched.came.wait()
            assert replica.running + replica.waiting == 1
            writer.transport.abort()
            await replica.idle()
            assert replica.running + replica.waiting == replica.kv_usage == 0
            assert replica.measures.cancelled == 1

    asyncio.run(asyncio.wait_for(main(), 20))


# ---------------------------------------------------------------------- metrics and the rest


def test_metrics_have_the_names_of_vllm() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        for _ in range(2):
            await client.chat.completions.create(
                model="sim", messages=[{"role": "user", "content": "word " * 40}]
            )
        answer = await get(server, "/metrics")
        samples = {
            (sample.name, sample.labels.get("le") or sample.labels.get("finished_reason")): sample
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

        def value(name: str, of: str | None = None) -> float:
            return samples[f"vllm:{name}", of].value

        tokens = 8 + 41  # template; forty words and the space at the end
        assert value("prompt_tokens_total") == 2 * tokens
        assert value("prefix_cache_queries_total") == 2 * tokens
        assert value("prefix_cache_hits_total") == tokens // 16 * 16
        assert value("generation_tokens_total") > 2
        assert value("num_requests_running") == value("num_requests_waiting") == 0
        assert value("kv_cache_usage_perc") == 0
        assert value("num_preemptions_total") == 0
        assert value("request_success_total", "stop") == 2
        for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time"):
            assert value(f"{name}_seconds_count") == 2
        assert value("inter_token_latency_seconds_bucket", "+Inf") == (
            value("generation_tokens_total") - 2
        )
        config = samples["vllm:cache_config_info", None].labels
        assert (config["block_size"], config["num_gpu_blocks"]) == ("16", str(449953 // 16))
        assert config["model_name"] == "sim"

    served(fast(), use)


def test_several_replicas_are_one_server_with_metrics_of_each() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        answers = await asyncio.gather(
            *(client.chat.completions.create(model="sim", messages=ASK) for _ in range(6))
        )
        assert {answer.choices[0].message.content for answer in answers} == {TEXT}
        text = (await get(server, "/metrics")).text
        assert 'engine="0"' in text
        assert 'engine="1"' in text

    served(fast(replicas=2), use)


def test_health_version_load_and_tokenize_answer() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        assert (await get(server, "/health")).status_code == 200
        assert (await get(server, "/ping")).status_code == 200
        assert "version" in (await get(server, "/version")).json()
        assert (await get(server, "/load")).json() == {"server_load": 0}
        async with httpx.AsyncClient() as raw:
            root = server.url.removesuffix("/v1")
            counted = await raw.post(root + "/tokenize", json={"prompt": "three small words"})
            assert counted.json()["count"] == 3
            counted = await raw.post(root + "/tokenize", json={"messages": ASK})
            assert counted.json()["count"] == 12

    served(fast(), use)


def test_a_port_that_is_taken_is_named() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        port = int(server.url.split(":")[2].split("/")[0])
        with pytest.raises(ConfigError, match=f"port {port}"):
            await start(fast(), port=port)

    served(fast(), use)


def test_a_schema_that_demands_more_than_a_model_would_write_is_refused() -> None:
    schema = {"type": "array", "items": {"type": "string"}, "minItems": 1_000_000}

    async def use(server: Server, client: AsyncOpenAI) -> None:
        for stream in (False, True):
            body = {"messages": ASK, "guided_json": schema, "max_tokens": 5, "stream": stream}
            told = await post(server, "/chat/completions", body)
            assert told.status_code == 400
            assert "demand more than 500000 characters" in told.json()["error"]["message"]

    served(Simulated(), use)


def numbered(call: Call) -> Answer:
    """An answer that is longer for each choice."""
    at = (call.seed or 7) - 7
    return Answer(f"Answer {at}." + " And more." * at, reasoning=f"thought {at}")


NUMBERED = {0: "Answer 0.", 1: "Answer 1. And more.", 2: "Answer 2. And more. And more."}


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_stock_client_gets_several_answers_to_one_request(replicas: int) -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        one = await client.chat.completions.create(model="sim", messages=ASK, seed=7)
        chat = await client.chat.completions.create(model="sim", messages=ASK, n=3, seed=7)
        assert {each.index: each.message.content for each in chat.choices} == NUMBERED
        assert {each.finish_reason for each in chat.choices} == {"stop"}
        assert one.usage is not None
        assert chat.usage is not None
        assert chat.usage.prompt_tokens == one.usage.prompt_tokens
        assert chat.usage.completion_tokens > 3 * one.usage.completion_tokens
        text = await client.completions.create(model="sim", prompt="Say.", n=3, seed=7)
        assert {each.index: each.text for each in text.choices} == NUMBERED

    served(fast(respond=numbered, replicas=replicas), use)


@pytest.mark.parametrize("replicas", [1, 2])
def test_several_answers_are_streamed_side_by_side(replicas: int) -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        whole = await client.chat.completions.create(model="sim", messages=ASK, n=3, seed=7)
        texts, thoughts, ends, usages = dict.fromkeys(range(3), ""), set(), {}, []
        asked: Any = {"messages": ASK, "stream_options": {"include_usage": True}}
        async for chunk in await client.chat.completions.create(
            model="sim", n=3, seed=7, stream=True, **asked
        ):
            usages += [chunk.usage] if chunk.usage is not None else []
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                thoughts.add(getattr(choice.delta, "reasoning_content", None))
                if choice.finish_reason is not None:
                    ends[choice.index] = choice.finish_reason
        assert texts == NUMBERED
        assert ends == dict.fromkeys(range(3), "stop")
        assert whole.usage is not None
        assert [usage.completion_tokens for usage in usages] == [whole.usage.completion_tokens]
        texts = dict.fromkeys(range(3), "")
        async for piece in await client.completions.create(
            model="sim", prompt="Say.", n=3, seed=7, stream=True
        ):
            for part in piece.choices:
                texts[part.index] += part.text
        assert texts == NUMBERED
        assert all(each.running == 0 for each in server.replicas)

    served(fast(respond=numbered, replicas=replicas), use)


def test_what_is_wrong_with_a_call_for_several_answers_has_a_status() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        body = {"messages": ASK, "guided_json": {"type": "tuple"}, "stream": True, "n": 2}
        told = await post(server, "/chat/completions", body)
        assert told.status_code == 400
        assert all(each.running == 0 for each in server.replicas)

    served(fast(respond=None), use)


def test_a_reader_that_leaves_ends_all_answers() -> None:
    async def use(server: Server, client: AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model="sim",
            messages=ASK,
            n=3,
            max_tokens=4000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async for _ in stream:
            if server.replicas[0].running == 3:
                break
        await stream.close()
        await server.replicas[0].idle()

    served(Simulated(respond=lambda call: TEXT), use)


def test_the_stock_client_gets_calls_of_tools() -> None:
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    answer = Answer("Let me see.", tool_calls=[call])
    tools: Any = [{"type": "function", "function": {"name": "weather"}}]

    async def use(server: Server, client: AsyncOpenAI) -> None:
        whole = await client.chat.completions.create(model="sim", messages=ASK, tools=tools)
        (choice,) = whole.choices
        assert choice.finish_reason == "tool_calls"
        assert [each.model_dump() for each in choice.message.tool_calls or []] == [call]
        async with client.chat.completions.stream(model="sim", messages=ASK, tools=tools) as stream:
            final = await stream.get_final_completion()
        (streamed,) = final.choices[0].message.tool_calls or []
        assert streamed.function.name == "weather"
        assert streamed.function.arguments == function["arguments"]
        assert final.choices[0].message.content == "Let me see."

    served(fast(respond=lambda call: answer), use)
