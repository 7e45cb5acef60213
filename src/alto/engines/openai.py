"""`alto.OpenAI`: LM servers that speak the OpenAI chat-completions API, over HTTP.

One `OpenAIReplica` is one server: it sends a call, reads the answer as it is written, and says
what went wrong in terms of that server. It waits and tries again by itself only where the server
asks for it (429 and 503, within limits) or where nothing was lost (a kept connection that had
died, a field that the server refused). Everything else is an `EngineError` that says whether
another replica may be tried; that is the pool's business.

Always true:
    O1  the last delta has the finish reason and the usage; the texts of all joined are the answer
    O2  a text that broke off is an `EngineError`, never a short answer
    O3  the API key is in the request's header and nowhere else: no repr, no message
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

from ..core.calls import Call, Delta
from ..errors import ConfigError, DeadlineExceeded, EngineError
from ..openai_api import AnswerReader, WireError, is_retryable, message_of, retry_after
from .dialect import GUIDED, Dialect, Guided

if TYPE_CHECKING:
    from ..core.scheduling import Policy
    from .http import Answer, HttpClient, HttpFailure
    from .pool import Pool

BUSY_TRIES_MAX = 4
"""How often a server that answers 429 or 503 is asked, the first time included."""

BUSY_WAIT_S_MAX = 30.0
"""The longest wait between two such tries; a server that asks for more gets an error instead."""

BUSY_WAIT_S = 0.5
"""The first wait where the server names none; it doubles with each try, with jitter."""

ERROR_BYTES_MAX = 1 << 16
"""How much of an error's body is read."""

FINISH_GRACE_S = 2.0
"""How long usage and `[DONE]` are waited for once the finish reason is known."""


@dataclass(frozen=True, kw_only=False)
class OpenAI:
    """An engine of one or more servers with the OpenAI API: vLLM, SGLang, llama.cpp, TGI, Ollama,
    or a hosted one. Each URL is a replica and ends where `/chat/completions` is to be added.

    `urls` (or `url`) may be left out when `OPENAI_BASE_URL` is set. The key is `api_key`, or the
    value of the environment variable `api_key_env` when the engine is opened. `headers` are sent
    with each request; `extra` are body fields sent with each (a call's own `extra` goes before,
    and None leaves a field out). `guided` says how the schema of a call goes along: "auto" sends
    `response_format` and does without where the server refuses it; the other names insist.

    Times are in seconds: `connect_timeout` for a connection, `first_chunk_timeout` from sending
    to the first byte of the answer, `stall_timeout` between two reads of it.
    `max_connections` is for each URL.

    `policy`, `seed`, `hedge_s` and `continue_final_message` are the pool's: which replica answers
    a call, when a second one is tried beside a silent first, and whether these servers know the
    field that lets a broken text be gone on with word for word (vLLM and SGLang do).
    """

    urls: Sequence[str] = ()
    model: str = ""
    url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    api_key_env: str = "OPENAI_API_KEY"
    policy: str | Policy = "prompt-aware"
    guided: Guided = "auto"
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    connect_timeout: float = 5.0
    first_chunk_timeout: float = 600.0
    stall_timeout: float = 60.0
    max_connections: int = 1000
    seed: int = 0
    hedge_s: float | None = None
    continue_final_message: bool = False

    def __post_init__(self) -> None:
        urls = (self.urls,) if isinstance(self.urls, str) else tuple(self.urls)
        if self.url is not None:
            if urls:
                raise ConfigError("alto.OpenAI: give either url or urls, not both")
            urls = (self.url,)
        object.__setattr__(self, "url", None)
        object.__setattr__(self, "urls", tuple(map(_checked_url, urls)))
        twice = {url for url in self.urls if self.urls.count(url) > 1}
        if twice:
            raise ConfigError(f"alto.OpenAI: urls has {min(twice)!r} twice; give each server once")
        if not isinstance(self.model, str) or not self.model:
            raise ConfigError(
                f"alto.OpenAI: model is {self.model!r}, expected the name of a model; the server "
                "lists its models at URL/models"
            )
        if self.guided not in GUIDED:
            raise ConfigError(
                f"alto.OpenAI: guided is {self.guided!r}, expected one of {', '.join(GUIDED)}"
            )
        for name in ("connect_timeout", "first_chunk_timeout", "stall_timeout", "max_connections"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"alto.OpenAI: {name} is {getattr(self, name)!r}, expected more than 0"
                )
        for name, value in self.headers.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(
                r"[\r\n\0]", value
            ):
                raise ConfigError(f"alto.OpenAI: header {name!r} has a name or value HTTP forbids")

    def open(self, name: str) -> Pool:
        """The engine, under the name that stages use. The first call makes the first connection."""
        from .pool import Pool

        return Pool(
            name,
            self.replicas(name),
            policy=self.policy,
            seed=self.seed,
            hedge_s=self.hedge_s,
            continue_final_message=self.continue_final_message,
        )

    def replicas(self, name: str) -> list[OpenAIReplica]:
        """One replica for each URL. Reads the key, and the URL if none was given, from the
        environment."""
        urls = self.urls
        if not urls:
            from_environment = os.environ.get("OPENAI_BASE_URL", "")
            if not from_environment:
                raise ConfigError(
                    f"engine {name}: alto.OpenAI has no URL; give urls=[...] or set "
                    "OPENAI_BASE_URL, as in http://localhost:8000/v1"
                )
            urls = (_checked_url(from_environment, "OPENAI_BASE_URL"),)
        key = self.api_key or os.environ.get(self.api_key_env) or ""
        if re.search(r"[^\x21-\x7e]", key.strip()):
            raise ConfigError(
                f"engine {name}: the API key has characters that a header cannot carry; look at "
                f"api_key or the environment variable {self.api_key_env}"
            )
        return [OpenAIReplica(name, url, self, key.strip()) for url in urls]


class OpenAIReplica:
    """One server of an `OpenAI` engine. Its name in messages is its URL."""

    def __init__(self, engine: str, url: str, spec: OpenAI, key: str) -> None:
        self.engine = engine
        self.name = url
        self._spec = spec
        self._key = key
        parts = urlsplit(url)
        self._target = urlunsplit(parts._replace(path=parts.path + "/chat/completions"))
        self._dialect = Dialect(spec.model, guided=spec.guided, extra=spec.extra)
        self._client: HttpClient | None = None
        self._closed = False
        self._jitter = random.Random(f"{spec.seed} {url}")
        self._numbers = itertools.count(1)
        self._nonce = os.urandom(4).hex()

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        """Answer one call here."""
        from .http import HttpFailure

        answer = await self._answer(call)
        reader = AnswerReader()
        try:
            while not reader.ended:
                try:
                    data = await answer.read()
                except HttpFailure as failure:
                    if reader.finish_reason is None:
                        when = f"after {reader.chars} characters of the answer"
                        self._raise_failure(failure, call, when)
                    data = b""  # nothing but usage and formalities were still to come
                for delta in reader.feed(data) if data else reader.close():
                    yield delta
                if reader.fault is not None:
                    self._raise_fault(reader.fault, call)
                patience = self._spec.stall_timeout
                if reader.finish_reason is not None:
                    patience = min(FINISH_GRACE_S, patience)
                if answer.patience != patience:
                    answer.wait_at_most(patience)
            # Before the last delta: its reader may stop at it and never come back.
            answer.finish()
            yield reader.last()
        finally:
            answer.abort()

    async def aclose(self) -> None:
        """Close every connection. Calls under way fail."""
        self._closed = True
        if self._client is not None:
            await self._client.aclose()

    async def _answer(self, call: Call) -> Answer:
        """Send the call until it is taken: in a simpler form where the server refused a field,
        later where it is busy."""
        form = self._dialect.form_for(call)
        tries = 1
        while True:
            try:
                body = self._dialect.body(call, form)
            except WireError as fault:
                self._raise_fault(fault, call)
            answer = await self._post(call, body)
            if 200 <= answer.status < 300:
                self._dialect.learned(call, form)
                return answer
            message = await self._refusal(answer, call)
            simpler = self._dialect.simpler(call, form, answer.status, message)
            if simpler is not None:
                form = simpler
                continue
            error = self._status_error(answer, message)
            wait = self._busy_wait(error, tries)
            if wait is None or asyncio.get_running_loop().time() + wait >= _deadline(call):
                raise error
            tries += 1
            await asyncio.sleep(wait)

    async def _post(self, call: Call, body: bytes) -> Answer:
        from .http import HttpClient, HttpFailure, proxy_for

        if self._closed:
            raise EngineError(
                f"engine {self.engine}: call of {self.name} after it was closed",
                engine=self.engine,
                retryable=False,
            )
        if self._client is None:
            self._client = HttpClient(
                headers=self._headers(),
                connect_timeout=self._spec.connect_timeout,
                connections_max=self._spec.max_connections,
                proxy=proxy_for(self._target),
            )
        asked_by = re.sub(r"[^A-Za-z0-9._-]", "_", call.request)[:64] or "alto"
        try:
            return await self._client.post(
                self._target,
                body,
                headers={"x-request-id": f"{asked_by}-{self._nonce}-{next(self._numbers)}"},
                deadline=_deadline(call),
                patience=self._spec.first_chunk_timeout,
            )
        except HttpFailure as failure:
            self._raise_failure(failure, call, "before an answer")

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        headers.update((name.lower(), value) for name, value in self._spec.headers.items())
        return headers

    # ---- what went wrong, in terms of this server

    async def _refusal(self, answer: Answer, call: Call) -> str:
        from .http import HttpFailure

        answer.wait_at_most(min(FINISH_GRACE_S, self._spec.stall_timeout))
        try:
            body = await answer.read_all(ERROR_BYTES_MAX)
        except HttpFailure as failure:
            self._raise_failure(failure, call, f"while it answered {answer.status}")
        finally:
            answer.finish()
        return self._redacted(message_of(body))

    def _status_error(self, answer: Answer, message: str) -> EngineError:
        status = answer.status
        told = answer.headers.get("x-should-retry", "").lower()
        retryable = told == "true" or (told != "false" and is_retryable(status))
        if 300 <= status < 400:
            message = f"a redirect to {self._redacted(answer.headers.get('location', 'nowhere'))}"
        return EngineError(
            f"engine {self.engine}: {self.name} answered {status} to a chat completion: {message}"
            f"{self._mend(status)}",
            engine=self.engine,
            status=status,
            retryable=retryable,
            retry_after=retry_after(answer.headers, time.time()),
        )

    def _mend(self, status: int) -> str:
        if 300 <= status < 400:
            return " (set the URL to where it points)"
        if status in (401, 403):
            return f" (set api_key or the environment variable {self._spec.api_key_env})"
        if status in (404, 405):
            return f" (is model {self._spec.model!r} served there, and does the URL end in /v1?)"
        return ""

    def _busy_wait(self, error: EngineError, tries: int) -> float | None:
        """Seconds until a busy server is asked again, or None to give up."""
        if error.status not in (429, 503) or not error.retryable or tries >= BUSY_TRIES_MAX:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= BUSY_WAIT_S_MAX else None
        longest: float = min(BUSY_WAIT_S_MAX, BUSY_WAIT_S * 2 ** (tries - 1))
        return longest * self._jitter.uniform(0.5, 1)

    def _raise_failure(self, failure: HttpFailure, call: Call, when: str) -> NoReturn:
        if failure.cause == "deadline":
            raise DeadlineExceeded(
                f"engine {self.engine}: call of {self.name} for stage {call.stage or '-'} ran out "
                f"of its time {when}"
            ) from failure
        mend = " (is the server up, and the URL right?)" if failure.cause == "connect" else ""
        raise EngineError(
            f"engine {self.engine}: call of {self.name} failed {when}: "
            f"{self._redacted(str(failure))}{mend}",
            engine=self.engine,
            retryable=failure.cause != "closed",
        ) from failure

    def _raise_fault(self, fault: WireError, call: Call) -> NoReturn:
        raise EngineError(
            f"engine {self.engine}: call of {self.name}: {self._redacted(str(fault))}",
            engine=self.engine,
            status=fault.status,
            retryable=fault.retryable,
        ) from (None if self._key and self._key in str(fault) else fault)

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "[api key]") if self._key else text


def _deadline(call: Call) -> float:
    return math.inf if call.deadline is None else call.deadline


def _checked_url(url: object, where: str = "urls") -> str:
    """A base URL without what does not belong there. Its password, if any, is never shown."""
    if not isinstance(url, str) or not url.strip():
        raise ConfigError(
            f"alto.OpenAI: {where} has {url!r}, expected a URL such as http://localhost:8000/v1"
        )
    try:
        parts = urlsplit(url.strip())
        port_is_valid = parts.port != 0
    except ValueError:
        port_is_valid = False
    if not port_is_valid:
        raise ConfigError(
            f"alto.OpenAI: {where} has {url!r}, whose host or port cannot be read; expected a URL "
            "such as http://localhost:8000/v1"
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"alto.OpenAI: {where} has a user name or password in the URL of {parts.hostname}; "
            "use api_key or headers instead"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"alto.OpenAI: {where} has {url!r}, expected http://HOST[:PORT]/v1 or "
            "https://HOST[:PORT]/v1"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return urlunsplit(parts._replace(path=path, fragment=""))
