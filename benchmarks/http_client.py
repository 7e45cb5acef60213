"""What does one streamed LM chunk cost the client, by HTTP library?

A server in a process of its own replays chat-completion chunks as vLLM writes them, each a write
of its own. Every contender reads the same streams in this process, and only this process's CPU
time counts. Two loads:

    paced   50 streams at once, 100 chunks a second each: nearly every chunk is a read of its own,
            as it is when an engine writes it
    burst   one stream at full speed: the kernel joins chunks, so the parser's own cost shows

The limit is `raw`: a hand-written asyncio reader for exactly this server, with msgspec. All
contenders run in turn, several rounds in one run, and the median round counts. Libraries that are
not installed are left out.

    python benchmarks/http_client.py [--rounds 3] [--seconds 3] [--only raw,alto] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec

STREAMS = 50
RATE = 100.0
BURST_CHUNKS = 5000
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "naps")

Read = Callable[[str], Awaitable[int]]
"""Read one whole stream from a base URL and say how many chunks carried text."""


# ---------------------------------------------------------------------------- the server process


def chunk(index: int) -> bytes:
    """One chunk as vLLM writes it, framed for chunked transfer."""
    body = {
        "id": "chatcmpl-6f1b2c0d9e8a4b7c8d9e0f1a2b3c4d5e",
        "object": "chat.completion.chunk",
        "created": 1730000000,
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "choices": [
            {
                "index": 0,
                "delta": {"content": " " + WORDS[index % len(WORDS)]},
                "logprobs": None,
                "finish_reason": None,
                "token_ids": None,
            }
        ],
    }
    return frame(body)


def frame(body: dict[str, Any]) -> bytes:
    event = b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def last_chunks() -> bytes:
    finish = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
    done = b"data: [DONE]\n\n"
    end = b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done)
    return frame(finish) + frame({"id": "c", "choices": [], "usage": usage}) + end


HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve `/{chunks}/{rate}/...` until the client leaves; rate 0 is full speed."""
    chunks = [chunk(index) for index in range(64)]
    loop = asyncio.get_running_loop()
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            for line in head.split("\r\n"):
                if line.lower().startswith("content-length:"):
                    await reader.readexactly(int(line.split(":")[1]))
            count, rate = head.split(" ")[1].split("/")[1:3]
            writer.write(HEAD)
            start = loop.time()
            for index in range(int(count)):
                if float(rate):
                    await asyncio.sleep(max(0.0, start + index / float(rate) - loop.time()))
                writer.write(chunks[index % 64])
                if index % 16 == 0:
                    await writer.drain()
            writer.write(last_chunks())
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# ------------------------------------------------------------------------------- the contenders

BODY = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hello"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}


class Piece(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Piece
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    choices: list[Choice]


def decoder() -> Callable[[bytes | str], Chunk]:
    return msgspec.json.Decoder(Chunk).decode


class RawReader(asyncio.Protocol):
    """The limit: decodes in the socket's own callback, wakes no task before the end, knows that a
    line of this server is an event, and handles no error at all."""

    def __init__(self) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.decode = decoder()
        self.rest = b""
        self.seen = 0

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                if line == b"data: [DONE]":
                    self.done.set_result(self.seen)
                    return
                choices = self.decode(line[6:]).choices
                if choices and choices[0].delta.content:
                    self.seen += 1


def request(path: str, host: str) -> bytes:
    body = json.dumps(BODY).encode()
    return (
        f"POST /{path}/chat/completions HTTP/1.1\r\nhost: {host}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


@asynccontextmanager
async def raw_callback() -> AsyncIterator[Read]:
    """No task is woken for a chunk: what no client that hands text to its caller can reach."""

    async def read(base: str) -> int:
        host, _, path = base.removeprefix("http://").partition("/")
        name, port = host.split(":")
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(RawReader, name, int(port))
        transport.write(request(path, host))
        seen = await protocol.done
        transport.close()
        return seen

    yield read


@asynccontextmanager
async def raw() -> AsyncIterator[Read]:
    """The limit: asyncio's streams; a line of this server is an event; no error is handled."""
    decode = decoder()

    async def read(base: str) -> int:
        host, _, path = base.removeprefix("http://").partition("/")
        name, port = host.split(":")
        reader, writer = await asyncio.open_connection(name, int(port))
        writer.write(request(path, host))
        await reader.readuntil(b"\r\n\r\n")
        seen, rest = 0, b""
        while True:
            *lines, rest = (rest + await reader.read(65536)).split(b"\n")
            for line in lines:
                if line.startswith(b"data: "):
                    if line == b"data: [DONE]":
                        writer.close()
                        await writer.wait_closed()
                        return seen
                    choices = decode(line[6:]).choices
                    if choices and choices[0].delta.content:
                        seen += 1

    yield read


@asynccontextmanager
async def over_aiohttp() -> AsyncIterator[Read]:
    """Read by network read, not by line: aiohttp's own line reader costs more."""
    import aiohttp

    decode = decoder()
    connector = aiohttp.TCPConnector(limit=STREAMS * 2)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def read(base: str) -> int:
            seen, rest = 0, b""
            async with session.post(base + "/chat/completions", json=BODY) as response:
                async for piece in response.content.iter_any():
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        if line.startswith(b"data: ") and line != b"data: [DONE]":
                            choices = decode(line[6:]).choices
                            if choices and choices[0].delta.content:
                                seen += 1
            return seen

        yield read


def over_httpx(package: str) -> Callable[[], AbstractAsyncContextManager[Read]]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Read]:
        import importlib

        httpx = importlib.import_module(package)
        decode = decoder()
        limits = httpx.Limits(max_connections=STREAMS * 2)
        async with httpx.AsyncClient(timeout=None, limits=limits) as client:

            async def read(base: str) -> int:
                seen = 0
                async with client.stream("POST", base + "/chat/completions", json=BODY) as response:
                    async for line in response.aiter_lines():
                        if line.startswith("data: ") and line != "data: [DONE]":
                            choices = decode(line[6:]).choices
                            if choices and choices[0].delta.content:
                                seen += 1
                return seen

            yield read

    return opened


@asynccontextmanager
async def over_openai() -> AsyncIterator[Read]:
    import openai

    client = openai.AsyncOpenAI(base_url="http://unset.invalid/v1", api_key="none")

    async def read(base: str) -> int:
        seen = 0
        stream = await client.with_options(base_url=base).chat.completions.create(**BODY)  # type: ignore[call-overload]
        async for piece in stream:
            if piece.choices and piece.choices[0].delta.content:
                seen += 1
        return seen

    yield read
    await client.close()


@asynccontextmanager
async def over_niquests() -> AsyncIterator[Read]:
    import niquests

    decode = decoder()
    async with niquests.AsyncSession(pool_connections=100, pool_maxsize=100) as session:

        async def read(base: str) -> int:
            seen = 0
            response = await session.post(base + "/chat/completions", json=BODY, stream=True)
            async for line in response.iter_lines():
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    choices = decode(line[6:]).choices
                    if choices and choices[0].delta.content:
                        seen += 1
            await response.close()
            return seen

        yield read


@asynccontextmanager
async def over_pyreqwest() -> AsyncIterator[Read]:
    from pyreqwest.client import ClientBuilder

    decode = decoder()
    async with ClientBuilder().build() as client:

        async def read(base: str) -> int:
            seen, rest = 0, b""
            request = client.post(base + "/chat/completions").body_json(BODY)
            async with request.build_streamed() as response:
                reader = response.body_reader
                while piece := await reader.read_chunk():
                    *lines, rest = (rest + bytes(piece)).split(b"\n")
                    for line in lines:
                        if line.startswith(b"data: ") and line != b"data: [DONE]":
                            choices = decode(line[6:]).choices
                            if choices and choices[0].delta.content:
                                seen += 1
            return seen

        yield read


@asynccontextmanager
async def over_curl_cffi() -> AsyncIterator[Read]:
    from curl_cffi.requests import AsyncSession

    decode = decoder()
    async with AsyncSession(max_clients=STREAMS * 2) as session:

        async def read(base: str) -> int:
            seen, rest = 0, b""
            async with session.stream(
                "POST", base + "/chat/completions", json=BODY, timeout=600
            ) as response:
                async for piece in response.aiter_content():
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        if line.startswith(b"data: ") and line != b"data: [DONE]":
                            choices = decode(line[6:]).choices
                            if choices and choices[0].delta.content:
                                seen += 1
            return seen

        yield read


@asynccontextmanager
async def over_alto() -> AsyncIterator[Read]:
    """What a stage gets: `Delta`s from the engine, with every check and time limit on."""
    import alto.engines.openai
    from alto.core.calls import Call

    engines: dict[str, Any] = {}

    async def read(base: str) -> int:
        if base not in engines:
            engines[base] = alto.engines.openai.OpenAI(url=base, model="m").open("chat")
        seen = 0
        async for delta in engines[base].stream(Call(messages=BODY["messages"])):
            if delta:
                seen += 1
        return seen

    yield read
    for engine in engines.values():
        await engine.aclose()


CONTENDERS: dict[str, Callable[[], AbstractAsyncContextManager[Read]]] = {
    "raw callback": raw_callback,
    "raw": raw,
    "alto": over_alto,
    "aiohttp": over_aiohttp,
    "httpx": over_httpx("httpx"),
    "httpx2": over_httpx("httpx2"),
    "niquests": over_niquests,
    "pyreqwest": over_pyreqwest,
    "curl_cffi": over_curl_cffi,
    "openai": over_openai,
}


# ------------------------------------------------------------------------------ the measurement


async def measure(contender: str, url: str, seconds: float) -> dict[str, float]:
    """CPU microseconds of this process for each chunk, by load."""
    async with CONTENDERS[contender]() as read:
        await read(f"{url}/100/0/v1")  # imports, connection, caches
        start = time.process_time()
        seen = await read(f"{url}/{BURST_CHUNKS}/0/v1")
        burst = (time.process_time() - start) / seen * 1e6
        assert seen == BURST_CHUNKS, f"{contender} saw {seen} chunks of {BURST_CHUNKS}"
        each = int(seconds * RATE)
        start = time.process_time()
        counts = await asyncio.gather(*(read(f"{url}/{each}/{RATE:g}/v1") for _ in range(STREAMS)))
        paced = (time.process_time() - start) / sum(counts) * 1e6
        assert sum(counts) == each * STREAMS, f"{contender} lost chunks: {counts}"
    return {"paced": paced, "burst": burst}


def installed(contender: str, url: str) -> bool:
    try:
        asyncio.run(measure(contender, url, 0.05))
    except ImportError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--serve", action="store_true", help="be the server process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a paced stream")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, by comma")
    parser.add_argument("--json", action="store_true", help="print numbers for machines")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            names = [name for name in options.only.split(",") if installed(name, url)]
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for _ in range(options.rounds):
                for name in names:
                    rounds[name].append(asyncio.run(measure(name, url, options.seconds)))
        finally:
            server.terminate()
    report(rounds, as_json=options.json)


def report(rounds: dict[str, list[dict[str, float]]], *, as_json: bool) -> None:
    table = {
        name: {load: statistics.median(each[load] for each in got) for load in ("paced", "burst")}
        for name, got in rounds.items()
    }
    if as_json:
        print(json.dumps(table))
        return
    limit = table.get("raw")
    print("| client | paced, us a chunk | x raw | burst, us a chunk | x raw |")
    print("|---|---:|---:|---:|---:|")
    for name, row in sorted(table.items(), key=lambda entry: entry[1]["paced"]):
        cells = []
        for load in ("paced", "burst"):
            ratio = f"{row[load] / limit[load]:.1f}" if limit else "-"
            cells.append(f"{row[load]:.1f} | {ratio}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
