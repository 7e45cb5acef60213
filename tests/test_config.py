"""alto.toml and the environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import alto
from alto.config_file import load
from alto.core.policies.round_robin import RoundRobin

GOOD = """
timeout = 30
seed = 7

[engines.chat]
urls = ["http://localhost:8000/v1"]
model = "llama"
connect_timeout = 2.0
embed_max_wait = "5ms"
rerank_batch = 100

[engines.sim]
kind = "simulated"
profile = "llama-3-8b_h100_tp1"
replicas = 2
speed = [1.0, 2.0]

[stages.search]
instances = 4
max_wait = "20ms"
init = { index = "corpus" }

[limits]
request_bytes = "2 GiB"
scope_items = 10
"""


def read(tmp_path: Path, text: str, **environ: str) -> alto.Config:
    path = tmp_path / "alto.toml"
    path.write_text(text)
    return load(path, environ)


def test_a_whole_file(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD)
    chat: Any = config.engines["chat"]
    sim: Any = config.engines["sim"]
    assert isinstance(chat, alto.OpenAI)
    assert (chat.urls, chat.model, chat.connect_timeout) == (
        ("http://localhost:8000/v1",),
        "llama",
        2.0,
    )
    assert (chat.embed_batch, chat.embed_max_wait_s, chat.rerank_batch) == (64, 0.005, 100)
    assert isinstance(sim, alto.Simulated)
    assert sim.speed == (1.0, 2.0)
    assert config.stages["search"] == alto.StageConfig(
        instances=4, max_wait=0.02, init={"index": "corpus"}
    )
    assert config.limits == alto.Limits(request_bytes=2 << 30, scope_items=10)
    assert (config.timeout, config.seed) == (30.0, 7)


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        GOOD,
        ALTO_ENGINES__CHAT__MODEL="other",
        ALTO_LIMITS__SCOPE_ITEMS="99",
        ALTO_STAGES__NEW__BATCH="8",
        ALTO_STAGES__VERIFY__MODEL="llama-3-70b",
        ALTO_STAGES__VERIFY__ENGINE='["large", "small"]',
        ALTO_TIMEOUT="2s",
        PATH="/bin",
    )
    chat: Any = config.engines["chat"]
    assert chat.model == "other"
    assert config.limits.scope_items == 99
    assert config.stages["new"].batch == 8
    assert config.stages["verify"] == alto.StageConfig(
        model="llama-3-70b", engine=("large", "small")
    )
    assert config.timeout == 2.0


@pytest.mark.parametrize("told", ["URL", "URLS"])
@pytest.mark.parametrize("kept", ["url = 'http://a.test/v1'", "urls = ['http://a.test/v1']"])
def test_a_variable_goes_before_either_name_of_the_url(
    tmp_path: Path, told: str, kept: str
) -> None:
    text = f"[engines.chat]\nmodel = 'm'\n{kept}\n"
    config = read(tmp_path, text, **{f"ALTO_ENGINES__CHAT__{told}": "http://b.test/v1"})
    chat: Any = config.engines["chat"]
    assert chat.urls == ("http://b.test/v1",)


def test_both_names_of_the_url_in_the_environment_are_a_mistake(tmp_path: Path) -> None:
    both = {f"ALTO_ENGINES__CHAT__{name}": "http://b.test/v1" for name in ("URL", "URLS")}
    with pytest.raises(alto.ConfigError, match="give either url or urls, not both"):
        read(tmp_path, "[engines.chat]\nmodel = 'm'\n", **both)


def test_nothing_at_all_is_an_empty_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert alto.Config.load() == alto.Config()
    (tmp_path / "alto.toml").write_text("seed = 3\n")
    assert alto.Config.load().seed == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[engine.chat]\n", "unknown key 'engine'. Did you mean 'engines'?"),
        ("[engines.chat]\nulrs = []\nmodel = 'm'\n", "kind is None, expected 'openai', 'simulated' or"),
        ("[engines.chat]\nkind = 'opnai'\n", "kind is 'opnai', expected 'openai', 'simulated' or 'recor"),
        ("[engines.chat]\nurl='http://h/v1'\nmodle='m'\n", "[engines.chat]: unknown key 'modle'. Did you mean 'model'?"),
        ("[engines.chat]\nurl='ftp://h'\nmodel='m'\n", "[engines.chat]: "),
        ("[engines.chat]\nprofile='gpt'\n", "[engines.chat]: "),
        ("[engines.e]\nurl='http://h'\nmodel='m'\nembed_bach=9\n", "unknown key 'embed_bach'. Did you mean 'embed_batch'?"),
        ("[engines.e]\nurl='http://h'\nmodel='m'\nembed_batch=0\n", "[engines.e]: OpenAI: embed_batch is 0, expected a whole"),
        ("[engines.e]\nkind='simulated'\nembed_max_wait='soon'\n", "[engines.e]: Simulated: embed_max_wait is 'soon', expected"),
        ("[engines.e]\nkind='simulated'\ndimensions=0\n", "[engines.e]: Simulated: dimensions is 0, expected"),
        ("[engines.e]\nkind='simulated'\nembed='f'\n", "[engines.e]: unknown key 'embed'"),
        ("[engines]\nchat = 3\n", "[engines.chat] is 3, expected a table"),
        ("[stages.search]\ninstanses = 2\n", "[stages.search]: unknown key 'instanses'. Did you mean 'instances'?"),
        ("[stages.search]\ninstances = 0\n", "instances is 0, expected a whole number, 1 or more."),
        ("[stages.search]\nmax_wait = 'soon'\n", "max_wait is 'soon', expected a number of seconds"),
        ("[stages.verify]\nmodle = 'x'\n", "[stages.verify]: unknown key 'modle'. Did you mean 'model'?"),
        ("[stages.verify]\nmodel = 3\n", "[stages.verify]: model is 3, expected a model's name."),
        ("[stages.verify]\nengine = []\n", "[stages.verify]: engine is [], expected the name of an engine"),
        ("[stages.verify]\nmax_tokens = 0\n", "[stages.verify]: max_tokens is 0, expected a whole number"),
        ("[stages.verify]\ntemperature = 'hot'\n", "[stages.verify]: temperature is 'hot', expected a number, 0 or more."),
        ("[limits]\nrequest_byte = 1\n", "unknown key 'request_byte'. Did you mean 'request_bytes'?"),
        ("[limits]\nrequest_bytes = 'much'\n", "request_bytes is 'much', expected a number or a text like '64 MiB'."),
        ("timeout = 'x'\n", "timeout is 'x', expected a number of seconds"),
        ("shed = 1\n", "shed is 1, expected true or false."),
        ("seed = 1.5\n", "seed is 1.5, expected a whole number."),
        ("this is no toml", "is not TOML: "),
    ],
)  # fmt: skip
def test_a_mistake_names_its_place_and_what_is_valid(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(alto.ConfigError) as raised:
        read(tmp_path, text)
    assert message in str(raised.value)
    assert "alto.toml" in str(raised.value)


def openai(**options: Any) -> alto.OpenAI:
    return alto.OpenAI(url="http://h/v1", model="m", **options)


class Later(RoundRobin):
    async def choose(self, *_: Any) -> int:  # type: ignore[override]
        return 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: alto.Config(engines={"chat": 3}), "Config: engines['chat'] is 3, expected alto.OpenAI"),
        (lambda: alto.Config(engines={"chat": alto.Simulated}), "expected alto.OpenAI(...) or alto.Simulated(...)."),
        (lambda: alto.Config(engines=[1]), "Config: engines is [1], expected a dict of names and values."),
        (lambda: alto.Config(stages={"s": {}}), "Config: stages['s'] is {}, expected alto.StageConfig(...)."),
        (lambda: alto.Config(limits=3), "Config: limits is 3, expected alto.Limits(...)."),
        (lambda: alto.Config(timeout="soon"), "Config: timeout is 'soon', expected a number of seconds"),
        (lambda: alto.Config(shed="no"), "Config: shed is 'no', expected true or false."),
        (lambda: alto.Config(seed="x"), "Config: seed is 'x', expected a whole number."),
        (lambda: alto.Limits(scope_items=0), "Limits: scope_items is 0, expected a whole number, 1 or more."),
        (lambda: alto.Limits(replay_bytes=-1), "Limits: replay_bytes is -1, expected a whole number, 0 or more."),
        (lambda: alto.StageConfig(instances=0), "StageConfig: instances is 0, expected a whole number, 1 or more."),
        (lambda: alto.StageConfig(max_wait="soon"), "StageConfig: max_wait is 'soon', expected a number of seconds"),
        (lambda: alto.StageConfig(init=3), "StageConfig: init is 3, expected a dict of arguments for __init__."),
        (lambda: alto.Simulated(replicas="4"), "Simulated: replicas is '4', expected a whole number, 1 or more."),
        (lambda: alto.Simulated(speed="fast"), "Simulated(speed='fast', replicas=1): expected one positive number"),
        (lambda: alto.Simulated(policy="rr"), "scheduling policy 'rr' is not known; expected one of round-robin"),
        (lambda: alto.Simulated(lengths=3), "Simulated: lengths is 3, expected Lengths(...), or a dict of them."),
        (lambda: alto.Simulated(respond="Hello"), "Simulated: respond is 'Hello', expected a function."),
        (lambda: alto.Simulated(faults=0.1), "Simulated: faults is 0.1, expected Faults(...)."),
        (lambda: alto.Simulated(prefix_caching="no"), "Simulated: prefix_caching is 'no', expected true or false."),
        (lambda: alto.Simulated(profile=3), "engine profile is 3, expected one of llama-2-7b_a100_tp1, "),
        (lambda: alto.Simulated(faults={"stall": "often"}), "Faults: stall is 'often', expected a number, 0 or more."),
        (lambda: alto.Simulated(faults={"refuse": float("nan")}), "Faults: refuse is nan, expected a number, 0 or"),
        (lambda: alto.Simulated(lengths={"items": (3, 1)}), "Lengths: items is (3, 1), expected a whole number, a pair"),
        (lambda: alto.Simulated(policy=RoundRobin), "scheduling policy RoundRobin is a class; give an object"),
        (lambda: alto.Simulated(policy=Later()), "choose() is async, expected a plain function"),
        (lambda: openai(policy="rr"), "scheduling policy 'rr' is not known"),
        (lambda: openai(resume="no"), "alto.OpenAI: resume is 'no', expected true or false."),
        (lambda: openai(stall_timeout="2s"), "alto.OpenAI: stall_timeout is '2s', expected a number, more than 0."),
        (lambda: openai(hedge_s=0), "alto.OpenAI: hedge_s is 0, expected a number, more than 0."),
        (lambda: openai(requests_per_minute="60"), "alto.OpenAI: requests_per_minute is '60', expected a whole number"),
        (lambda: openai(max_connections=0), "alto.OpenAI: max_connections is 0, expected a whole number, 1 or more."),
        (lambda: openai(embed_max_wait="soon"), "OpenAI: embed_max_wait is 'soon', expected a number of seconds"),
        (lambda: openai(extra="top_p"), "alto.OpenAI: extra is 'top_p', expected a dict of fields"),
        (lambda: openai(headers={"x-key": 3}), "alto.OpenAI: header 'x-key' is 3, expected a name and a text"),
        (lambda: alto.OpenAI(urls=3, model="m"), "alto.OpenAI: urls is 3, expected a list of URLs."),
    ],
)  # fmt: skip
def test_a_mistake_in_python_is_told_where_it_is_made(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(alto.ConfigError) as raised:
        make()
    assert message in str(raised.value)


def test_durations_may_be_texts() -> None:
    assert alto.Config(timeout="2s").timeout == 2.0  # type: ignore[arg-type]
    assert alto.StageConfig(max_wait="5ms").max_wait == 0.005  # type: ignore[arg-type]


def test_a_wrong_environment_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        alto.ConfigError, match=r"variable ALTO_LIMIT__X: there is no section 'limit'"
    ):
        read(tmp_path, "", ALTO_LIMIT__X="1")
    with pytest.raises(
        alto.ConfigError, match=r"with ALTO_LIMITS__SCOPE_ITEM\).*Did you mean 'scope_items'\?"
    ):
        read(tmp_path, "", ALTO_LIMITS__SCOPE_ITEM="1")


def test_bytes_have_units(tmp_path: Path) -> None:
    for text, size in (("'1 KiB'", 1024), ("'1.5 MB'", 1_500_000), ("'7'", 7), ("8", 8)):
        assert read(tmp_path, f"[limits]\nreplay_bytes = {text}\n").limits.replay_bytes == size
