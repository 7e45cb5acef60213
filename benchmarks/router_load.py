"""The client of one contender of `routers.py`, in a process of its own.

    python -m benchmarks.router_load '{"client": "alto", "urls": [...], ...}'

It takes a `Plan` as JSON, sends the requests and prints one line of JSON. Its CPU time is that of
the whole process, every thread, from the first request of the measured load to the last answer;
that of a router beside it is read from the router's own CPU clock over the same time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

WARM_UP_CALLS = 4
"""Short calls before the load, so that imports and first connections are nobody's cost."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A load and the way it takes."""

    client: str
    """`alto`, or `openai` for the OpenAI SDK."""
    urls: tuple[str, ...]
    policy: str = "prompt-aware"
    router_pid: int | None = None
    clients: int = 16
    """Each asks again as soon as it is answered."""
    requests: int = 192
    templates: int = 8
    static_words: int = 1500
    own_words: int = 200
    """A word is one token of the tiny model; the chat template adds a handful."""
    output_tokens: int = 8
    seed: int = 1


@dataclass(slots=True)
class Answer:
    """What one request came to."""

    first_s: float
    total_s: float
    prompt_tokens: int
    cached_tokens: int


Ask = Callable[[int, str], Awaitable[Answer]]
"""Send one prompt, made from the template of that number."""


def words(random: Random, count: int, vocabulary: list[str]) -> str:
    return "".join(random.choices(vocabulary, k=count))


def vocabulary() -> list[str]:
    """The tiny model's words, each one token, with the space before it."""
    from .router_servers import ROOT  # its import puts tools/ on the path

    assert ROOT
    from llama_model import made_up_vocabulary

    tokens = made_up_vocabulary().tokens
    return [" " + token[1:] for token in tokens if token[0] == "\u0120" and len(token) > 1]


def prompts(plan: Plan) -> list[tuple[int, str]]:
    """Template numbers and prompts in the order of sending, the same for the same seed."""
    random = Random(plan.seed)
    known = vocabulary()
    templates = [words(random, plan.static_words, known) for _ in range(plan.templates)]
    order = [random.randrange(plan.templates) for _ in range(plan.requests)]
    return [(each, templates[each] + words(random, plan.own_words, known)) for each in order]


async def alto_client(plan: Plan, body: Callable[[Ask], Awaitable[None]]) -> None:
    """ALTO's own: a pool over the URLs, or over one URL where a router stands."""
    import alto

    spec = alto.OpenAI(urls=plan.urls, model="tiny", policy=plan.policy, extra={"ignore_eos": True})
    clock = time.perf_counter

    async with alto.Runtime(alto.Config(engines={"chat": spec})) as runtime:
        engine = runtime.engine("chat")

        async def ask(template: int, prompt: str) -> Answer:
            start, first, usage = clock(), 0.0, alto.Usage()
            call = alto.Call(
                messages=[{"role": "user", "content": prompt}],
                stage=f"template {template}",
                max_tokens=plan.output_tokens,
                temperature=0.0,
            )
            async for delta in engine.stream(call):
                first = first or clock()
                usage = delta.usage or usage
            end = clock()
            return Answer(first - start, end - start, usage.prompt_tokens, usage.cached_tokens)

        await body(ask)


async def openai_client(plan: Plan, body: Callable[[Ask], Awaitable[None]]) -> None:
    """The OpenAI SDK, as most programs call a router."""
    import openai

    clock = time.perf_counter
    async with openai.AsyncOpenAI(base_url=plan.urls[0], api_key="none") as client:

        async def ask(template: int, prompt: str) -> Answer:
            start, first, usage = clock(), 0.0, None
            stream = await client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": prompt}],
                max_tokens=plan.output_tokens,
                temperature=0.0,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
            async for chunk in stream:
                first = first or clock()
                usage = chunk.usage or usage
            end = clock()
            assert usage is not None
            details = usage.prompt_tokens_details
            cached = (details.cached_tokens if details is not None else 0) or 0
            return Answer(first - start, end - start, usage.prompt_tokens, cached)

        await body(ask)


CLIENTS = {"alto": alto_client, "openai": openai_client}


def cpu_seconds(pid: int | None) -> float:
    """CPU time of another process, all its threads, living and ended; 0 for none.

    The number is the clock that `clock_getcpuclockid(pid)` gives on Linux.
    """
    return 0.0 if pid is None else time.clock_gettime(~pid << 3 | 2)


async def measure(plan: Plan) -> dict[str, Any]:
    """Send the load and say what came of it."""
    load = iter(prompts(plan))
    answers: list[Answer] = []
    measured: dict[str, Any] = {}

    async def body(ask: Ask) -> None:
        async def client() -> None:
            for template, prompt in load:
                answers.append(await ask(template, prompt))

        for _ in range(WARM_UP_CALLS):
            await ask(0, "Hello")
        start, own, router = time.perf_counter(), time.process_time(), cpu_seconds(plan.router_pid)
        await asyncio.gather(*(client() for _ in range(plan.clients)))
        measured["seconds"] = time.perf_counter() - start
        measured["client_cpu_s"] = time.process_time() - own
        measured["router_cpu_s"] = cpu_seconds(plan.router_pid) - router

    await CLIENTS[plan.client](plan, body)
    return {**measured, "answers": [asdict(answer) for answer in answers]}


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    print(json.dumps(asyncio.run(measure(plan))))


if __name__ == "__main__":
    main()
