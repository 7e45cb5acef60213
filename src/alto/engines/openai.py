"""`alto.OpenAI`: servers that speak the OpenAI API, over HTTP: LMs, and embedding and reranking
models.

This is the value in a configuration: checked when it is made, so that a mistake shows before
anything runs, and cheap, for it loads no HTTP library. `openai_replica.py` does the work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from ..core.calls import mistake
from ..core.policies import resolve
from ..errors import ConfigError
from ..settings import flag, number, whole
from .batch_options import BatchOptions
from .dialect import GUIDED, PRIORITIES, Guided, Priority
from .openai_replica import BUSY_TRIES_MAX, OpenAIReplica

if TYPE_CHECKING:
    from ..core.scheduling import Policy
    from .engine_load import EngineLoad
    from .pool import Pool

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*")


@dataclass(frozen=True, kw_only=False)
class OpenAI(BatchOptions):
    """An engine of one or more servers with the OpenAI API: vLLM, SGLang, llama.cpp, TGI, Ollama,
    or a hosted one. Each URL is a replica and ends where `/chat/completions`, `/embeddings` or
    `/rerank` is to be added.

    `urls` (or `url`) may be left out when `OPENAI_BASE_URL` is set. The key is `api_key`, or the
    value of the environment variable `api_key_env` when the engine is opened. `headers` are sent
    with each request; `extra` are body fields sent with each (a call's own `extra` goes before,
    and None leaves a field out). `guided` says how the schema of a call goes along: "auto" sends
    `response_format` and does without where the server refuses it; the other names insist.

    Times are in seconds: `connect_timeout` for a connection, `first_chunk_timeout` from sending
    to the first byte of the answer (and while bytes come that say nothing, such as comments that
    keep a connection alive), `stall_timeout` between two reads of it, `busy_timeout` for
    which a call waits while the servers say that they are busy. `max_connections` is for each URL.

    `policy`, `seed` and `hedge_s` are the pool's: which replica answers a call, and when a second
    one is tried beside a silent first. Where there are several URLs the pool hears every
    `metrics_interval` seconds, while calls are under way, what the servers' own `/metrics` say of
    calls that others have sent and of their caches, and of llama.cpp also its `/props` (None:
    never).

    `resume`: a text that breaks off is gone on with on another replica; off, that is an error.
    With `token_ids` ("auto": where there are several URLs; or "off") servers are asked for the ids
    of their tokens, from which another one can go on exactly (vLLM). Else, or where they tell none,
    it is given the text: with `continue_final_message` and the fields that let it go on word for
    word (vLLM, SGLang and llama.cpp know them; a server that refuses them is asked without).

    `priority`: send the priority of requests along, as "vllm" (lower first, sent negated) or as
    "sglang" (higher first). None, the default, sends none: vLLM refuses priorities unless it runs
    with `--scheduling-policy priority`, SGLang needs `--enable-priority-scheduling`.

    `requests_per_minute` and `tokens_per_minute` are the limits of a hosted service (None: no
    limit), over all URLs. A call that would exceed them waits in the pool. Tokens are those of
    prompt and answer; while a call runs, `max_tokens` count for its answer, or what its stage
    usually writes. Where servers say what is left (`x-ratelimit-remaining-...`) they are believed.

    `embed_batch`, `embed_tokens`, `embed_max_wait` and `rerank_batch` bound the requests of `embed`
    and `rerank`, see `BatchOptions`.
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
    busy_timeout: float = 120.0
    max_connections: int = 1000
    seed: int = 0
    hedge_s: float | None = None
    metrics_interval: float | None = 1.0
    continue_final_message: bool = True
    resume: bool = True
    token_ids: Literal["auto", "off"] = "auto"
    priority: Priority | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.urls, str | Sequence):
            raise ConfigError(f"alto.OpenAI: urls is {self.urls!r}, expected a list of URLs.")
        # One text may be several URLs, as variables of the environment are written.
        urls = _parts(self.urls) if isinstance(self.urls, str) else tuple(self.urls)
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
        if not isinstance(self.api_key, str | None) or not isinstance(self.api_key_env, str):
            which = "api_key_env" if isinstance(self.api_key, str | None) else "api_key"
            raise ConfigError(
                f"alto.OpenAI: {which} is of type {type(getattr(self, which)).__name__}, expected "
                "a text."
            )
        resolve(self.policy)
        if self.guided not in GUIDED:
            raise ConfigError(
                f"alto.OpenAI: guided is {self.guided!r}, expected one of {', '.join(GUIDED)}"
            )
        if self.token_ids not in ("auto", "off"):
            raise ConfigError(
                f"alto.OpenAI: token_ids is {self.token_ids!r}, expected 'auto' or 'off'"
            )
        if self.priority is not None and self.priority not in PRIORITIES:
            raise ConfigError(
                f"alto.OpenAI: priority is {self.priority!r}, expected one of "
                f"{', '.join(PRIORITIES)}, or None to send no priorities"
            )
        for name in ("connect_timeout", "first_chunk_timeout", "stall_timeout", "busy_timeout"):
            number(f"alto.OpenAI: {name}", getattr(self, name))
        for name in ("metrics_interval", "hedge_s"):
            if getattr(self, name) is not None:
                number(f"alto.OpenAI: {name}", getattr(self, name))
        for name in ("requests_per_minute", "tokens_per_minute"):
            if getattr(self, name) is not None:
                whole(f"alto.OpenAI: {name}", getattr(self, name), 1)
        for name in ("continue_final_message", "resume"):
            flag(f"alto.OpenAI: {name}", getattr(self, name))
        whole("alto.OpenAI: max_connections", self.max_connections, 1)
        whole("alto.OpenAI: seed", self.seed, None)
        self._check_sent()

    def _check_sent(self) -> None:
        """The headers and fields that go along with each request."""
        if wrong := mistake({"extra": self.extra}):
            raise ConfigError(f"alto.OpenAI: {wrong}")
        if not isinstance(self.headers, Mapping):
            raise ConfigError(
                f"alto.OpenAI: headers is {self.headers!r}, expected a dict of names and values."
            )
        for name, value in self.headers.items():
            if not isinstance(value, str) or not _HEADER.fullmatch(f"{name}:{value}"):
                raise ConfigError(
                    f"alto.OpenAI: header {name!r} is {value!r}, expected a name and a text that "
                    "HTTP allows."
                )

    def open(self, name: str) -> Pool:
        """The engine, under the name that stages use. The first call makes the first connection."""
        from ..core.replicas import Limits
        from .pool import Pool

        replicas = self.replicas(name, busy_tries=1)
        pool = Pool(
            name,
            replicas,
            policy=self.policy,
            seed=self.seed,
            resume=self.resume,
            hedge_s=self.hedge_s,
            continue_final_message=self.continue_final_message,
            limits=Limits(busy_wait_max_s=self.busy_timeout),
            batches=self,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )
        if self.requests_per_minute is not None or self.tokens_per_minute is not None:
            for replica in replicas:
                replica.tell_allowed(pool.allowed)
        if len(replicas) > 1 and self.metrics_interval is not None:
            for at, replica in enumerate(replicas):
                replica.tell_load(partial(_tell_pool, pool, at))
        return pool

    def replicas(self, name: str, *, busy_tries: int = BUSY_TRIES_MAX) -> list[OpenAIReplica]:
        """One replica for each URL, without a pool before them. Reads the key, and the URL if none
        was given, from the environment."""
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
        ids = self.resume and self.token_ids == "auto" and len(urls) > 1
        return [
            OpenAIReplica(name, url, self, key.strip(), busy_tries=busy_tries, token_ids=ids)
            for url in urls
        ]


def _tell_pool(pool: Pool, at: int, load: EngineLoad) -> None:
    pool.report(at, running=load.running, waiting=load.waiting, cache=load.cache)


def _parts(urls: str) -> tuple[str, ...]:
    """The URLs in one text, between commas or spaces."""
    return tuple(re.split(r"[,\s]+", urls.strip()))


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
    spaced = re.search(r"\s", url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or spaced:
        raise ConfigError(
            f"alto.OpenAI: {where} has {url!r}, expected http://HOST[:PORT]/v1 or "
            "https://HOST[:PORT]/v1"
        )
    path = parts.path.rstrip("/")
    for given in ("/chat/completions", "/embeddings", "/rerank"):
        path = path.removesuffix(given).rstrip("/")
    return urlunsplit(parts._replace(netloc=parts.netloc.lower(), path=path, fragment=""))
