"""Servers that break off, stall or vanish: what a caller of the replica sees."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import pytest
from hostile import DONE, HELLO, SSE, Connection, Script, always, event, framed, serving, stop, text
from openai_calls import ask, failure_of, read, replica_of, run

from alto.core.calls import Usage
from alto.engines import http, openai_replica
from alto.errors import DeadlineExceeded, EngineError

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


# ---- connections that the server closes


def test_a_kept_connection_that_had_died_is_replaced_at_once() -> None:
    """The server closes after each answer without saying so, as llama-server does."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(*HELLO)

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            for _ in range(50):
                assert "".join(await read(replica)) == "Hello"

    run(main())


@pytest.mark.parametrize("way", ["close", "reset"])
def test_a_reused_connection_that_dies_before_its_answer_is_no_failure(way: str) -> None:
    """The server takes a second request on the connection, and then dies instead of answering."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(*HELLO)
        await connection.request()
        if way == "reset":
            connection.reset()

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            assert "".join(await read(replica)) == "Hello"
            assert "".join(await read(replica)) == "Hello"
            assert (server.connections, len(server.requests)) == (2, 3)

    run(main())


@pytest.mark.parametrize("way", ["close", "reset"])
def test_a_fresh_connection_that_dies_is_a_failure_and_is_not_asked_twice(way: str) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        if way == "reset":
            connection.reset()

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            error = await failure_of(replica)
            assert error.retryable
            assert "failed before an answer" in str(error)
            assert len(server.requests) == 1

    run(main())


def test_answers_are_read_to_the_end_so_that_connections_are_reused() -> None:
    """The formal end of the body comes late, in a packet of its own."""
    ended = asyncio.Event()

    async def script(connection: Connection) -> None:
        while await connection.request():
            await connection.answer(*HELLO, end=False)
            await ended.wait()
            await connection.send(b"0\r\n\r\n")

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            await read(replica)
            ended.set()
            assert replica._client is not None
            await asyncio.gather(*replica._client._draining)
            assert "".join(await read(replica)) == "Hello"
            assert server.connections == 1

    run(main())


def test_a_body_that_never_ends_costs_its_connection_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "DRAIN_S", 0.01)
    left = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(*HELLO, end=False)
        await connection.left()
        left.set()

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            assert "".join(await read(replica)) == "Hello"
            await left.wait()

    run(main())


def test_no_more_connections_than_allowed_are_made() -> None:
    async def main() -> None:
        async with (
            serving(always(*HELLO)) as server,
            replica_of(server.url, max_connections=2) as replica,
        ):
            answers = await asyncio.gather(*(read(replica) for _ in range(10)))
            assert ["".join(deltas) for deltas in answers] == ["Hello"] * 10
            assert server.connections == 2

    run(main())


# ---- answers that break off


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (SSE + framed(text("Hel")), "after 3 characters of the answer"),
        (SSE + framed(text("Hel")) + framed(text("lo"))[:-9], "after 3 characters of the answer"),
        (SSE + framed(text("Hel")) + b"0\r\n\r\n", "broke off after 3 characters"),
        (SSE + framed(text("Hel")) + framed(event({"error": {"message": "boom"}})), "boom"),
        (SSE + framed(text("Hel")) + framed(b"data: {]\n\n"), "a chunk that is not JSON: {]"),
    ],
)
def test_a_text_that_breaks_off_is_an_error_after_its_text(sent: bytes, message: str) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(sent)

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            given = []
            with pytest.raises(EngineError, match=message.replace("]", r"\]")) as caught:
                async with aclosing(replica.stream(ask())) as stream:
                    async for delta in stream:
                        given.append(delta)
            assert given == ["Hel"]
            assert caught.value.retryable
            assert caught.value.engine == "chat"
            assert "engine chat: call of http://127.0.0.1:" in str(caught.value)

    run(main())


def test_text_that_came_before_the_break_is_given_to_a_reader_who_was_away() -> None:
    away, broken = asyncio.Event(), asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(text("Hel"), end=False)
        await away.wait()
        await connection.send(framed(text("lo")), b"no chunk size\r\n")
        await connection.left()  # the client closes when it sees the nonsense
        broken.set()

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            stream = replica.stream(ask())
            assert await anext(stream) == "Hel"
            away.set()
            await broken.wait()
            assert await anext(stream) == "lo"
            with pytest.raises(EngineError, match="after 5 characters of the answer"):
                await anext(stream)

    run(main())


def test_an_answer_without_the_formal_end_is_whole_once_it_has_a_finish_reason() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(SSE, framed(text("Hello")), framed(stop()))

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            deltas = await read(replica)
            assert "".join(deltas) == "Hello"
            assert deltas[-1].finish_reason == "stop"
            assert deltas[-1].usage == Usage(calls=1)

    run(main())


def test_a_server_that_goes_silent_after_the_finish_reason_is_not_waited_for() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(text("Hello"), stop(), end=False)
        await connection.left()

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            assert "".join(await read(replica)) == "Hello"

    run(main())


def test_the_last_delta_has_reason_and_usage_and_no_other_has() -> None:
    async def main() -> None:
        async with serving(always(*HELLO)) as server, replica_of(server.url) as replica:
            *before, last = await read(replica)
            assert before == ["Hel", "lo"]
            assert [(delta.finish_reason, delta.usage) for delta in before] == [(None, None)] * 2
            assert (last, last.finish_reason) == ("", "stop")
            assert last.usage == Usage(5, 2, calls=1)

    run(main())


# ---- time


def test_a_stall_in_the_text_is_an_error() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(text("Hel"), end=False)
        await connection.left()

    error = failing(script, stall_timeout=0.05)
    assert error.retryable
    assert "after 3 characters of the answer: not a byte for 0.05 s" in str(error)


def test_signs_of_life_are_no_text() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(end=False)
        while True:
            await connection.send(framed(b": still here\n\n"))
            await asyncio.sleep(0.005)

    error = failing(script, first_chunk_timeout=0.1, stall_timeout=5.0)
    assert "nothing but signs of life for 0.1 s" in str(error)
    assert error.retryable


def test_an_answer_that_is_whole_does_not_wait_for_its_goodbye_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("alto.engines.openai_replica.FINISH_GRACE_S", 0.1)

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(text("Hello"), stop(), end=False)
        while True:
            await connection.send(framed(b": still here\n\n"))
            await asyncio.sleep(0.005)

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            deltas = await read(replica)
            assert "".join(deltas) == "Hello"
            assert deltas[-1].finish_reason == "stop"

    run(main())


def test_a_reader_that_takes_its_time_is_no_stall_of_the_server() -> None:
    async def main() -> None:
        async with (
            serving(always(*HELLO)) as server,
            replica_of(server.url, stall_timeout=0.02) as replica,
        ):
            given = []
            async for delta in replica.stream(ask()):
                given.append(delta)
                await asyncio.sleep(0.05)
            assert "".join(given) == "Hello"

    run(main())


@pytest.mark.parametrize("spoken", [b"", SSE])
def test_a_server_that_never_begins_is_an_error(spoken: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(spoken)
        await connection.left()

    error = failing(script, first_chunk_timeout=0.05)
    assert error.retryable
    assert "0.05 s" in str(error)


@pytest.mark.parametrize("spoken", [(), (text("Hel"),)])
def test_the_deadline_of_the_call_ends_it(spoken: tuple[bytes, ...]) -> None:
    seen_leaving = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        if spoken:
            await connection.answer(*spoken, end=False)
        await connection.left()
        seen_leaving.set()

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            deadline = asyncio.get_running_loop().time() + 0.05
            with pytest.raises(DeadlineExceeded, match="ran out of its time"):
                await read(replica, ask(deadline=deadline))
            await seen_leaving.wait()

    run(main())


def test_a_deadline_that_has_passed_ends_a_call_before_it_starts() -> None:
    async def main() -> None:
        async with serving(always(*HELLO)) as server, replica_of(server.url) as replica:
            with pytest.raises(DeadlineExceeded):
                await read(replica, ask(deadline=asyncio.get_running_loop().time() - 1))

    run(main())


# ---- no connection


def test_a_refused_connection_is_an_error_that_asks_the_right_question() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

    async def main() -> None:
        async with replica_of(f"http://127.0.0.1:{port}/v1") as replica:
            error = await failure_of(replica)
            assert error.retryable
            assert "is the server up, and the URL right?" in str(error)

    run(main())


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port where connecting hangs: its queue of connections is full and nobody takes them."""
    fillers = []
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
            fillers.append(filler)
        try:
            yield listening.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


def test_a_connection_that_hangs_is_given_up() -> None:
    async def main(port: int) -> None:
        url = f"http://127.0.0.1:{port}/v1"
        async with replica_of(url, connect_timeout=0.05) as replica:
            error = await failure_of(replica)
            assert error.retryable
            assert "no connection within 0.05 s" in str(error)

    with deaf_port() as port:
        run(main(port))


def test_a_host_that_does_not_exist_is_an_error() -> None:
    async def main() -> None:
        async with replica_of("http://nowhere.invalid/v1") as replica:
            assert "is the server up, and the URL right?" in str(await failure_of(replica))

    run(main())


def test_tls_to_a_server_without_it_is_an_error() -> None:
    async def main() -> None:
        async with (
            serving(always(*HELLO)) as server,
            replica_of(server.url.replace("http:", "https:")) as replica,
        ):
            error = await failure_of(replica)
            assert error.retryable
            assert "is the server up, and the URL right?" in str(error)

    run(main())


# ---- cancelling and closing


@pytest.mark.parametrize("spoken", [(), (text("Hel"),)])
@pytest.mark.parametrize("way", ["cancel", "aclose"])
def test_leaving_a_call_closes_its_connection(spoken: tuple[bytes, ...], way: str) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        if spoken:
            await connection.answer(*spoken, end=False)
        asked.set()
        await connection.left()
        left.set()

    async def main() -> None:
        async with serving(script) as server, replica_of(server.url) as replica:
            if way == "cancel":
                task = asyncio.create_task(read(replica))
                await asked.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            elif spoken:
                stream = replica.stream(ask())
                assert await anext(stream) == "Hel"
                await stream.aclose()
            else:
                return
            await left.wait()

    run(main())


def test_stopping_at_the_last_delta_leaves_nothing_open() -> None:
    async def main() -> None:
        async with serving(always(*HELLO)) as server, replica_of(server.url) as replica:
            for _ in range(3):
                stream = replica.stream(ask())
                async for delta in stream:
                    if delta.finish_reason:
                        break
                await stream.aclose()
            assert server.connections == 1

    run(main())


def test_closing_the_replica_ends_calls_under_way_with_an_error() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(text("Hel"), end=False)
        asked.set()
        await connection.left()
        left.set()

    async def main() -> None:
        async with serving(script) as server:
            async with replica_of(server.url, max_connections=1) as replica:
                reading = asyncio.create_task(failure_of(replica))
                await asked.wait()
                queued = asyncio.create_task(failure_of(replica))
                await asyncio.sleep(0)
            assert "after 3 characters of the answer" in str(await reading)
            assert not (await queued).retryable
            assert "after it was closed" in str(await failure_of(replica))
            await left.wait()

    run(main())


def test_a_large_prompt_to_a_server_that_does_not_read_leaves_no_transport() -> None:
    sending = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.some()
        sending.set()
        await asyncio.Event().wait()

    async def main() -> None:
        async with serving(script) as server:
            async with replica_of(server.url) as replica:
                task = asyncio.create_task(read(replica, ask("x" * (32 << 20))))
                await sending.wait()
                assert len(transports_to(server.url)) == 1
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert transports_to(server.url) == []

    run(main())


def transports_to(url: str) -> list[asyncio.Transport]:
    """The open transports to a server in this process."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    return [
        thing
        for thing in gc.get_objects()
        if isinstance(thing, asyncio.Transport)
        and (thing.get_extra_info("peername") or (None, None))[1] == port
        and getattr(thing, "_sock", None) is not None
    ]


def test_done_is_not_waited_for_beyond_the_body() -> None:
    async def main() -> None:
        async with (
            serving(always(text("Hello"), stop(), DONE)) as server,
            replica_of(server.url) as replica,
        ):
            assert "".join(await read(replica)) == "Hello"

    run(main())
