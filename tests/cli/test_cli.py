"""The commands as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from alto.cli import main

HERE = Path(__file__).parent
APP = str(HERE / "app.py")


def alto(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_help_has_examples_for_every_command() -> None:
    for command in ("demo", "run", "check", "graph", "simulate", "sim-engine"):
        shown = alto(command, "--help")
        assert shown.exit_code == 0
        assert f"alto {command}" in shown.output


def test_run_shows_items_and_reads_arguments_by_order_and_by_name() -> None:
    shown = alto("run", f"{APP}:doubles", "2", "factor=10").output.splitlines()
    assert sorted(shown) == ["doubling 0: 0", "doubling 1: 1", "result 0: 0", "result 1: 10"]


def test_run_as_json_ends_with_the_result() -> None:
    lines = [
        json.loads(line)
        for line in alto("run", f"{APP}:doubles", "2", "--json").output.splitlines()
    ]
    assert {"output": "result", "path": [1], "value": 2} in lines
    assert lines[-1]["result"] == [0, 2]
    assert lines[-1]["usage"]["calls"] == 0


def test_run_as_json_ends_with_the_error_if_there_is_one() -> None:
    shown = alto("run", f"{APP}:refusing", "3", "--json")
    assert shown.exit_code == 1
    error = json.loads(shown.stdout.splitlines()[-1])["error"]
    assert error.pop("message") in shown.stderr
    assert error == {"type": "StageError", "stage": "refuse", "path": [], "attempts": 1}


def test_arguments_are_json_or_the_text_itself_where_that_fits() -> None:
    def run(*args: str) -> str:
        return alto("run", f"{APP}:colours", *args).output

    claims = '[{"text": "a"}]'
    assert run(claims, "x", "red") == "result: [Claim(text='a')] 'x' red\n"
    assert run(claims, "null", "blue") == "result: [Claim(text='a')] None blue\n"
    assert "result 0: 2\n" in alto("run", f"{APP}:each", "[1, 2]").output


def test_run_uses_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "alto.toml"
    config.write_text(
        '[engines.chat]\nkind = "simulated"\nprofile = "llama-3-8b_h100_tp1"\nspeed = 50.0\n'
    )
    shown = alto("run", f"{APP}:check", "Who?", "--json")
    assert shown.exit_code == 0, shown.output
    end = json.loads(shown.output.splitlines()[-1])
    assert end["result"]["count"] == len(end["result"]["claims"]) > 0
    assert end["usage"]["calls"] > 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "nowhere:x"], "error: nowhere:x: there is no module nowhere. Run "),
        (["run", "gone.py:x"], "error: gone.py:x: there is no file gone.py.\n"),
        (["run", f"{APP}:chek"], "Did you mean check?"),
        (["run", f"{APP}:not_a_pipeline"], "not_a_pipeline is a int, not a pipeline"),
        (["run", APP], "name the pipeline, as "),
        (["run", f"{APP}:doubles"], "error: doubles needs upto: give it in order or as upto="),
        (["run", f"{APP}:doubles", "two"], "argument upto: Expected JSON for int, got 'two'"),
        (["run", f"{APP}:doubles", "1", "2", "3"], "'3' is one too many."),
        (["run", f"{APP}:check", "q"], "engine 'chat' is not configured; there is none."),
        (["run", f"{APP}:refusing", "3"], "stage refuse at the request failed in its only "),
        (["run", f"{APP}:doubles", "1", "--config", "gone.toml"], "gone.toml: cannot be read: "),
        (["run", f"{APP}:colours", "[]", "x", "green"], "argument colour: Expected JSON for Literal["),
        (["graph", f"{APP}:check", "-o", "gone/x.svg"], "gone/x.svg: cannot be written: "),
        (["simulate", f"{APP}:check", "--inputs", "lacks.txt"], "lacks.txt: '{}' lacks question."),
        (["simulate", f"{APP}:check", "--inputs", "bytes.txt"], "bytes.txt: cannot be read as UTF-8"),
        (["simulate", f"{APP}:check", "q", "--stage-time", "search"], "expected STAGE=SECONDS"),
        (["simulate", f"{APP}:endless", "3"], "It was running wait_for_ever at the request."),
        (["simulate", f"{APP}:threaded", "3"], "not come on virtual time, such as a thread"),
        (["simulate", f"{APP}:check", "q", "--rate", "inf"], "rate=inf, expected requests per sec"),
        (["simulate", f"{APP}:check", "q", "--duration", "inf"], "Poisson arrivals never end"),
        (["simulate", f"{APP}:check", "q", "--stage-time", "answer=1"], "answer, an LM stage"),
        (["simulate", f"{APP}:check", "q", "--stage-time", "serch=1"], "which are no stages of it"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(tmp_path: Path, args: list[str], message: str) -> None:
    (tmp_path / "lacks.txt").write_text("{}\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    shown = alto(*args)
    assert shown.exit_code == 1
    assert message in shown.output
    assert "Traceback" not in shown.output


def test_a_wrong_option_is_a_usage_error() -> None:
    assert alto("run", f"{APP}:doubles", "1", "--timeout", "-1").exit_code == 2


def test_check_prints_every_problem_at_once() -> None:
    shown = alto("check", f"{HERE / 'broken.py'}:wrong")
    assert shown.exit_code == 1
    assert "pipeline wrong, stage length: its output goes nowhere." in shown.output
    assert "parameter text: got int from length#2, expected str." in shown.output
    listed = json.loads(alto("check", f"{HERE / 'broken.py'}:wrong", "--json").output)
    assert len(listed["problems"]) == 2


def test_check_says_so_when_all_is_well(tmp_path: Path) -> None:
    assert alto("check", f"{APP}:check").output == "check: 4 stages (2 of them LM), no problems.\n"
    config = tmp_path / "other.toml"
    config.write_text('[engines.chatt]\nkind = "simulated"\n')
    shown = alto("check", f"{APP}:check", "--config", str(config))
    assert shown.exit_code == 1
    assert "Did you mean 'chatt'?" in shown.output


def test_check_tells_of_the_graph_and_of_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "other.toml"
    config.write_text("[limit]\n")
    listed = alto("check", f"{HERE / 'broken.py'}:wrong", "--config", str(config), "--json")
    assert len(json.loads(listed.output)["problems"]) == 3


def test_check_opens_what_needs_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    config = tmp_path / "other.toml"
    config.write_text(
        "[engines.chat]\nkind = 'openai'\nmodel = 'm'\n[engines.old]\npath = 'gone.jsonl'\n"
        "[engines.live]\nurl = 'http://127.0.0.1:9/v1'\nmodel = 'm'\n"
    )
    listed = json.loads(alto("check", f"{APP}:check", "--config", str(config), "--json").output)[
        "problems"
    ]
    assert len(listed) == 2
    assert "engine chat: alto.OpenAI has no URL" in listed[0]
    assert "engine old: cannot read the recording 'gone.jsonl'" in listed[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_is_one_clear_line() -> None:
    with open("/dev/full", "w") as full:
        shown = subprocess.run(
            [sys.executable, "-m", "alto", "graph", f"{APP}:doubles"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert shown.returncode == 1
    assert shown.stderr.startswith("error: the output cannot be written: No space left")


def test_check_warns_of_settings_for_a_stage_that_is_called_otherwise(tmp_path: Path) -> None:
    config = tmp_path / "other.toml"
    config.write_text(
        "[engines.chat]\nkind = 'simulated'\n[stages.serch]\n[stages.of_another_pipeline]\n"
    )
    listed = json.loads(alto("check", f"{APP}:check", "--config", str(config), "--json").output)
    assert listed == {
        "problems": [],
        "warnings": ["[stages.serch] is for no stage of check. Did you mean 'search'?"],
    }


def test_graph_in_its_three_forms(tmp_path: Path) -> None:
    text = alto("graph", f"{APP}:check").output
    assert "extract(sentence=answer) -> Stream[Claim]   [lm, for each item of answer]" in text
    mermaid = alto("graph", f"{APP}:check", "--format", "mermaid").output
    assert mermaid.startswith("flowchart LR\n")
    assert "search ==>|evidence| count" in mermaid
    picture = tmp_path / "check.svg"
    assert alto("graph", f"{APP}:check", "--format", "svg", "-o", str(picture)).exit_code == 0
    assert picture.read_text().startswith("<svg ")


def test_simulate_reports_load_on_virtual_time() -> None:
    args = ["simulate", f"{APP}:check", "Who?", "--rate", "2", "--duration", "20", "--json"]
    first, again = alto(*args), alto(*args)
    report = json.loads(first.output)
    assert report["failed"] == 0
    assert report["requests"] > 20
    assert report["latency_s"]["p50"] <= report["latency_s"]["p99"]
    assert first.output == again.output


@pytest.mark.parametrize("name", ["check", "colours", "each"])
def test_simulate_makes_inputs_up_if_none_are_given(name: str) -> None:
    args = ["simulate", f"{APP}:{name}", "--duration", "10", "--json"]
    first, again = alto(*args), alto(*args)
    assert first.exit_code == 0, first.output
    report = json.loads(first.stdout)
    assert [report[name] for name in ("failed", "shed", "late")] == [0, 0, 0]
    assert first.stdout == again.stdout
    assert "inputs are made up" in first.stderr


def test_simulate_fails_if_every_request_does() -> None:
    shown = alto("simulate", f"{APP}:refusing", "3", "--duration", "10", "--json")
    assert shown.exit_code == 1
    report = json.loads(shown.stdout)
    assert report["failed"] == report["requests"]
    assert "stage refuse" in report["first_failure"]
    shown = alto("simulate", f"{APP}:refusing", "3", "--duration", "10")
    assert "p50 -" in shown.stdout


def test_simulate_takes_inputs_from_a_file(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text('{"question": "a"}\n\nWho was first?\n')
    shown = alto(
        "simulate", f"{APP}:check", "--inputs", str(inputs), "--duration", "5", "--barrier"
    )
    assert shown.exit_code == 0, shown.output
    assert "finished per second" in shown.output


def test_simulate_stands_in_for_engines_that_stages_call_themselves(tmp_path: Path) -> None:
    config = tmp_path / "live.toml"
    config.write_text('[engines.embed]\nurl = "http://nowhere.invalid/v1"\nmodel = "m"\n')
    args = ["simulate", f"{APP}:retrieval", "Who?", "--duration", "5", "--config", str(config)]
    report = json.loads(alto(*args, "--json").output)
    embed = report["engines"]["embed"]
    assert report["failed"] == 0
    assert embed["texts_embedded"] == 2 * report["requests"] > 0
    assert embed["documents_reranked"] == 3 * report["requests"]
    assert "texts embedded" in alto(*args).output
    assert "texts embedded" not in alto("simulate", f"{APP}:check", "q", "--duration", "3").output


def test_simulate_changes_simulated_engines_as_far_as_it_is_told(tmp_path: Path) -> None:
    config = tmp_path / "two.toml"
    config.write_text("[engines.chat]\nprofile = 'llama-3-8b_h100_tp1'\nreplicas = 2\n")

    def shown(*given: str) -> dict[str, dict[str, float]]:
        load = ["Who?", "--rate", "5", "--duration", "20", "--config", str(config), "--json"]
        report: dict[str, dict[str, float]] = json.loads(
            alto("simulate", f"{APP}:check", *load, *given).output
        )
        return report

    assert shown() == shown("--replicas", "2") != shown("--replicas", "1")
    slow = shown("--profile", "llama-3-8b_a100_tp1")
    assert shown()["latency_s"]["mean"] < slow["latency_s"]["mean"]


def test_ctrl_c_ends_a_run_cleanly(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "alto", "run", f"{APP}:endless", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "waiting\n"
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert errors == "interrupted\n"


def test_sim_engine_says_where_it_listens() -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "alto", "sim-engine", "--port", "0", "--model", "m"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    with running:
        assert running.stdout is not None
        url = running.stdout.readline().split(": ")[1].split(",")[0]
        try:
            with urllib.request.urlopen(f"{url}/models", timeout=20) as answer:
                assert json.load(answer)["data"][0]["id"] == "m"
        finally:
            running.send_signal(signal.SIGINT)
        assert running.wait(timeout=20) == 0


def test_sim_engine_ends_though_an_answer_is_being_written() -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "alto", "sim-engine", "--port", "0", "--model", "m"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    with running:
        assert running.stdout is not None
        url = running.stdout.readline().split(": ")[1].split(",")[0]
        endless = {"messages": [{"role": "user", "content": "Go on."}], "stream": True}
        endless |= {"max_tokens": 5_000, "ignore_eos": True}  # half a minute
        body = json.dumps(endless).encode()
        asked = urllib.request.Request(f"{url}/chat/completions", body)
        with urllib.request.urlopen(asked, timeout=20) as answer:
            assert answer.readline().startswith(b"data: ")
            running.send_signal(signal.SIGINT)
            assert b"was closed while it answered" in answer.read()
        assert running.wait(timeout=20) == 0
        assert running.stderr is not None
        assert running.stderr.read() == ""


def test_demo_lists_its_questions() -> None:
    shown = alto("demo", "--list")
    assert shown.exit_code == 0
    assert "claims" in shown.output
