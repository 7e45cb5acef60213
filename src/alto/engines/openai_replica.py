"""One LM server behind an `alto.OpenAI` engine.

It sends a call, reads the answer as it is written, and says what went wrong in terms of that
server. It tries again by itself only where nothing was lost (a kept connection that had died, a
field that the server refused) and, if it stands alone, where the server is busy (429 and 503,
within limits). Everything else is an `EngineError` that says whether another try may help, and
when: that is the business of the pool, which knows the other replicas and the other calls.

Always true:
    O1  the last delta has the finish reason and the usage; the texts of all joined are the answer
    O2  a text that broke off is an `EngineError`, never a short answer; so are vectors or scores
        that are not all there
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
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, NoReturn, TypeVar
from urllib.parse import urlsplit, urlunsplit

from ..core.calls import Call, Delta
from ..core.encode import BadAnswer, EmbedCall, EncodeCall, RerankCall
from ..core.pool_events import Allowed
from ..errors import DeadlineExceeded, EngineError
from ..openai_api import (
    AnswerReader,
    WireError,
    allowed,
    is_retryable,
    message_of,
    retry_after,
)
from .dialect import Dialect, Speech
from .encode_dialect import Embeddings, Rerankings, read_embeddings, read_scores, too_large, url_of
from .engine_load import EngineLoad, load_of, with_slots
from .token_ids import ExactReader

if TYPE_CHECKING:
    from .http import Answer, HttpClient, HttpFailure
    from .openai import OpenAI

BUSY_TRIES_MAX = 4
"""How often a server alone that answers 429 or 503 is asked, the first time included."""

BUSY_WAIT_S_MAX = 30.0
"""The longest wait between two such tries; a server that asks for more gets an error instead."""

BUSY_WAIT_S = 0.5
"""The first wait where the server names none; it doubles with each try, with jitter."""

ERROR_BYTES_MAX = 1 << 16
"""How much of an error's body is read."""

METRICS_BYTES_MAX = 4 << 20
"""How much of a page of metrics is read."""

NUMBERS_BYTES_MAX = 64 << 20
"""How much of an answer with vectors or scores is read."""

FIRST_LOOK_S = 0.05
"""How long after the first call a server's metrics are looked at for the first time."""

FINISH_GRACE_S = 2.0
"""How long usage and `[DONE]` are waited for once the finish reason is known."""

AskedCall = TypeVar("AskedCall", bound=Call)
AForm = TypeVar("AForm")


class OpenAIReplica:
    """One server of an `OpenAI` engine. Its name in messages is its URL.

    A call is sent at most `busy_tries` times while the server says that it is busy. With
    `token_ids` the server is asked for the ids of its tokens, for the case that a text breaks off.
    """

    def __init__(
        self,
        engine: str,
        url: str,
        spec: OpenAI,
        key: str,
        *,
        busy_tries: int = BUSY_TRIES_MAX,
        token_ids: bool = False,
    ) -> None:
        self.engine = engine
        self.name = url
        self._spec = spec
        self._key = key
        self._busy_tries = busy_tries
        parts = urlsplit(url)
        self._root = parts._replace(path=parts.path.removesuffix("/v1"))
        self._dialect = Dialect(
            spec.model,
            url=url_of(url, "/chat/completions"),
            completions_url=url_of(url, "/completions"),
            guided=spec.guided,
            extra=spec.extra,
            token_ids=token_ids,
            priority=spec.priority,
        )
        self._embeddings = Embeddings(url, spec.model, spec.extra)
        self._rerankings = Rerankings(url, spec.model, spec.extra)
        self._client: HttpClient | None = None
        self._closed = False
        self._jitter = random.Random(f"{spec.seed} {url}")
        self._numbers = itertools.count(1)
        self._nonce = os.urandom(4).hex()
        self._calls = 0
        self._tell: Callable[[EngineLoad], None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._met = False
        """Its metrics have been asked for."""
        self._tell_allowed: Callable[[Allowed], None] | None = None

    def tell_load(self, tell: Callable[[EngineLoad], None]) -> None:
        """From now on, while calls are under way, say what the server's own metrics say."""
        self._tell = tell

    def tell_allowed(self, tell: Callable[[Allowed], None]) -> None:
        """From now on say what each answer's head tells of the server's limits per minute."""
        self._tell_allowed = tell

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        """Answer one call here."""
        from .http import HttpFailure

        if isinstance(call, EncodeCall):
            yield await self._encode(call)
            return
        answer: Answer | None = None
        silent_since: float | None = None
        reader = AnswerReader()
        self._begin()
        try:
            answer = await self._answer(call, self._dialect)
            if self._dialect.asks_ids(call):
                reader = ExactReader()
            while not reader.ended:
                try:
                    data = await answer.read()
                except HttpFailure as failure:
                    if reader.finish_reason is None:
                        when = f"after {reader.chars} characters of the answer"
                        self._raise_failure(failure, call, when)
                    data = b""  # nothing but usage and formalities were still to come
                deltas = reader.feed(data) if data else reader.close()
                for delta in deltas:
                    yield delta
                if reader.fault is not None:
                    self._raise_fault(reader.fault, call)
                patience = self._spec.stall_timeout
                if reader.finish_reason is not None:
                    patience = min(FINISH_GRACE_S, patience)
                if answer.patience != patience:
                    answer.wait_at_most(patience)
                silent_since = None if deltas else self._silence(silent_since, reader, call)
            # Before the last delta: its reader may stop at it and never come back.
            answer.finish()
            yield reader.last()
        except EngineError as error:
            if isinstance(reader, ExactReader):
                error.token_ids = reader.token_ids()
            raise
        finally:
            if isinstance(reader, ExactReader) and reader.told:
                self._dialect.tells_ids = True
            self._calls -= 1
            if answer is not None:
                answer.abort()

    def _silence(self, since: float | None, reader: AnswerReader, call: Call) -> float:
        """Since when bytes come and say nothing, as comments do that keep a connection alive. That
        may be so for as long as a first byte is waited for."""
        now = asyncio.get_running_loop().time()
        if since is None:
            return now
        if reader.finish_reason is not None:
            if now - since > FINISH_GRACE_S:
                reader.close()
        elif now - since > self._spec.first_chunk_timeout:
            nothing = f"nothing but signs of life for {self._spec.first_chunk_timeout:g} s"
            self._raise_fault(WireError(nothing), call)
        return since

    async def _encode(self, call: EncodeCall) -> Delta:
        """Send a call for numbers, and read its whole answer."""
        call.seal()
        answer: Answer | None = None
        self._begin()
        try:
            if isinstance(call, EmbedCall):
                answer = await self._answer(call, self._embeddings)
                return read_embeddings(await self._whole(answer, call), call)
            assert isinstance(call, RerankCall), type(call)
            answer = await self._answer(call, self._rerankings)
            return read_scores(await self._whole(answer, call), call)
        except WireError as fault:
            kind = BadAnswer if fault.retryable and fault.status is None else EngineError
            self._raise_fault(fault, call, kind)
        except EngineError as error:
            raise too_large(error) from error.__cause__
        finally:
            self._calls -= 1
            if answer is not None:
                answer.abort()

    async def _whole(self, answer: Answer, call: Call) -> bytes:
        from .http import HttpFailure

        answer.wait_at_most(self._spec.stall_timeout)
        pieces: list[bytes] = []
        size = 0
        try:
            while piece := await answer.read():
                pieces.append(piece)
                size += len(piece)
                if size > NUMBERS_BYTES_MAX:
                    raise WireError(f"an answer of more than {NUMBERS_BYTES_MAX} bytes")
        except HttpFailure as failure:
            self._raise_failure(failure, call, f"after {size} bytes of the answer")
        answer.finish()
        return b"".join(pieces)

    async def aclose(self) -> None:
        """Close every connection. Calls under way fail."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    # ---- the server's own metrics

    def _begin(self) -> None:
        """A call starts; while one is under way the load is watched, if somebody wants it."""
        self._calls += 1
        if self._tell is not None and self._watching is None and not self._closed:
            self._watching = asyncio.get_running_loop().create_task(self._watch(self._tell))
            self._watching.add_done_callback(self._watched)

    async def _watch(self, tell: Callable[[EngineLoad], None]) -> None:
        interval = self._spec.metrics_interval
        if interval is None:
            return
        # Asleep first: where calls are few and short nobody needs to know. The first time only
        # for a moment, as the server's kind may say where the next calls should go.
        await asyncio.sleep(interval if self._met else min(interval, FIRST_LOOK_S))
        self._met = True
        props: bytes | None = None
        while self._calls:
            status, page = await self._page("/metrics")
            load = load_of(page) if status == 200 else None
            if load is not None and load.has_slots:
                if props is None:
                    _, props = await self._page("/props")
                load = with_slots(load, props)
            if load is not None:
                tell(load)
            elif status == 200 or 400 <= status < 500:
                self._tell = None  # a server without such a page is not asked again
                return
            await asyncio.sleep(interval)
        tell(EngineLoad(0, 0))  # nothing is known from here on; old news would keep calls away

    async def _page(self, path: str) -> tuple[int, bytes]:
        """A page of the server beside its API; status 0 when nothing came. Then the calls
        themselves will tell, and in better words."""
        from .http import HttpFailure

        url = urlunsplit(self._root._replace(path=self._root.path + path))
        try:
            return await self._opened().get(
                url, seconds=self._spec.connect_timeout, limit=METRICS_BYTES_MAX
            )
        except HttpFailure:
            return 0, b""

    def _watched(self, task: asyncio.Task[None]) -> None:
        self._watching = None

    # ---- sending

    async def _answer(self, call: AskedCall, speech: Speech[AskedCall, AForm]) -> Answer:
        """Send the call until it is taken: in a simpler form where the server refused a field,
        later where it is busy."""
        form = speech.form_for(call)
        tries = 1
        while True:
            try:
                body = speech.body(call, form)
            except WireError as fault:
                self._raise_fault(fault, call)
            answer = await self._post(call, speech.target(form), body, speech.headers)
            if self._tell_allowed is not None and (told := allowed(answer.headers)) is not None:
                self._tell_allowed(told)
            if 200 <= answer.status < 300:
                speech.learned(call, form)
                return answer
            message = await self._refusal(answer, call)
            simpler = speech.simpler(call, form, answer.status, message)
            if simpler is not None:
                form = simpler
                continue
            error = self._status_error(answer, message, speech.noun)
            wait = self._busy_wait(error, tries)
            if wait is None or asyncio.get_running_loop().time() + wait >= _deadline(call):
                raise error
            tries += 1
            await asyncio.sleep(wait)

    async def _post(
        self, call: Call, target: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        from .http import HttpFailure

        if self._closed:
            raise EngineError(
                f"engine {self.engine}: call of {self.name} after it was closed",
                engine=self.engine,
                retryable=False,
            )
        asked_by = re.sub(r"[^A-Za-z0-9._-]", "_", call.request)[:64] or "alto"
        try:
            return await self._opened().post(
                target,
                body,
                headers={
                    "x-request-id": f"{asked_by}-{self._nonce}-{next(self._numbers)}",
                    **headers,
                },
                deadline=_deadline(call),
                patience=self._spec.first_chunk_timeout,
            )
        except HttpFailure as failure:
            self._raise_failure(failure, call, "before an answer")

    def _opened(self) -> HttpClient:
        from .http import HttpClient, proxy_for

        if self._client is None:
            self._client = HttpClient(
                headers=self._headers(),
                connect_timeout=self._spec.connect_timeout,
                connections_max=self._spec.max_connections,
                proxy=proxy_for(self.name),
            )
        return self._client

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

    def _status_error(self, answer: Answer, message: str, noun: str) -> EngineError:
        status = answer.status
        told = answer.headers.get("x-should-retry", "").lower()
        retryable = told == "true" or (told != "false" and is_retryable(status))
        if 300 <= status < 400:
            message = f"a redirect to {self._redacted(answer.headers.get('location', 'nowhere'))}"
        return EngineError(
            f"engine {self.engine}: {self.name} answered {status} to {noun}: {message}"
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
        if error.status not in (429, 503) or not error.retryable or tries >= self._busy_tries:
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

    def _raise_fault(
        self, fault: WireError, call: Call, kind: type[EngineError] = EngineError
    ) -> NoReturn:
        raise kind(
            f"engine {self.engine}: call of {self.name}: {self._redacted(str(fault))}",
            engine=self.engine,
            status=fault.status,
            retryable=fault.retryable,
        ) from (None if self._key and self._key in str(fault) else fault)

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "[api key]") if self._key else text


def _deadline(call: Call) -> float:
    return math.inf if call.deadline is None else call.deadline
