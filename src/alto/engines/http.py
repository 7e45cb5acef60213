"""HTTP for engines: one POST, its answer read as it arrives. The only file that knows the library.

aiohttp was chosen by measurement (benchmarks/http_client.py). It does connections, TLS and HTTP
framing; what it leaves open is decided here:

    - A reused connection that dies before the answer begins was closed behind our back by the
      server. The request is sent once more, on a connection made for it. A fresh connection that
      dies is a failure, for then the server has likely seen the request.
    - Time limits without a timer for each read: an `Answer` has one timer, which looks whether
      somebody has been waiting for too long, and closes the connection if so. The time that the
      reader takes for itself is never counted against the server.
    - A connection whose answer was read to its end is reused; any other is closed at once.

Always true:
    H1  nothing but `HttpFailure` and cancellation leaves this file
    H2  after `HttpClient.aclose` no connection, timer or task is left
"""

from __future__ import annotations

import asyncio
import io
import math
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal
from urllib.parse import urlsplit

import aiohttp

Cause = Literal["connect", "broken", "silent", "deadline", "not http", "closed"]
"""Why an exchange failed: no connection; it died; nobody spoke in time; our own time ran out;
what came is not HTTP; this client was closed."""

DRAIN_S = 1.0
"""How long a finished answer may take to end its body before its connection is closed instead."""

CLOSE_S = 5.0
"""How long closing may take before transports with unsent bytes are given up."""


LARGE_BODY_BYTES = 1 << 20
"""From this size on a request's body is handed to the library as a file."""


class HttpFailure(Exception):
    """An exchange that failed below HTTP."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause: Cause = cause


class Answer:
    """The answer to one request. `status` and `headers` are there, the body is read in pieces.

    `patience` is how many seconds a `read` may wait.

    The reader calls `read` until it gives no bytes, or `finish` when it knows that all was said,
    or `abort`. One of `finish` and `abort` must be called; calling both, or twice, is harmless.
    """

    __slots__ = (
        "_client",
        "_content",
        "_deadline",
        "_failure",
        "_loop",
        "_over",
        "_response",
        "_timer",
        "_waiting_since",
        "headers",
        "patience",
        "status",
    )

    def __init__(
        self,
        client: HttpClient,
        response: aiohttp.ClientResponse,
        deadline: float,
        patience: float,
    ) -> None:
        self._client = client
        self._response = response
        self._content = response.content
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self.patience = patience
        self._failure: HttpFailure | None = None
        self._over = False  # finished or aborted
        self._waiting_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._arm(self._loop.time())

    def wait_at_most(self, patience: float) -> None:
        """Set the patience."""
        self.patience = patience
        self._arm(self._loop.time())

    async def read(self) -> bytes:
        """What has arrived, all of it; waits if there is nothing; `b""` is the end."""
        if self._failure is not None:
            raise self._failure
        self._waiting_since = self._loop.time()
        try:
            return await self._content.readany()
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            if self._failure is None:
                self._failure = HttpFailure("broken", _said(error))
                self._failure.__cause__ = error
            if arrived := self._arrived():
                return arrived
            raise self._failure from self._failure.__cause__
        finally:
            self._waiting_since = None

    def _arrived(self) -> bytes:
        """What the library still holds of a body that broke off."""
        self._content.set_exception(None)  # type: ignore[arg-type]  # else it gives only that
        return self._content.read_nowait()

    async def read_all(self, limit: int) -> bytes:
        """The body up to `limit` bytes; what was read so far if it breaks off."""
        pieces: list[bytes] = []
        size = 0
        try:
            while size < limit and (piece := await self.read()):
                pieces.append(piece)
                size += len(piece)
        except HttpFailure as failure:
            if failure.cause == "deadline":
                raise
        return b"".join(pieces)[:limit]

    def finish(self) -> None:
        """All was said: keep the connection, if the body ends soon."""
        if not self._over:
            self._end()
            if not self._response.closed:
                self._client.drain(self._response)

    def abort(self) -> None:
        """Close the connection at once, unless the body is at its end already."""
        if not self._over:
            self._end()
            if not self._response.closed:
                _abort(self._response)

    def _end(self) -> None:
        self._over = True
        self._drop_timer()

    def _arm(self, now: float) -> None:
        self._drop_timer()
        start = now if self._waiting_since is None else self._waiting_since
        when = min(self._deadline, start + self.patience)
        if when < math.inf:
            self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """The timer: too late, silent for too long, or look again when it could be."""
        now = self._loop.time()
        since = self._waiting_since
        if now >= self._deadline:
            self._fail(HttpFailure("deadline", "the time of the call ran out"))
        elif since is not None and now >= since + self.patience:
            self._fail(HttpFailure("silent", f"not a byte for {self.patience:g} s"))
        else:
            self._arm(now)

    def _fail(self, failure: HttpFailure) -> None:
        self._failure = failure
        self.abort()

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@dataclass(frozen=True, slots=True)
class _Request:
    method: Literal["GET", "POST"]
    url: str
    body: bytes | None
    headers: Mapping[str, str]
    deadline: float
    patience: float


class HttpClient:
    """Pooled connections to one server. Made and used inside one running loop.

    `connections_max` bounds the connections of each kind: those that are kept for reuse, and those
    made anew for a request whose kept connection had died.
    """

    def __init__(
        self,
        *,
        headers: Mapping[str, str],
        connect_timeout: float,
        connections_max: int,
        proxy: str | None = None,
    ) -> None:
        self._headers = headers
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._connect_timeout = connect_timeout
        self._connections_max = connections_max
        self._proxy = proxy
        self._kept: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        self._draining: dict[asyncio.Task[None], aiohttp.ClientResponse] = {}
        self._closed = False

    async def post(
        self,
        url: str,
        body: bytes,
        *,
        headers: Mapping[str, str],
        deadline: float = math.inf,
        patience: float = math.inf,
    ) -> Answer:
        """Send a request and wait for the head of its answer.

        Waits at most `patience` seconds, and never past `deadline` (in the loop's time). The same
        two bound each `read` of the answer.
        """
        return await self._ask(_Request("POST", url, body, headers, deadline, patience))

    async def get(self, url: str, *, seconds: float, limit: int) -> tuple[int, bytes]:
        """The status and at most `limit` bytes of what is at a URL, within so many seconds."""
        deadline = asyncio.get_running_loop().time() + seconds
        answer = await self._ask(_Request("GET", url, None, {}, deadline, seconds))
        try:
            return answer.status, await answer.read_all(limit)
        finally:
            answer.finish()

    async def aclose(self) -> None:
        """Close every connection, also those in use."""
        self._closed = True
        draining = tuple(self._draining)
        for task in draining:
            task.cancel()
        await asyncio.gather(*draining, return_exceptions=True)
        for session in (self._kept, self._fresh):
            if session is not None:
                await _close(session)
        # A transport tells its protocol of its end one turn of the loop after it was closed.
        await asyncio.sleep(0)

    def drain(self, response: aiohttp.ClientResponse) -> None:
        """Read a finished answer to the end of its body, in the background, to keep its
        connection."""
        if self._closed:
            _abort(response)
            return
        task = asyncio.get_running_loop().create_task(_drain(response))
        self._draining[task] = response
        task.add_done_callback(self._drained)

    def _drained(self, task: asyncio.Task[None]) -> None:
        # Not in the task's own `finally`: one that is cancelled before its first step has none.
        response = self._draining.pop(task)
        if not response.closed:
            _abort(response)

    async def _ask(self, request: _Request) -> Answer:
        if self._kept is None:
            self._kept = self._session(fresh=False)
        seen = SimpleNamespace(reused=False)
        try:
            response = await self._send(self._kept, request, seen)
        except HttpFailure as failure:
            if failure.cause != "broken" or not seen.reused:
                raise
            if self._fresh is None:
                self._fresh = self._session(fresh=True)
            response = await self._send(self._fresh, request, seen)
        return Answer(self, response, request.deadline, request.patience)

    def _session(self, *, fresh: bool) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reuse)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections_max, force_close=fresh),
            headers={"accept-encoding": "identity", **self._headers},
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
            trace_configs=[trace],
        )

    async def _send(
        self, session: aiohttp.ClientSession, request: _Request, seen: SimpleNamespace
    ) -> aiohttp.ClientResponse:
        if self._closed:
            raise HttpFailure("closed", "the engine is closed")
        now = asyncio.get_running_loop().time()
        if now >= request.deadline:
            raise HttpFailure("deadline", "the time of the call ran out")
        when = min(request.deadline, now + request.patience)
        body = request.body
        if body is not None and len(body) >= LARGE_BODY_BYTES:
            # The library warns of large bodies in one piece; it sends a file in several.
            data: bytes | io.BytesIO | None = io.BytesIO(body)
        else:
            data = body
        try:
            async with asyncio.timeout_at(when if when < math.inf else None):
                return await session.request(
                    request.method,
                    request.url,
                    data=data,
                    headers=request.headers,
                    allow_redirects=False,
                    proxy=self._proxy,
                    trace_request_ctx=seen,
                )
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            at_deadline = when == request.deadline
            failure = self._failure_of(error, request.patience, at_deadline=at_deadline)
        except asyncio.CancelledError:
            # Closing the library's connector cancels those who wait for a connection of it.
            task = asyncio.current_task()
            if not self._closed or task is None or task.cancelling():
                raise
            failure = HttpFailure("closed", "the engine was closed")
        # Raised here, so that it drags no exception of the library along: some hold the request's
        # headers, and the key in them.
        raise failure

    def _failure_of(self, error: Exception, patience: float, *, at_deadline: bool) -> HttpFailure:
        if self._closed:
            return HttpFailure("closed", "the engine was closed")
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return HttpFailure("connect", f"no connection within {self._connect_timeout:g} s")
        if isinstance(error, aiohttp.ClientConnectorError):
            return HttpFailure("connect", _said(error))
        if isinstance(error, aiohttp.ClientResponseError):
            return HttpFailure("not http", f"the answer is not HTTP: {_words(error.message)}")
        if isinstance(error, ValueError):
            return HttpFailure("not http", f"the library refuses the request: {_said(error)}")
        if isinstance(error, TimeoutError):
            if at_deadline:
                return HttpFailure("deadline", "the time of the call ran out")
            return HttpFailure("silent", f"no answer within {patience:g} s")
        return HttpFailure("broken", _said(error))


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL (`HTTPS_PROXY`, `NO_PROXY`, ...)."""
    parts = urlsplit(url)
    if parts.hostname is None or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)


async def _note_reuse(
    session: aiohttp.ClientSession,
    trace: SimpleNamespace,
    params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    trace.trace_request_ctx.reused = True


async def _drain(response: aiohttp.ClientResponse) -> None:
    try:
        async with asyncio.timeout(DRAIN_S):
            while await response.content.readany():
                pass
    except (aiohttp.ClientError, OSError, RuntimeError, TimeoutError):
        pass


def _abort(response: aiohttp.ClientResponse) -> None:
    """Close the connection now, bytes that were not sent yet included."""
    connection = response.connection
    transport = connection.transport if connection is not None else None
    response.close()
    if transport is not None:
        transport.abort()


async def _close(session: aiohttp.ClientSession) -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await session.close()
    except TimeoutError:
        pass


def _said(error: BaseException) -> str:
    """An exception in words; some of the library's and the system's have none."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error is not None:
        error = error.os_error
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return _words(text) or type(error).__name__


def _words(text: str) -> str:
    return " ".join(text.split())[:300]
