"""The server itself, spoken to over plain HTTP: what the other tests here take for granted."""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from llama_build import LlamaError, build, server_binary
from llama_model import write_model
from llama_server import LlamaServer

pytestmark = pytest.mark.engines

ASK = [{"role": "user", "content": "Say something."}]


def ask(server: LlamaServer, **body: Any) -> dict[str, Any]:
    """One chat completion, not streamed."""
    answer: dict[str, Any] = json.loads(post(server, body))
    return answer


def streamed(server: LlamaServer, **body: Any) -> str:
    """The text of a streamed chat completion."""
    lines = post(server, {**body, "stream": True}).decode().splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def post(server: LlamaServer, body: dict[str, Any]) -> bytes:
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
    try:
        wire = json.dumps({"model": "tiny", "messages": ASK, **body})
        connection.request(
            "POST", "/v1/chat/completions", wire, {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
    finally:
        connection.close()
    return content


def test_the_model_is_served_under_its_alias(replicas: tuple[LlamaServer, LlamaServer]) -> None:
    for server in replicas:
        assert [model["id"] for model in json.loads(server.get("/v1/models"))["data"]] == ["tiny"]


def test_there_are_as_many_slots_as_asked(replicas: tuple[LlamaServer, LlamaServer]) -> None:
    assert [len(json.loads(server.get("/slots"))) for server in replicas] == [3, 3]


def test_ignore_eos_makes_the_length_exact(replicas: tuple[LlamaServer, LlamaServer]) -> None:
    answer = ask(replicas[0], max_tokens=40, ignore_eos=True)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 40


def test_the_same_seed_gives_the_same_text_on_both(
    replicas: tuple[LlamaServer, LlamaServer],
) -> None:
    texts = [
        ask(server, max_tokens=30, seed=7, cache_prompt=False)["choices"][0]["message"]["content"]
        for server in replicas
    ]
    assert texts[0] == texts[1] != ""


def test_an_answer_once_begun_is_gone_on_with(replicas: tuple[LlamaServer, LlamaServer]) -> None:
    """With both fields, and only when streamed, it leaves out the beginning that it was given."""
    begun = [*ASK, {"role": "assistant", "content": "The quick"}]
    texts = [
        streamed(replicas[0], messages=begun, max_tokens=8, **fields)
        for fields in ({}, {"continue_final_message": True, "add_generation_prompt": False})
    ]
    assert [text.startswith("The quick") for text in texts] == [True, False]


def test_started_again_it_keeps_its_port(doomed: LlamaServer) -> None:
    url, pid = doomed.url, doomed.pid
    doomed.kill()
    doomed.start()
    assert doomed.url == url
    assert doomed.pid != pid
    ask(doomed, max_tokens=1)


def test_a_stopped_server_is_gone() -> None:
    with LlamaServer() as server:
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_taken_port_is_an_error_with_the_servers_own_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = LlamaServer(port=taken.getsockname()[1])
        with pytest.raises(LlamaError, match="couldn't bind"), server:
            pass


def test_a_second_build_is_the_first() -> None:
    assert build() == server_binary()


def test_without_a_build_the_error_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALTO_CACHE_DIR", str(tmp_path))
    with pytest.raises(LlamaError, match=r"tools/llama\.py build"):
        LlamaServer().start()


def test_without_a_compiler_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALTO_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(LlamaError, match="apt-get install"):
        build()


def test_the_model_is_the_same_every_time(tmp_path: Path) -> None:
    write_model(tmp_path / "one.gguf")
    write_model(tmp_path / "two.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.gguf", "two.gguf"]
