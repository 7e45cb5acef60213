"""The spec `OpenAI`: what it takes, what it refuses, and that its key stays hidden."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from alto.engines.openai import OpenAI
from alto.engines.protocol import Engine, EngineSpec, Replica
from alto.errors import ConfigError

URL = "http://localhost:8000/v1"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (URL, URL),
        (URL + "/", URL),
        (" " + URL + "/chat/completions ", URL),
        ("https://x.test/v1?api-version=7", "https://x.test/v1?api-version=7"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_urls_are_taken_as_people_write_them(given: str, url: str) -> None:
    assert OpenAI(urls=[given], model="m").urls == (url,)
    assert OpenAI(url=given, model="m") == OpenAI(urls=given, model="m")


@pytest.mark.parametrize("given", [f"{URL}, http://b.test/v1", f"{URL} http://B.test/v1\n"])
def test_one_text_may_be_several_urls(given: str) -> None:
    assert OpenAI(urls=given, model="m").urls == (URL, "http://b.test/v1")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"urls": ["http://a b/v1"]}, "urls has 'http://a b/v1', expected http://HOST"),
        ({"urls": ["http://b.test", "http://B.test"]}, "twice; give each server once"),
        ({"urls": [URL], "api_key": 123}, "api_key is of type int, expected a text"),
        ({"urls": [URL], "api_key_env": None}, "api_key_env is of type NoneType, expected a text"),
        ({"urls": ["localhost:8000/v1"]}, "expected http://HOST"),
        ({"urls": ["ftp://x.test/v1"]}, "expected http://HOST"),
        ({"urls": ["http://x.test:port/v1"]}, "whose host or port cannot be read"),
        ({"urls": ["http://[::1/v1"]}, "whose host or port cannot be read"),
        ({"urls": [""]}, "expected a URL such as http://localhost:8000/v1"),
        ({"urls": [3]}, "urls has 3, expected a URL"),
        ({"urls": [URL, URL + "/"]}, "twice; give each server once"),
        ({"urls": [URL], "url": URL}, "either url or urls"),
        ({"urls": [URL], "model": ""}, "model is '', expected the name of a model"),
        ({"urls": [URL], "guided": "json"}, "guided is 'json', expected one of auto, "),
        ({"urls": [URL], "token_ids": "on"}, "token_ids is 'on', expected 'auto' or 'off'"),
        ({"urls": [URL], "busy_timeout": 0}, "busy_timeout is 0, expected a number, more than 0"),
        ({"urls": [URL], "stall_timeout": 0}, "stall_timeout is 0, expected a number, more than 0"),
        ({"urls": [URL], "metrics_interval": 0}, "expected a number, more than 0"),
        ({"urls": [URL], "extra": {"stream": False}}, "extra: stream is False; ALTO writes this"),
        ({"urls": [URL], "headers": {"x y": "z"}}, "header 'x y'"),
        ({"urls": [URL], "headers": {"x": "a\r\nb: c"}}, "header 'x'"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        OpenAI(**{"model": "m", **wrong})


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"of x\.test; use api_key") as caught:
        OpenAI(url="http://me:hunter2@x.test/v1", model="m")
    assert "hunter2" not in str(caught.value)


def test_keys_and_headers_are_in_no_repr() -> None:
    spec = OpenAI(url=URL, model="m", api_key="sk-secret", headers={"x-key": "sk-other"})
    assert "sk-" not in repr(spec)
    assert "sk-" not in repr(spec.replicas("chat"))


def test_the_url_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = OpenAI(model="m")
    with pytest.raises(ConfigError, match=r"engine chat: alto\.OpenAI has no URL"):
        spec.replicas("chat")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gpu:8000/v1/")
    assert [replica.name for replica in spec.replicas("chat")] == ["http://gpu:8000/v1"]
    monkeypatch.setenv("OPENAI_BASE_URL", "gpu")
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL has 'gpu', expected"):
        spec.replicas("chat")


def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="characters that a header cannot carry") as caught:
        OpenAI(url=URL, model="m", api_key="sk-s\nx").replicas("chat")
    assert "sk-s" not in str(caught.value)


def test_it_is_a_spec_that_opens_an_engine_of_replicas() -> None:
    spec = OpenAI(urls=["http://a/v1", "http://b/v1"], model="m")
    assert isinstance(spec, EngineSpec)
    assert all(isinstance(replica, Replica) for replica in spec.replicas("chat"))

    async def main() -> None:
        engine = spec.open("chat")
        assert isinstance(engine, Engine)
        assert engine.name == "chat"
        await engine.aclose()

    asyncio.run(main())


def test_a_spec_can_be_changed_into_another() -> None:
    spec = dataclasses.replace(OpenAI(url=URL, model="m"), model="n")
    assert (spec.urls, spec.model) == ((URL,), "n")


def test_importing_the_spec_loads_no_http_library() -> None:
    code = (
        "import sys; from alto.engines.openai import OpenAI; "
        f"OpenAI(url={URL!r}, model='m').replicas('chat'); "
        "print(*{'aiohttp', 'httpx', 'yarl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
