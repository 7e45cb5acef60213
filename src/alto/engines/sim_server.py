"""`alto sim-engine`: simulated LM servers behind the HTTP API that vLLM has.

Any OpenAI client, load generator or router can be pointed at it. A request is answered at the
pace of the profile's GPU; a connection that is dropped frees its slot in the batch at once.

    GET  /health /ping /version /v1/models /metrics (vLLM's names) /load
    POST /v1/chat/completions /v1/completions (streamed and whole) /tokenize
         /v1/embeddings /v1/rerank

Always true:
    H1  whatever is wrong with a request is answered with an error object, never with a traceback
    H2  an error after the first byte goes in-band, and the stream then ends without `[DONE]`
    H3  every answer carries the caller's `x-request-id`, or a new one
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..core.calls import Call, Delta
from ..errors import AltoError, ConfigError, EngineError, Overloaded
from .protocol import Engine, Replica
from .sim_choices import Choices
from .sim_encode_wire import embeddings_body, read_embeddings, read_rerank, rerank_body
from .sim_ids import chat_ids, ids_of
from .sim_metrics import ServerMetrics
from .sim_replica import SimReplica
from .sim_settings import ServerSettings
from .sim_wire import (
    CHAT,
    TEXT,
    Answering,
    Asked,
    BadRequest,
    Json,
    Shape,
    error_body,
    read_chat,
    read_completion,
    usage_of_all,
)
from .tokens import prompt_text, render, tokenize

VERSION = "0.11.0+simulated"
"""What `/version` says: routers look for a version of vLLM here."""

Read = Callable[[Any, str, str], Asked]
ReadNumbers = Callable[[Any, str, str], Call]
WriteNumbers = Callable[[Json, str, str, Delta], Json]
T = TypeVar("T")


END_S = 2
"""Seconds for which a server that ends waits for clients that do not read."""


class SimServer:
    """The ASGI application over one pool of simulated servers."""

    def __init__(self, spec: ServerSettings, model: str) -> None:
        self.model = model
        self.replicas: list[SimReplica]
        self._engine: Engine | Replica
        if spec.replicas == 1:
            self.replicas = spec.open_replicas(model)
            self._engine = self.replicas[0]
        else:
            pool = spec.open(model)
            self.replicas = list(getattr(pool, "replicas", ()))
            self._engine = pool
        self._piece = spec.token_letters
        self._started = int(time.time())
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(ServerMetrics(model, self.replicas))
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._completion, methods=["POST"]),
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/v1/rerank", self._rerank, methods=["POST"]),
                Route("/rerank", self._rerank, methods=["POST"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/health", self._alive),
                Route("/ping", self._alive, methods=["GET", "POST"]),
                Route("/version", self._version),
                Route("/load", self._load),
                Route("/metrics", self._metrics),
            ],
            exception_handlers={HTTPException: _http_error, Exception: _broken},
        )

    async def aclose(self) -> None:
        """Calls under way fail; nothing is left running."""
        await self._engine.aclose()

    # ------------------------------------------------------------------ answers

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, read_chat, CHAT)

    async def _completion(self, request: Request) -> Response:
        return await self._answer(request, read_completion, TEXT)

    async def _embeddings(self, request: Request) -> Response:
        return await self._numbers(request, read_embeddings, embeddings_body)

    async def _rerank(self, request: Request) -> Response:
        return await self._numbers(request, read_rerank, rerank_body)

    async def _numbers(self, request: Request, read: ReadNumbers, write: WriteNumbers) -> Response:
        request_id = request.headers.get("x-request-id") or uuid4().hex
        headers = {"x-request-id": request_id}
        try:
            body = await _json(request)
            deltas = self._engine.stream(read(body, self.model, request_id))
            answer = await _unless_dropped(request.receive, _all(deltas))
        except BadRequest as error:
            return JSONResponse(error.body(), error.status, headers)
        except (AltoError, Overloaded) as error:
            told, status, more = _failure(error)
            return JSONResponse(told, status, {**headers, **more})
        if answer is None:
            return Response(status_code=499, headers=headers)  # nobody is there to read it
        return JSONResponse(write(body, self.model, request_id, answer[-1]), headers=headers)

    async def _answer(self, request: Request, read: Read, shape: Shape) -> Response:
        request_id = request.headers.get("x-request-id") or uuid4().hex
        headers = {"x-request-id": request_id}
        answering = Answering(shape, request_id, self.model, int(time.time()))
        choices: Choices | None = None
        try:
            asked = read(await _json(request), self.model, request_id)
            choices = Choices([self._engine.stream(call) for call in asked.calls()])
            if asked.token_ids:
                answering.tell_ids(self._prompt_ids(asked), partial(ids_of, piece=self._piece))
            await choices.begin()
            if asked.stream:
                streamed, choices = _Streamed(answering, asked, choices, headers), None
                return streamed
            whole = await _unless_dropped(request.receive, _all(choices.pieces()))
        except BadRequest as error:
            return JSONResponse(error.body(), error.status, headers)
        except (AltoError, Overloaded) as error:
            body, status, more = _failure(error)
            return JSONResponse(body, status, {**headers, **more})
        finally:
            if choices is not None:
                await choices.aclose()
        if whole is None:
            return Response(status_code=499, headers=headers)  # nobody is there to read it
        return JSONResponse(answering.whole(whole), headers=headers)

    def _prompt_ids(self, asked: Asked) -> list[int] | None:
        """The ids of a prompt, if it is all text."""
        call = asked.call
        if call.tools:
            return None
        if call.extra.get("raw_prompt"):
            return ids_of(prompt_text(call.messages), self._piece)
        open_end = bool(call.extra.get("continue_final_message"))
        return chat_ids(call.messages, self._piece, open_end=open_end)

    # ------------------------------------------------------------------ everything else

    async def _tokenize(self, request: Request) -> Response:
        try:
            body = await _json(request)
            if isinstance(body, dict) and isinstance(body.get("prompt"), str):
                tokens = tokenize(body["prompt"], self._piece)
            else:
                asked = read_chat(body, self.model, "")
                tokens = render(asked.call.messages, asked.call.tools, piece=self._piece)
        except BadRequest as error:
            return JSONResponse(error.body(), error.status)
        return JSONResponse({"count": len(tokens), "max_model_len": self._tokens_max})

    @property
    def _tokens_max(self) -> int:
        return self.replicas[0].kv_blocks * self.replicas[0].block_tokens

    async def _models(self, request: Request) -> Response:
        card = {
            "id": self.model,
            "object": "model",
            "created": self._started,
            "owned_by": "alto",
            "root": self.model,
            "max_model_len": self._tokens_max,
        }
        return JSONResponse({"object": "list", "data": [card]})

    async def _alive(self, request: Request) -> Response:
        return Response()

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def _load(self, request: Request) -> Response:
        return JSONResponse({"server_load": sum(each.running for each in self.replicas)})

    async def _metrics(self, request: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


class _Streamed(Response):
    """Server-sent events, one for each delta, until the end or until the reader is gone."""

    def __init__(
        self,
        answering: Answering,
        asked: Asked,
        choices: Choices,
        headers: dict[str, str],
    ) -> None:
        super().__init__(None, 200, headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self._answering = answering
        self._asked = asked
        self._choices = choices

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_all() -> None:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            async for event in self._events():
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await _unless_dropped(receive, send_all())
        finally:
            await self._choices.aclose()

    async def _events(self) -> AsyncGenerator[bytes, None]:
        for index in range(self._asked.choices):
            opening = self._answering.opening(index)
            if opening is not None:
                yield _event(opening)
        ends: list[Delta] = []
        try:
            async for index, delta in self._choices.pieces():
                yield _event(self._answering.chunk(delta, index))
                if delta.usage is not None:
                    ends.append(delta)
        except (AltoError, Overloaded) as error:
            yield _event(_failure(error)[0])
            return
        usage = usage_of_all(ends)
        if self._asked.include_usage and usage is not None:
            yield _event(self._answering.usage_chunk(usage))
        yield b"data: [DONE]\n\n"


def _event(body: Any) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


async def _all(stream: AsyncGenerator[T, None]) -> list[T]:
    try:
        return [each async for each in stream]
    finally:
        await stream.aclose()


async def _unless_dropped(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Do the work; drop it and return None when the connection is dropped meanwhile."""

    async def dropped() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(dropped())
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _json(request: Request) -> Any:
    body = await request.body()
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error


def _failure(error: AltoError) -> tuple[dict[str, Any], int, dict[str, str]]:
    """An error as its object, its status and headers."""
    status, wait = 500, None
    if isinstance(error, Overloaded):
        status, wait = 429, error.retry_after
    elif isinstance(error, EngineError):
        status, wait = error.status or (500 if error.retryable else 400), error.retry_after
    headers = {} if wait is None else {"retry-after": str(max(1, round(wait)))}
    return error_body(str(error), status), status, headers


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(error_body(message, error.status_code), error.status_code)


async def _broken(request: Request, error: Exception) -> Response:
    message = f"{request.method} {request.url.path} failed: {type(error).__name__}: {error}"
    return JSONResponse(error_body(message, 500), 500)


# ---------------------------------------------------------------------- running it


@dataclass(slots=True)
class Server:
    """A server that runs in this loop."""

    url: str
    """With `/v1`, as clients want it."""
    sim: SimServer
    _uvicorn: uvicorn.Server
    _task: asyncio.Task[None]

    @property
    def replicas(self) -> list[SimReplica]:
        return self.sim.replicas

    async def aclose(self) -> None:
        """Stop: calls under way fail, connections close."""
        await self.sim.aclose()
        self._uvicorn.should_exit = True
        await self._task

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _InLoop(uvicorn.Server):
    """A server whose signals belong to whoever owns the loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def start(
    spec: ServerSettings, host: str = "127.0.0.1", port: int = 0, model_name: str = "sim"
) -> Server:
    """Serve in the running loop; port 0 takes a free one. The server listens when this returns."""
    listener = _listen(host, port)
    sim = SimServer(spec, model_name)
    server = _InLoop(_config(sim, "warning"))
    task = asyncio.ensure_future(server.serve([listener]))
    bound = listener.getsockname()
    shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
    return Server(f"http://{shown}:{bound[1]}/v1", sim, server, task)


def serve(
    spec: ServerSettings,
    host: str = "127.0.0.1",
    port: int = 8000,
    model_name: str = "sim",
    *,
    announce: Callable[[str], object] = print,
) -> None:
    """Serve until interrupted. `announce` is given the base URL once connections are taken."""

    async def main() -> None:
        sim = SimServer(spec, model_name)
        try:
            await _Ending(sim).serve([listener])
        finally:
            await sim.aclose()

    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    announce(f"http://{shown}:{listener.getsockname()[1]}/v1")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())


class _Ending(uvicorn.Server):
    """A server that ends when it is told to, whatever is still being written: a call under way gets
    an error, instead of all the time it may take."""

    def __init__(self, sim: SimServer) -> None:
        super().__init__(_config(sim, "warning"))
        self._sim = sim

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._sim.aclose()
        await super().shutdown(sockets)


def _config(sim: SimServer, log_level: str) -> uvicorn.Config:
    return uvicorn.Config(
        sim.app,
        log_level=log_level,
        access_log=False,
        lifespan="off",
        ws="none",
        http="auto",
        timeout_graceful_shutdown=END_S,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another port "
            "(0 takes a free one), or stop what listens there"
        ) from error
