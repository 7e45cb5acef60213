"""An HTTP server on a bare socket that does exactly what a test says, right or wrong.

A test gives a script, an async function of one `Connection`; it runs for each connection that is
made. `Hostile.requests` has every request in order, `Hostile.connections` counts connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


@dataclass
class Request:
    """One request as it came."""

    line: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        """The body, which was JSON."""
        return json.loads(self.raw)


class Connection:
    """One connection, from the server's side."""

    def __init__(
        self, server: Hostile, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.number = server.connections
        self._reader = reader
        self._writer = writer

    async def request(self) -> Request | None:
        """The next request, or None if the client has left."""
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = head.rstrip("\r\n").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)
            }
            raw = await self._reader.readexactly(int(headers.get("content-length", 0)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        request = Request(line, headers, raw)
        self.server.requests.append(request)
        return request

    async def some(self) -> bytes:
        """Some bytes of a request, and no more of it than fits in a buffer."""
        return await self._reader.read(100)

    async def send(self, *pieces: bytes) -> None:
        """Write each piece as it is, in a write of its own."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()

    async def answer(self, *events: bytes, end: bool = True) -> None:
        """A proper head, then each event in an HTTP chunk of its own."""
        await self.send(SSE, *map(framed, events))
        if end:
            await self.send(END)

    async def json(
        self, status: int, body: object, headers: Sequence[str] = (), kind: str = "application/json"
    ) -> None:
        """A whole answer with a content length."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = [f"HTTP/1.1 {status} Whatever", f"content-type: {kind}"]
        head += [f"content-length: {len(raw)}", *headers]
        await self.send("\r\n".join([*head, "", ""]).encode() + raw)

    async def left(self) -> None:
        """Wait until the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65536):
                pass

    def reset(self) -> None:
        """Cut the connection without a goodbye."""
        self._writer.transport.abort()


@dataclass
class Hostile:
    """A running server."""

    url: str = ""
    connections: int = 0
    requests: list[Request] = field(default_factory=list)


Script = Callable[[Connection], Awaitable[None]]


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Hostile]:
    """A server that runs the script for each connection, then closes that connection."""
    hostile = Hostile()
    tasks: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        hostile.connections += 1
        try:
            await script(Connection(hostile, reader, writer))
        except ConnectionError:
            pass  # the client may leave whenever it likes
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    hostile.url = f"http://{host}:{port}/v1"
    try:
        yield hostile
    finally:
        server.close()
        left = tuple(tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def always(*events: bytes) -> Script:
    """Answer every request of every connection with these events."""

    async def script(connection: Connection) -> None:
        while await connection.request():
            await connection.answer(*events)

    return script


def framed(data: bytes) -> bytes:
    """An HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(value: object) -> bytes:
    """A server-sent event with JSON data."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def text(content: str, **more: Any) -> bytes:
    """A chunk of text."""
    return event({"id": "x", "choices": [{"index": 0, "delta": {"content": content, **more}}]})


def stop(reason: str = "stop") -> bytes:
    """The chunk that says why the text ended."""
    return event({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def usage(prompt: int, completion: int, **more: Any) -> bytes:
    """The chunk that says what it cost."""
    told = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return event({"id": "x", "choices": [], "usage": told})


DONE = b"data: [DONE]\n\n"
HELLO = (text("Hel"), text("lo"), stop(), usage(5, 2), DONE)
