"""Texts that break off and are gone on with from their tokens, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from openai_calls import ask, run

from alto.core.calls import Call, Delta, TokenIds, Usage
from alto.engines.dialect import Dialect, Form
from alto.engines.openai import OpenAI
from alto.engines.pool import Pool
from alto.engines.sim_server import start
from alto.engines.simulated import Simulated
from alto.engines.token_ids import ExactReader
from alto.errors import EngineError

TEXT = " ".join(f"word{n} is, as ever, followed by another." for n in range(8))


class Wire:
    """A TCP proxy before one server, that can cut a connection in mid-answer."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)
        self.url = ""
        self.asked: list[bytes] = []
        """What clients sent, a piece for each read."""
        self.cut_after: int | None = None
        """The connection of the next answer is cut where its event of this number would begin."""

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._server)
        asking = asyncio.create_task(self._ask(reader, up_writer))
        try:
            while data := await up_reader.read(65536):
                kept = self._kept(data)
                writer.write(kept)
                await writer.drain()
                if len(kept) < len(data):
                    writer.transport.abort()
                    break
        except ConnectionError:
            pass
        finally:
            asking.cancel()
            for end in (writer, up_writer):
                end.close()

    def _kept(self, data: bytes) -> bytes:
        """What goes through of one read, however many events it has."""
        if self.cut_after is None:
            return data
        first, *events = data.split(b"data: ")
        if len(events) < self.cut_after:
            self.cut_after -= len(events)
            return data
        kept = b"data: ".join([first, *events[: self.cut_after - 1]])
        self.cut_after = None
        return kept

    async def _ask(self, reader: asyncio.StreamReader, up: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.asked.append(data)
                up.write(data)
                await up.drain()

    def bodies(self, path: str) -> list[Any]:
        """The requests to a path, each sent in one or two pieces."""
        requests = b"".join(self.asked).split(b"POST ")[1:]
        wanted = [each for each in requests if each.startswith(path.encode() + b" ")]
        return [json.loads(each.split(b"\r\n\r\n", 1)[1]) for each in wanted]


@asynccontextmanager
async def pool_of_two(
    text: str = TEXT, **options: Any
) -> AsyncIterator[tuple[Pool, tuple[Wire, Wire], Usage]]:
    """Two simulated servers behind wires, each of which has answered once, and what that cost."""
    async with AsyncExitStack() as stack:
        wires: list[Wire] = []
        for _ in range(2):
            spec = Simulated(respond=lambda call: text, speed=2.0)
            server = await stack.enter_async_context(await start(spec))
            wire = Wire(server.url)
            proxy = await asyncio.start_server(wire.connected, "127.0.0.1", 0)
            stack.callback(proxy.close)
            host, port = proxy.sockets[0].getsockname()[:2]
            wire.url = f"http://{host}:{port}/v1"
            wires.append(wire)
        spec_ = OpenAI(
            urls=[wire.url for wire in wires],
            model="sim",
            policy="round-robin",
            metrics_interval=None,
            **options,
        )
        pool = spec_.open("chat")
        stack.push_async_callback(pool.aclose)
        for _ in range(2):
            joined, last = await answer(pool)
            assert joined == text
            assert last.usage is not None
        yield pool, (wires[0], wires[1]), last.usage


async def answer(pool: Pool, **more: Any) -> tuple[str, Delta]:
    deltas = [delta async for delta in pool.stream(ask("Tell me about words.", **more))]
    return "".join(deltas), deltas[-1]


@pytest.mark.parametrize("text", [TEXT, "Ein Mädchen sagt: 漢字 sind schön, ça va 🙂 ! " * 4])
def test_a_connection_cut_in_mid_text_is_gone_on_with_from_the_tokens(text: str) -> None:
    async def main() -> None:
        async with pool_of_two(text) as (pool, (broken, other), alone):
            broken.cut_after = 20
            joined, last = await answer(pool)
            assert joined == text
            (body,) = other.bodies("/v1/completions")
            assert broken.bodies("/v1/completions") == []
            assert all(isinstance(number, int) for number in body["prompt"])
            assert body["max_tokens"] is None
            assert "messages" not in body
            usage = last.usage
            assert usage is not None
            assert usage.calls == 2
            assert last.finish_reason == "stop"
            if text == TEXT:  # there a token is one id
                written = len(body["prompt"]) - alone.prompt_tokens
                # At least one token an event, and more where the server is behind.
                assert 10 < written < alone.completion_tokens
                assert usage.completion_tokens == alone.completion_tokens
                assert usage.prompt_tokens == 2 * alone.prompt_tokens + written
            pool.check()

    run(main())


def test_one_that_breaks_twice_is_still_exact_and_max_tokens_holds() -> None:
    async def main() -> None:
        async with pool_of_two() as (pool, (first, second), alone):
            first.cut_after = 15
            second.cut_after = 15
            joined, last = await answer(pool, max_tokens=alone.completion_tokens - 10)
            assert TEXT.startswith(joined)
            assert last.finish_reason == "length"
            assert last.usage is not None
            assert last.usage.completion_tokens == alone.completion_tokens - 10
            (body,) = second.bodies("/v1/completions")
            (again,) = first.bodies("/v1/completions")
            assert again["prompt"][: len(body["prompt"])] == body["prompt"]
            assert len(again["prompt"]) > len(body["prompt"])

    run(main())


@pytest.mark.parametrize(
    ("options", "call"),
    [({"token_ids": "off"}, {}), ({}, {"stop": ("never said",)})],
)
def test_else_it_is_gone_on_with_from_the_text(
    options: dict[str, Any], call: dict[str, Any]
) -> None:
    async def main() -> None:
        async with pool_of_two(**options) as (pool, (broken, other), _):
            broken.cut_after = 20
            joined, _ = await answer(pool, **call)
            assert joined == TEXT
            assert other.bodies("/v1/completions") == []
            last = other.bodies("/v1/chat/completions")[-1]
            assert last["continue_final_message"] is True
            assert "return_token_ids" not in last

    run(main())


def test_resuming_can_be_switched_off() -> None:
    async def main() -> None:
        async with pool_of_two(resume=False) as (pool, (broken, other), _):
            broken.cut_after = 20
            with pytest.raises(EngineError, match=r"after .* characters of the answer"):
                await answer(pool)
            assert "return_token_ids" not in other.bodies("/v1/chat/completions")[0]

    run(main())


# ---- which ids are believed


def chunk(content: str = "", ids: list[int] | None = None, **more: Any) -> bytes:
    prompt = more.pop("prompt", None)
    choice = {"index": 0, "delta": {"content": content, **more}, "token_ids": ids}
    return (
        b"data: " + msgspec.json.encode({"choices": [choice], "prompt_token_ids": prompt}) + b"\n\n"
    )


FIRST = chunk(prompt=[1, 2, 3])


@pytest.mark.parametrize(
    ("events", "answer_ids"),
    [
        ([FIRST, chunk("a", [7]), chunk("bc", [8, 9])], [7, 8, 9]),
        ([FIRST, chunk("a", [7]), chunk("", [8])], [7]),  # its text was held back
        ([FIRST, chunk("", [6]), chunk("a", [7]), chunk("", [])], [6, 7]),
        ([FIRST, chunk("a", [7]), chunk("b")], None),
        ([FIRST, chunk("a", [7]), chunk("b", [])], None),
        ([chunk("a", [7])], None),
        ([FIRST], None),
        ([FIRST, chunk("", [5], reasoning_content="hm"), chunk("a", [7])], None),
        ([FIRST, chunk("", [5], tool_calls=[{"index": 0}]), chunk("a", [7])], None),
        ([FIRST, chunk("a", [7]), b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n'], None),
        ([FIRST, chunk("a", ["x"])], None),  # type: ignore[list-item]
        (  # a plain completion, and the place where SGLang means to put them
            [
                b'data: {"choices":[{"index":0,"text":"a","token_ids":[7],'
                b'"prompt_token_ids":[1,2,3]}]}\n\n',
                b'data: {"choices":[{"index":0,"text":"b","token_ids":[8]}]}\n\n',
            ],
            [7, 8],
        ),
    ],
)  # fmt: skip
def test_which_ids_are_taken_for_the_text_so_far(
    events: list[bytes], answer_ids: list[int] | None
) -> None:
    reader = ExactReader()
    text = "".join(delta for event in events for delta in reader.feed(event))
    expected = None if answer_ids is None else TokenIds([1, 2, 3], answer_ids)
    assert reader.token_ids() == expected
    assert reader.chars == len(text)


def dialect(**options: Any) -> Dialect:
    return Dialect("m", url="http://x/chat", completions_url="http://x/text", **options)


def body_of(dialect: Dialect, call: Call, form: Form) -> Mapping[str, Any]:
    decoded: Mapping[str, Any] = msgspec.json.decode(dialect.body(call, form))
    return decoded


def test_a_server_that_refuses_the_field_is_asked_without() -> None:
    speech, call = dialect(token_ids=True), ask()
    form = speech.form_for(call)
    assert body_of(speech, call, form)["return_token_ids"] is True
    simpler = speech.simpler(call, form, 400, "Unrecognized request argument: return_token_ids")
    assert simpler is not None
    speech.learned(call, simpler)
    assert "return_token_ids" not in body_of(speech, call, speech.form_for(call))
    assert not speech.asks_ids(call)


def test_only_a_server_that_told_ids_is_given_ids_and_one_that_refuses_them_the_text() -> None:
    speech = dialect(token_ids=True, extra={"top_k": 5, "chat_template_kwargs": {}})
    call = ask(prompt_ids=(1, 2), extra={"continue_final_message": True})
    assert not speech.form_for(call).by_ids
    speech.tells_ids = True
    form = speech.form_for(call)
    assert speech.target(form) == "http://x/text"
    assert body_of(speech, call, form) == {
        "model": "m",
        "prompt": [1, 2],
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "max_tokens": None,
        "top_k": 5,
    }
    simpler = speech.simpler(call, form, 404, "no such page")
    assert simpler is not None
    assert speech.target(simpler) == "http://x/chat"
    assert body_of(speech, call, simpler)["continue_final_message"] is True
    speech.learned(call, simpler)
    assert not speech.form_for(call).by_ids
    assert speech.form_for(ask()).token_ids
