"""Limits per minute, from the setting to what a server sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from hostile import HELLO, SSE, Connection, framed, serving
from openai_calls import ask, run

import alto
from alto.core.calls import Call, Delta, Usage
from alto.core.pool_events import Allowed
from alto.engines.openai import OpenAI
from alto.engines.pool import Pool
from alto.engines.recorded import Recorded
from alto.engines.simulated import Simulated
from alto.errors import ConfigError
from alto.openai_api import allowed
from alto.testing.loop import run as run_virtual


class Counting:
    """A server that notes when calls came and what they cost."""

    name = "counting"

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        loop = asyncio.get_running_loop()
        tokens = 20 + 10 * (len(self.seen) % 3)
        self.seen.append((loop.time(), 80 + tokens))
        await asyncio.sleep(2.0)
        yield Delta("x" * tokens, finish_reason="stop", usage=Usage(80, tokens, calls=1))

    async def aclose(self) -> None:
        pass

    def most_in_a_minute(self) -> tuple[int, int]:
        """Requests and tokens."""
        minutes = [
            [tokens for at, tokens in self.seen if start <= at < start + 60]
            for start, _ in self.seen
        ]
        return max(map(len, minutes)), max(map(sum, minutes))


@pytest.mark.parametrize(
    ("limits", "minutes"),
    [
        ({"requests_per_minute": 30}, 3),
        ({"tokens_per_minute": 3000}, 3),
        ({"requests_per_minute": 50, "tokens_per_minute": 3000}, 3),
    ],
)
def test_no_minute_sees_more_than_the_limit_and_little_is_wasted(
    limits: dict[str, int], minutes: int
) -> None:
    async def main() -> None:
        server = Counting()
        pool = Pool("chat", [server], **limits)  # type: ignore[arg-type]

        async def one() -> None:
            async for _ in pool.stream(ask("x" * 320, max_tokens=60)):
                pass

        await asyncio.gather(*(one() for _ in range(100)))
        requests, tokens = server.most_in_a_minute()
        assert requests <= limits.get("requests_per_minute", requests)
        assert tokens <= limits.get("tokens_per_minute", tokens)
        assert asyncio.get_running_loop().time() < 60.0 * minutes + 40.0
        pool.check()

    run_virtual(main())


def test_an_answer_says_what_is_left() -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            told = b"x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 1h0m0s\r\n"
            await connection.send(SSE.replace(b"\r\n\r\n", b"\r\n" + told + b"\r\n"))
            await connection.send(*map(framed, HELLO), b"0\r\n\r\n")

    async def main() -> None:
        async with serving(script) as server:
            spec = OpenAI(url=server.url, model="m", requests_per_minute=100)
            pool = spec.open("chat")
            now = asyncio.get_running_loop().time()
            assert "".join([delta async for delta in pool.stream(ask())]) == "Hello"
            with pytest.raises(alto.DeadlineExceeded, match="100 of 100 requests"):
                async for _ in pool.stream(ask(deadline=now + 0.5)):
                    pass
            await pool.aclose()

    run(main())


@alto.lm(engine=["hosted", "own"])
def answer(question: str) -> str:
    return question


@alto.pipeline
def asking(question: str):  # type: ignore[no-untyped-def]
    return answer(question)


def test_a_quota_that_is_used_up_sends_a_stage_to_its_next_engine() -> None:
    async def quota(connection: Connection) -> None:
        while await connection.request():
            await connection.json(429, {"error": {"message": "no"}}, ["retry-after: 3600"])

    async def main() -> None:
        async with serving(quota) as server:
            engines = {
                "hosted": OpenAI(url=server.url, model="m"),
                "own": Simulated(respond=lambda call: "here", speed=1000.0),
            }
            async with alto.Runtime(alto.Config(engines=engines)) as runtime:
                for _ in range(3):
                    assert await runtime.call(asking, "Where?") == "here"
            assert len(server.requests) == 1

    run(main())


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, None),
        (
            {"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s"},
            Allowed(requests=(59, 1.0)),
        ),
        (
            {"x-ratelimit-remaining-tokens": "1490", "x-ratelimit-reset-tokens": "6m0s"},
            Allowed(tokens=(1490, 360.0)),
        ),
        (
            {"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "2m59.56s"},
            Allowed(tokens=(5, 179.56)),
        ),
        (
            {"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "17ms"},
            Allowed(tokens=(5, 0.017)),
        ),
        (
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "59.7"},
            Allowed(requests=(0, 59.7)),
        ),
        ({"x-ratelimit-remaining-requests": "0"}, None),
        ({"x-ratelimit-remaining-requests": "-5", "x-ratelimit-reset-requests": "1s"}, None),
        ({"x-ratelimit-remaining-requests": "many", "x-ratelimit-reset-requests": "1s"}, None),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "soon"}, None),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1e999"}, None),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "9" * 400}, None),
        ({"x-ratelimit-remaining-requests": "9" * 400, "x-ratelimit-reset-requests": "1"}, None),
    ],
)
def test_what_headers_say(headers: dict[str, str], told: Allowed | None) -> None:
    assert allowed(headers) == told


def test_every_kind_of_engine_takes_limits(tmp_path: Path) -> None:
    path = tmp_path / "alto.toml"
    path.write_text(
        '[engines.hosted]\nurl = "http://localhost:1/v1"\nmodel = "m"\nrequests_per_minute = 60\n'
        'tokens_per_minute = 90000\n[engines.sim]\nkind = "simulated"\nrequests_per_minute = 60\n'
    )
    engines: Any = alto.Config.load(path).engines
    assert engines["hosted"].tokens_per_minute == 90000
    assert engines["sim"].requests_per_minute == 60
    for kind, more in ((OpenAI, {"model": "m"}), (Simulated, {}), (Recorded, {"path": "x"})):
        with pytest.raises(ConfigError, match="tokens_per_minute is 0, expected a whole number"):
            kind(tokens_per_minute=0, **more)  # type: ignore[arg-type]


def test_a_simulated_engine_keeps_them() -> None:
    async def main() -> None:
        spec = Simulated(respond=lambda call: "yes", requests_per_minute=5)
        pool = spec.open("chat")

        async def one() -> None:
            async for _ in pool.stream(ask()):
                pass

        await asyncio.gather(*(one() for _ in range(12)))
        assert 120.0 < asyncio.get_running_loop().time() < 125.0
        await pool.aclose()

    run_virtual(main())
