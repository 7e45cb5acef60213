"""Servers that refuse or are busy, and what is no answer at all: what a caller sees."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hostile import HELLO, SSE, Connection, Script, always, framed, serving
from openai_calls import KEY, ask, failure_of, read, replica_of, run

from alto.engines import openai, openai_replica
from alto.errors import EngineError

pytestmark = pytest.mark.usefixtures("_short_waits")


@pytest.fixture
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that the server did not ask for take next to no time."""
    monkeypatch.setattr(openai_replica, "BUSY_WAIT_S", 0.001)
    monkeypatch.setattr(openai_replica, "FINISH_GRACE_S", 0.05)


def failing(script: Script, call: Any = None, **options: Any) -> EngineError:
    """The error that a call of such a server ends with."""

    async def main() -> EngineError:
        async with serving(script) as server, replica_of(server.url, **options) as replica:
            return await failure_of(replica, call)

    return run(main())


# ---- refusals


def answering(status: int, body: object, headers: tuple[str, ...] = (), **more: Any) -> Script:
    async def script(connection: Connection) -> None:
        while await connection.request():
            await connection.json(status, body, headers, **more)

    return script


@pytest.mark.parametrize(
    ("status", "retryable", "hint"),
    [
        (400, False, "boom"),
        (401, False, "(set api_key or the environment variable OPENAI_API_KEY)"),
        (404, False, "(is model 'm' served there, and does the URL end in /v1?)"),
        (408, True, "boom"),
        (422, False, "boom"),
        (500, True, "boom"),
        (502, True, "boom"),
    ],
)
def test_a_refusal_says_what_the_server_said(status: int, retryable: bool, hint: str) -> None:
    error = failing(answering(status, {"error": {"message": f"boom with {KEY}"}}))
    assert (error.status, error.retryable) == (status, retryable)
    assert f"answered {status} to a chat completion: boom with [api key]" in str(error)
    assert hint in str(error)


def test_a_server_may_say_itself_whether_another_try_can_help() -> None:
    assert not failing(answering(500, {}, ("x-should-retry: false",))).retryable
    assert failing(answering(400, {}, ("x-should-retry: true",))).retryable


def test_a_redirect_is_told_and_not_followed_with_the_key() -> None:
    error = failing(answering(307, b"", ("location: http://elsewhere.test/v1",)))
    assert not error.retryable
    assert "a redirect to http://elsewhere.test/v1 (set the URL to where it points)" in str(error)


def test_a_page_instead_of_an_answer_is_told() -> None:
    page = b"<html><head><title>Log in</title></head></html>"
    error = failing(answering(200, page, kind="text/html"))
    assert "HTML instead of an answer: Log in" in str(error)
    assert "Bad Gateway" in str(failing(answering(502, b"<h1>Bad Gateway</h1>", kind="text/html")))


def test_what_is_not_even_http_is_an_error() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")

    assert "failed before an answer" in str(failing(script))


def test_a_line_without_end_is_given_up() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(SSE)
        while True:
            await connection.send(framed(b"x" * (1 << 20)))

    assert "an event of more than" in str(failing(script))


def test_an_error_body_without_end_is_given_up() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(SSE.replace(b"200", b"500"))
        while True:
            await connection.send(framed(b"x" * (1 << 16)))

    assert failing(script).status == 500


# ---- busy servers


def busy(refusals: int, status: int, *headers: str) -> Script:
    async def script(connection: Connection) -> None:
        while await connection.request():
            if len(connection.server.requests) <= refusals:
                await connection.json(status, {"error": {"message": "busy"}}, headers)
            else:
                await connection.answer(*HELLO)

    return script


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("retry-after: 0",),
        ("retry-after-ms: 5",),
        ("retry-after: Thu, 01 Jan 1970 00:00:00 GMT",),
    ],
)
def test_a_busy_server_is_asked_again(status: int, headers: tuple[str, ...]) -> None:
    async def main() -> None:
        script = busy(openai_replica.BUSY_TRIES_MAX - 1, status, *headers)
        async with serving(script) as server, replica_of(server.url) as replica:
            assert "".join(await read(replica)) == "Hello"
            assert len(server.requests) == openai_replica.BUSY_TRIES_MAX

    run(main())


def test_a_server_that_stays_busy_is_given_up_after_so_many_tries() -> None:
    async def main() -> None:
        async with (
            serving(busy(99, 429, "retry-after-ms: 5")) as server,
            replica_of(server.url) as replica,
        ):
            error = await failure_of(replica)
            assert (error.status, error.retryable, error.retry_after) == (429, True, 0.005)
            assert len(server.requests) == openai_replica.BUSY_TRIES_MAX

    run(main())


def test_a_wait_beyond_the_limit_or_the_deadline_is_told_instead_of_waited() -> None:
    async def main() -> None:
        script = busy(99, 503, "retry-after: 20")
        async with serving(script) as server, replica_of(server.url) as replica:
            deadline = asyncio.get_running_loop().time() + 10
            error = await failure_of(replica, ask(deadline=deadline))
            assert (error.status, error.retry_after) == (503, 20.0)
            assert len(server.requests) == 1
        script = busy(99, 503, "retry-after: 3600")
        async with serving(script) as server, replica_of(server.url) as replica:
            assert (await failure_of(replica)).retry_after == 3600.0
            assert len(server.requests) == 1

    run(main())


def test_a_pool_goes_to_another_server_at_once_when_one_is_busy() -> None:
    async def main() -> None:
        async with (
            serving(busy(99, 429, "retry-after: 3600")) as full,
            serving(always(*HELLO)) as free,
        ):
            spec = openai.OpenAI(urls=[full.url, free.url], model="m", policy="round-robin")
            engine = spec.open("chat")
            for _ in range(4):
                assert "".join([delta async for delta in engine.stream(ask())]) == "Hello"
            assert len(full.requests) == 1
            await engine.aclose()

    run(main())
