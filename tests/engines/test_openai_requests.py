"""What a call sends: every field, in the form that the server takes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hostile import DONE, HELLO, Connection, always, serving, stop, text
from openai_calls import KEY, ask, failure_of, read, replica_of, run

import alto
from alto.core.calls import Call
from alto.engines import dialect
from alto.engines.dialect import is_strict
from alto.engines.http import proxy_for
from alto.engines.openai import OpenAI

SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}
OTHER_SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


def sent(call: Call, **options: Any) -> dict[str, Any]:
    """The body that a call is sent with."""

    async def main() -> dict[str, Any]:
        async with serving(always(*HELLO)) as server, replica_of(server.url, **options) as replica:
            await read(replica, call)
            return server.requests[0].body

    return run(main())


def test_a_plain_call_asks_for_a_stream_with_usage() -> None:
    assert sent(ask("Hi")) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_every_field_of_a_call_goes_along() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    body = sent(
        ask(
            model="other",
            max_tokens=7,
            temperature=0.0,
            stop=("\n", "END"),
            seed=3,
            tools=tools,
            schema=SCHEMA,
            schema_name="list[my Claim]",
            extra={"top_k": 1, "priority": 2},
        ),
        extra={"priority": 1, "ignore_eos": True, "stream_options": None},
    )
    assert body == {
        "model": "other",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "max_tokens": 7,
        "temperature": 0.0,
        "stop": ["\n", "END"],
        "seed": 3,
        "tools": tools,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "list_my_Claim_", "schema": SCHEMA, "strict": True},
        },
        "top_k": 1,
        "priority": 2,
        "ignore_eos": True,
    }


def test_images_go_along_as_they_are() -> None:
    parts = [
        {"type": "text", "text": "What is this? 日本"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    call = Call(messages=[{"role": "user", "content": parts}])
    assert sent(call)["messages"] == [{"role": "user", "content": parts}]


@pytest.mark.parametrize(
    ("guided", "fields"),
    [
        ("structured_outputs", {"structured_outputs": {"json": SCHEMA}}),
        ("guided_json", {"guided_json": SCHEMA}),
        ("off", {}),
    ],
)
def test_a_schema_goes_the_way_it_is_told(guided: str, fields: dict[str, Any]) -> None:
    body = sent(ask(schema=SCHEMA), guided=guided)
    plain = sent(ask())
    assert {k: v for k, v in body.items() if k not in plain} == fields


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (SCHEMA, True),
        (OTHER_SCHEMA, False),
        ({**SCHEMA, "required": []}, False),
        ({"type": "array", "items": SCHEMA}, True),
        ({"type": "array", "items": OTHER_SCHEMA}, False),
        ({"anyOf": [SCHEMA, {"type": "object"}]}, False),
        ({"enum": ["a", "b"]}, True),
    ],
)
def test_strict_is_asked_for_where_hosted_models_would_take_it(
    schema: dict[str, Any], strict: bool
) -> None:
    assert is_strict(schema) is strict


def test_the_key_headers_and_a_fresh_request_id_go_along() -> None:
    async def main() -> None:
        headers = {"X-Tenant": "t"}
        async with (
            serving(always(*HELLO)) as server,
            replica_of(server.url, headers=headers) as replica,
        ):
            await read(replica, ask(request="req 1"))
            await read(replica, ask(request="req 1"))
        first, second = server.requests
        assert first.line == "POST /v1/chat/completions HTTP/1.1"
        assert first.headers["authorization"] == f"Bearer {KEY}"
        assert first.headers["x-tenant"] == "t"
        assert first.headers["content-type"] == "application/json"
        assert first.headers["x-request-id"].startswith("req_1-")
        assert first.headers["x-request-id"] != second.headers["x-request-id"]

    run(main())


def test_a_query_in_the_url_stays_behind_the_path() -> None:
    async def main() -> None:
        async with (
            serving(always(*HELLO)) as server,
            replica_of(server.url + "?api-version=7") as replica,
        ):
            await read(replica)
        assert server.requests[0].line == "POST /v1/chat/completions?api-version=7 HTTP/1.1"

    run(main())


def test_the_key_comes_from_the_environment_when_none_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_KEY", "from-env")

    async def main() -> None:
        async with serving(always(*HELLO)) as server:
            async with replica_of(server.url, api_key=None, api_key_env="MY_KEY") as replica:
                await read(replica)
            async with replica_of(server.url, api_key=None, api_key_env="UNSET") as replica:
                await read(replica)
        assert server.requests[0].headers["authorization"] == "Bearer from-env"
        assert "authorization" not in server.requests[1].headers

    run(main())


def test_the_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(always(*HELLO)) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
            monkeypatch.setenv("no_proxy", "direct.test")
            assert proxy_for("http://direct.test/v1") is None
            async with replica_of("http://engine.test/v1") as replica:
                assert "".join(await read(replica)) == "Hello"
        asked = proxy.requests[0].line
        assert asked == "POST http://engine.test/v1/chat/completions HTTP/1.1"

    run(main())


def test_messages_that_have_no_json_form_are_the_callers_mistake() -> None:
    async def main() -> None:
        async with serving(always(*HELLO)) as server, replica_of(server.url) as replica:
            error = await failure_of(
                replica, Call(messages=[{"role": "user", "content": object()}])
            )
            assert not error.retryable
            assert "cannot be written as JSON" in str(error)
        assert server.requests == []

    run(main())


# ---- servers that refuse a part of the request


def refusing(status: int, message: str, refused: str) -> Any:
    """A server that refuses requests with a certain field."""

    async def script(connection: Connection) -> None:
        while request := await connection.request():
            if refused in request.raw.decode():
                await connection.json(status, {"error": {"message": message}})
            else:
                await connection.answer(*HELLO)

    return script


@pytest.mark.parametrize(
    ("status", "message", "refused"),
    [
        (400, "response_format is not supported", "response_format"),
        (422, "Extra inputs are not permitted: body.response_format", "response_format"),
        (501, "json_schema: not implemented", "response_format"),
        (400, "Unknown parameter: stream_options", "stream_options"),
        (
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            '"max_tokens"',
        ),
    ],
)
def test_a_refused_field_is_given_up_once_and_for_all(
    status: int, message: str, refused: str
) -> None:
    async def main() -> None:
        async with (
            serving(refusing(status, message, refused)) as server,
            replica_of(server.url) as replica,
        ):
            for schema in (SCHEMA, SCHEMA, OTHER_SCHEMA):
                assert "".join(await read(replica, ask(schema=schema, max_tokens=5))) == "Hello"
        assert [refused in request.raw.decode() for request in server.requests] == [
            True,
            False,
            False,
            False,
        ]

    run(main())


def test_a_refused_schema_is_given_up_and_others_are_still_sent() -> None:
    async def main() -> None:
        message = "Invalid schema for response_format: 'text' is not allowed"
        async with (
            serving(refusing(400, message, '"text":{')) as server,
            replica_of(server.url) as replica,
        ):
            for schema in (SCHEMA, SCHEMA, OTHER_SCHEMA):
                assert "".join(await read(replica, ask(schema=schema))) == "Hello"
        assert ["response_format" in request.body for request in server.requests] == [
            True,
            False,
            False,
            True,
        ]

    run(main())


def test_a_server_that_refuses_schema_after_schema_is_sent_none_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialect, "REFUSED_SCHEMAS_MAX", 3)
    known = dialect.Dialect("m")
    for n in range(3):
        call = ask(schema={"const": n})
        form = known.simpler(call, known.form_for(call), 400, "bad schema")
        assert form is not None
        known.learned(call, form)
        assert known.form_for(call).guided == "not this schema"
        assert known.form_for(ask(schema={"const": "new"})).guided == "sent"
    call = ask(schema={"const": 3})
    known.learned(call, dialect.Form(guided="not this schema"))
    assert known.form_for(ask(schema={"const": "new"})).guided == "never"


def test_a_refusal_that_only_echoes_the_request_changes_nothing() -> None:
    async def script(connection: Connection) -> None:
        while request := await connection.request():
            if "bad" in request.raw.decode():
                echo = {"detail": [{"msg": "no such role", "input": request.body}]}
                await connection.json(400, echo)
            else:
                await connection.answer(*HELLO)

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            error = await failure_of(replica, ask("bad", schema=SCHEMA))
            assert (error.status, error.retryable) == (400, False)
            await read(replica, ask("good", schema=SCHEMA))
        assert "response_format" in server.requests[-1].body
        assert "stream_options" in server.requests[-1].body

    run(main())


def test_a_way_of_guiding_that_was_asked_for_is_not_given_up() -> None:
    async def main() -> None:
        async with (
            serving(refusing(400, "response_format: no", "response_format")) as server,
            replica_of(server.url, guided="response_format") as replica,
        ):
            error = await failure_of(replica, ask(schema=SCHEMA))
        assert "response_format: no" in str(error)
        assert len(server.requests) == 1

    run(main())


def test_a_server_that_ignores_the_schema_and_the_stream_is_taken_as_it_is() -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            choice = {"message": {"content": "plain text"}, "finish_reason": "stop"}
            await connection.json(200, {"choices": [choice]})

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            deltas = await read(replica, ask(schema=SCHEMA))
            assert "".join(deltas) == "plain text"
            assert deltas[-1].finish_reason == "stop"

    run(main())


def test_many_calls_at_once_share_connections() -> None:
    all_asked = asyncio.Event()

    async def script(connection: Connection) -> None:
        while request := await connection.request():
            if len(connection.server.requests) == 20:
                all_asked.set()
            await all_asked.wait()
            await connection.answer(text(request.body["messages"][0]["content"]), stop(), DONE)

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            calls = [asyncio.create_task(read(replica, ask(str(n)))) for n in range(20)]
            assert ["".join(await call) for call in calls] == [str(n) for n in range(20)]
            for n in range(50):
                await read(replica, ask(str(n)))
        assert server.connections == 20

    run(main())


@pytest.mark.parametrize(("server", "number"), [("vllm", -2), ("sglang", 2), (None, None)])
def test_a_priority_goes_along_in_the_servers_own_sense(server: Any, number: int | None) -> None:
    assert sent(ask(priority=2), priority=server).get("priority") == number


def test_an_unknown_sense_of_priority_is_refused() -> None:
    with pytest.raises(alto.ConfigError, match="priority is 'high', expected one of vllm, sglang"):
        alto.OpenAI(url="http://h/v1", model="m", priority="high")  # type: ignore[arg-type]


# ---- servers that refuse a field and do not say which


STRICT = "Extra inputs are not permitted"


@pytest.mark.parametrize(
    ("refused", "tries"),
    [
        ("return_token_ids", [["stream_options"]]),  # what it cost is still asked for
        ("stream_options", [["stream_options"], []]),
    ],
)
def test_a_field_of_ours_that_is_refused_without_a_name_is_found_out(
    refused: str, tries: list[list[str]]
) -> None:
    fields = ["return_token_ids", "stream_options"]

    async def main() -> None:
        async with serving(refusing(422, STRICT, refused)) as server:
            replica, other = OpenAI(urls=[server.url, "http://other"], model="m").replicas("chat")
            for _ in range(2):
                assert "".join(await read(replica, ask())) == "Hello"
            await replica.aclose()
            await other.aclose()
        bodies = [request.body for request in server.requests]
        found = [[name for name in fields if name in body] for body in bodies]
        assert found == [fields, *tries, tries[-1]]

    run(main())


def test_a_server_that_has_taken_our_fields_is_not_asked_again_without_them() -> None:
    async def main() -> None:
        async with (
            serving(refusing(400, "no", "bad")) as server,
            replica_of(server.url) as replica,
        ):
            await read(replica, ask("good"))
            error = await failure_of(replica, ask("bad"))
            assert error.status == 400
            assert len(server.requests) == 2

    run(main())


@pytest.mark.parametrize("message", ["this model's maximum context length is 8", "messages: bad"])
def test_a_refusal_of_what_the_caller_asked_is_none_of_our_fields(message: str) -> None:
    async def main() -> None:
        async with (
            serving(refusing(400, message, "stream")) as server,
            replica_of(server.url) as replica,
        ):
            await failure_of(replica)
            assert len(server.requests) == 1

    run(main())


def test_an_end_that_cannot_be_left_open_is_given_up_too() -> None:
    known = dialect.Dialect("m")
    known.learned(ask(), known.form_for(ask()))
    resumed = ask(extra={"continue_final_message": True, "add_generation_prompt": False})
    form = known.form_for(resumed)
    simpler = known.simpler(resumed, form, 400, STRICT)
    assert simpler is not None
    assert (simpler.open_end, simpler.usage_option) == (False, True)
    assert known.simpler(resumed, simpler, 400, STRICT) is None
