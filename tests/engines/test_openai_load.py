"""What a replica hears of its server's load, and tells, while calls are under way."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from hostile import DONE, HELLO, Connection, Script, serving, stop, text
from openai_calls import ask, read, replica_of, run

from alto.core.calls import Call
from alto.core.pool_events import CacheFacts
from alto.engines.engine_load import EngineLoad
from alto.engines.openai import OpenAI

PAGE = b'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 2.0\n'


def with_metrics(status: int, page: bytes, asked: asyncio.Event, finish: asyncio.Event) -> Script:
    """A server that writes until `finish`, and has a page of metrics."""

    async def script(connection: Connection) -> None:
        while request := await connection.request():
            if request.line.startswith("GET"):
                asked.set()
                await connection.json(status, page, kind="text/plain")
            else:
                await connection.answer(text("Hel"), end=False)
                await finish.wait()
                await connection.send(b"%x\r\n%s\r\n" % (len(DONE), DONE), b"0\r\n\r\n")

    return script


def test_the_load_is_told_while_a_call_is_under_way_and_forgotten_afterwards() -> None:
    async def main() -> None:
        finish, done = asyncio.Event(), asyncio.Event()
        told: list[EngineLoad] = []

        def tell(load: EngineLoad) -> None:
            told.append(load)
            finish.set()
            if load == EngineLoad(0, 0):
                done.set()

        script = with_metrics(200, PAGE, asyncio.Event(), finish)
        async with (
            serving(script) as server,
            replica_of(server.url, metrics_interval=0.01) as replica,
        ):
            replica.tell_load(tell)
            await read(replica)
            await done.wait()
            assert told[0] == EngineLoad(3, 2)
            assert told[-1] == EngineLoad(0, 0)
        asked = [request.line for request in server.requests if request.line.startswith("GET")]
        assert asked[0] == "GET /metrics HTTP/1.1"

    run(main())


def test_a_llama_cpp_is_asked_once_how_many_slots_it_has() -> None:
    async def main() -> None:
        finish = asyncio.Event()
        told: list[EngineLoad] = []

        def tell(load: EngineLoad) -> None:
            told.append(load)
            if len(told) == 2:
                finish.set()

        async def script(connection: Connection) -> None:
            while request := await connection.request():
                if request.line.startswith("GET /props "):
                    await connection.json(200, b'{"total_slots":3}')
                elif request.line.startswith("GET"):
                    await connection.json(200, b"llamacpp:requests_processing 1", kind="text/plain")
                else:
                    await connection.answer(text("Hel"), end=False)
                    await finish.wait()
                    await connection.send(b"%x\r\n%s\r\n" % (len(DONE), DONE), b"0\r\n\r\n")

        async with (
            serving(script) as server,
            replica_of(server.url, metrics_interval=0.01) as replica,
        ):
            replica.tell_load(tell)
            await read(replica)
        assert [load.cache for load in told[:2]] == [CacheFacts(slots=3)] * 2
        asked = [request.line for request in server.requests if request.line.startswith("GET")]
        assert asked[:2] == ["GET /metrics HTTP/1.1", "GET /props HTTP/1.1"]
        assert sum("/props" in line for line in asked) == 1

    run(main())


def test_a_server_without_metrics_is_asked_once() -> None:
    async def main() -> None:
        asked, finish = asyncio.Event(), asyncio.Event()
        async with (
            serving(with_metrics(404, b"", asked, finish)) as server,
            replica_of(server.url, metrics_interval=0.01) as replica,
        ):
            replica.tell_load(lambda load: None)
            async with aclosing(replica.stream(ask())) as stream:
                await anext(stream)
                await asked.wait()
                assert replica._watching is not None
                await asyncio.wait([replica._watching])
                finish.set()
                assert [delta async for delta in stream] == [""]
            await read(replica)
            assert replica._watching is None
        assert sum(request.line.startswith("GET") for request in server.requests) == 1

    run(main())


def test_closing_ends_the_watch() -> None:
    async def main() -> None:
        async with (
            serving(with_metrics(200, PAGE, asyncio.Event(), asyncio.Event())) as server,
            replica_of(server.url, metrics_interval=3600.0) as replica,
        ):
            replica.tell_load(lambda load: None)
            stream = replica.stream(ask())
            await anext(stream)
            await stream.aclose()

    run(main())


def test_a_pool_of_several_hears_of_calls_that_others_have_sent() -> None:
    """A call goes where the server's own metrics say that there is room."""

    def script_of(page: bytes, seen: asyncio.Semaphore, finish: asyncio.Event) -> Script:
        async def script(connection: Connection) -> None:
            while request := await connection.request():
                if request.line.startswith("GET"):
                    seen.release()
                    await connection.json(200, page, kind="text/plain")
                elif b"wait" in request.raw:
                    await connection.answer(text("a"), end=False)
                    await finish.wait()
                    await connection.send(b"%x\r\n%s\r\n" % (len(stop()), stop()), b"0\r\n\r\n")
                else:
                    await connection.answer(*HELLO)

        return script

    async def main() -> None:
        finish = asyncio.Event()
        seen = asyncio.Semaphore(0), asyncio.Semaphore(0)
        crowd = b"vllm:num_requests_running 200\nvllm:num_requests_waiting 500\n"
        quiet = b"vllm:num_requests_running 1\nvllm:num_requests_waiting 0\n"
        async with (
            serving(script_of(crowd, seen[0], finish)) as crowded,
            serving(script_of(quiet, seen[1], finish)) as free,
        ):
            spec = OpenAI(
                urls=[crowded.url, free.url],
                model="m",
                policy="least-outstanding",
                metrics_interval=0.01,
            )
            engine = spec.open("chat")

            async def call(word: str) -> list[str]:
                prompt: Call = ask(word)
                async with aclosing(engine.stream(prompt)) as stream:
                    return [delta async for delta in stream]

            waiting = [asyncio.create_task(call("wait")) for _ in range(2)]
            for page in (*seen, *seen):  # who is asked again has been heard
                await page.acquire()
            before = len(crowded.requests)
            for _ in range(6):
                await call("go")
            went = [r for r in crowded.requests[before:] if r.line.startswith("POST")]
            assert went == []
            finish.set()
            await asyncio.gather(*waiting)
            await engine.aclose()

    run(main())
