"""`alto demo`: one question, run twice: streaming, then with a barrier after each stage.

The first run is shown as it grows, the second only timed; then both stand side by side. Without a
live engine the language model is played from the record at the speed of a GPU profile, and the
demo says so.

Always true:
    A1  both runs have the same stages, question, engine and passages
    A2  the index of the passages is made before the first clock starts
    A3  the terminal is as it was afterwards, also after Ctrl-C
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.text import Text

from ..config import Config
from ..core.calls import Call
from ..engines.protocol import Engine, EngineSpec
from ..engines.recorded import Recorded
from ..errors import ConfigError
from ..runtime.embedded import Runtime
from ..values import to_jsonable
from .board import Board, Event
from .data import find_question, passages, questions, recorded_text
from .factcheck import ENGINE, STAGES, factcheck, factcheck_by_stages
from .retrieval import Passages
from .summary import Bars, summary, verdict_counts
from .timeline import Run
from .view import Screen
from .watch import Watch

PROFILE = "llama-3-70b_h100_tp4"
"""Sixteen milliseconds a token: a usual large model, and slow enough to be read along."""

STREAMING = "streaming"
BARRIER = "stage by stage"
_PIPELINES = {STREAMING: factcheck, BARRIER: factcheck_by_stages}

_RECORDED_NOTE = (
    "The answer, its claims and the verdicts on them were recorded, not written now; the search is "
    "real, and so is all that ALTO did. To ask a live model, and anything:"
)
_LIVE_NOTE = (
    "The model was asked anew for each run: it may have written more in one than in the other, and "
    "have found prompts of the first still in its cache in the second."
)
_FRAME_S = 1 / 15
_INTERRUPTED = 130
# Stages that take about a millisecond are known by the item that they give.
_TICKS = {"evidence": "search", "report": "tally"}

Follow = Callable[[Board, Watch], "Screen | _Quiet"]
"""Makes what follows a run and fills its board."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked, who answers, and how the demo says so."""

    question: str
    engine: EngineSpec
    notice: str
    live: bool


def plan(
    question: str | None = None,
    engine_url: str | None = None,
    model: str | None = None,
    profile: str = PROFILE,
) -> Plan:
    """Choose who answers: a live engine if a URL is given, else the record."""
    if engine_url is None:
        found = find_question(question) if question else questions()[0]
        notice = f"recorded answers of {found.model}, at the speed of {profile}"
        return Plan(found.text, Recorded(profile=profile, fallback=_played), notice, live=False)
    if not model:
        raise ConfigError(
            f"alto demo --engine {engine_url}: which of its models is to answer? Add --model NAME; "
            f"{engine_url.rstrip('/')}/models lists them."
        )
    asked = question or questions()[0].text
    if asked.isdecimal():
        asked = find_question(asked).text
    # The record needs no HTTP client, so none is loaded for it.
    from ..engines.openai import OpenAI

    engine = OpenAI(urls=[engine_url], model=model)
    return Plan(asked, engine, f"{model} at {engine_url}", live=True)


def _played(call: Call) -> str:
    return recorded_text(call.stage, call.arguments)


async def demo(
    question: str | None = None,
    engine_url: str | None = None,
    model: str | None = None,
    profile: str = PROFILE,
    as_json: bool = False,
    barrier: bool = True,
    console: Console | None = None,
) -> int:
    """Run the demo, and give the exit status. What a user can mend is raised as `AltoError`."""
    chosen = plan(question, engine_url, model, profile)
    console = console or _stdout()
    if as_json:
        return await _demo_json(chosen, barrier, console)
    with console.status(f"Making an index of {len(passages()):,} passages ..."):
        Passages()
    board, run = await _run(
        chosen, STREAMING, lambda board, watch: Screen(console, board, watch.now)
    )
    runs, beside = [run], None
    if barrier:
        with console.status("The same request with a barrier after each stage ..."):
            beside, run = await _run(chosen, BARRIER, _Quiet)
        runs.append(run)
    _conclude(console, chosen, board, beside, runs)
    return 0


async def _demo_json(chosen: Plan, barrier: bool, console: Console) -> int:
    """The same for machines: an object a line for each event, and one at the end."""

    Passages()
    end: dict[str, Any] = {"question": chosen.question, "engine": chosen.notice}
    for title in (STREAMING, BARRIER) if barrier else (STREAMING,):
        follow = partial(_JsonLines, title=title, console=console)
        board, _ = await _run(chosen, title, follow)
        end[title] = {**asdict(board.moments), "verdicts": dict(sorted(board.counts().items()))}
    _write_json(console, end)
    return 0


async def run_quietly(chosen: Plan, title: str) -> Run:
    """One request, followed by nobody: who worked when."""
    return (await _run(chosen, title, _Quiet))[1]


async def _run(chosen: Plan, title: str, follow: Follow) -> tuple[Board, Run]:
    """One request from its beginning to its end, followed by a screen or by nobody."""
    watch = Watch()
    board = Board(chosen.question, title=chosen.notice)
    config = Config(engines={ENGINE: watch.engine(chosen.engine)})
    async with Runtime(config) as runtime:
        # Opening an engine is done once, not for each request, so it is not on the clock.
        engine = runtime.engine(ENGINE)
        if chosen.live:
            await _connect(engine)
        with follow(board, watch) as follower:
            watch.begin()
            events = runtime.stream(_PIPELINES[title], chosen.question)
            ticker = asyncio.create_task(_tick(follower.draw))
            try:
                async with aclosing(events):
                    async for event in events:
                        follower.see(event)
                        if event.output in _TICKS:
                            watch.note(_TICKS[event.output], event.path)
                board.end(watch.now())
            finally:
                ticker.cancel()
    return board, Run(title, watch.spans)


async def _connect(engine: Engine) -> None:
    """One word from a live engine: the first call of all pays for connections and loading."""
    call = Call(messages=[{"role": "user", "content": "Say yes."}], max_tokens=1)
    async with aclosing(engine.stream(call)) as deltas:
        async for _ in deltas:
            pass


async def _tick(draw: Callable[[], None]) -> None:
    while True:
        draw()
        await asyncio.sleep(_FRAME_S)


class _Quiet(AbstractContextManager["_Quiet"]):
    """Follows a run without showing it."""

    def __init__(self, board: Board, watch: Watch) -> None:
        self._board = board
        self._watch = watch

    def __exit__(self, *_: object) -> None:
        return None

    def see(self, event: Event) -> None:
        self._board.see(event, self._watch.now())

    def draw(self) -> None:
        """There is nothing to draw."""


class _JsonLines(_Quiet):
    """Follows a run by writing a JSON object for each event."""

    def __init__(self, board: Board, watch: Watch, *, title: str, console: Console) -> None:
        super().__init__(board, watch)
        self._title = title
        self._console = console

    def see(self, event: Event) -> None:
        super().see(event)
        entry = {
            "run": self._title,
            "at": round(self._watch.now(), 4),
            "output": event.output,
            "path": list(event.path),
            "value": to_jsonable(event.value),
        }
        marks = {"revised": event.revised, "withdrawn": event.withdrawn}
        _write_json(self._console, entry | {name: True for name, on in marks.items() if on})


def _write_json(console: Console, entry: dict[str, Any]) -> None:
    console.file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    console.file.flush()


def _conclude(
    console: Console, chosen: Plan, board: Board, beside: Board | None, runs: list[Run]
) -> None:
    """What came of it, and what it took."""
    console.print()
    console.print(verdict_counts(board))
    console.print()
    console.print(summary(board.moments, beside.moments if beside else None))
    console.print()
    console.print(Bars(runs, STAGES))
    console.print()
    if chosen.live:
        console.print(Text(_LIVE_NOTE, style="dim"))
        return
    console.print(Text(_RECORDED_NOTE, style="dim"))
    console.print("  alto demo --engine URL --model NAME QUESTION", highlight=False)


def list_questions(console: Console | None = None) -> None:
    """Print the recorded questions, by number."""
    console = console or _stdout()
    for number, question in enumerate(questions(), start=1):
        claims = len(question.claims)
        console.print(
            Text.assemble((f"{number:3} ", "dim"), question.text, (f"  {claims} claims", "dim"))
        )


def main(
    question: str | None = None,
    engine_url: str | None = None,
    model: str | None = None,
    profile: str = PROFILE,
    as_json: bool = False,
    barrier: bool = True,
) -> int:
    """What the command `alto demo` runs. Ctrl-C ends it without a traceback."""
    try:
        return asyncio.run(demo(question, engine_url, model, profile, as_json, barrier))
    except KeyboardInterrupt:
        return _INTERRUPTED


def _stdout() -> Console:
    # A passage may hold any letter, a terminal may not show it: that must not end the demo.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console()
