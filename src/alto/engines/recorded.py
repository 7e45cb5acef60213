"""`alto.Recorded`: answers that were given once, given again at the speed of a simulated server.

A recording is JSON lines (`.gz` or not), or the same dicts in memory, one for each call:

    {"stage": "verify", "arguments": {"claim": {"text": "..."}}, "text": "SUPPORTED"}
    {"prompt": "Who discovered penicillin?", "text": "Alexander Fleming did.", "reasoning": "..."}
    {"prompt": "Is it raining in Oslo?", "text": "", "tool_calls": [{"id": "call_1", "type":
     "function", "function": {"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}}]}

A call is looked up by its stage and arguments, else by the text of its prompt. Arguments are
compared as JSON, so a struct equals the dict it is written as; those that an entry does not name
are not compared, and the entry that names more is preferred. An entry without a stage answers for
any, and a call without one (from another program, over HTTP) is answered by any. Of two entries
for the same call the later one stands.
"""

from __future__ import annotations

import difflib
import gzip
import io
import json
import zlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.calls import Call, Delta
from ..core.encode import EncodeCall
from ..errors import ConfigError, EngineError
from ..values import to_jsonable
from .encodes import Encodes
from .protocol import Engine, EngineSpec
from .sim_replica import Answer, Respond
from .sim_settings import ServerSettings
from .tokens import prompt_text
from .tool_calls import is_whole, whole_calls

Entry = Mapping[str, Any]

_NEAR_MAX = 2000
"""Recorded keys that a failed lookup is compared with, to name the nearest."""

_SHOWN = 240


@dataclass(frozen=True, kw_only=True)
class Recorded(ServerSettings):
    """An engine that answers from a recording: the file at `path`, then `entries`.

    What is not recorded goes to `fallback(call)`; without one it is an `EngineError` that shows
    what was looked up and the nearest that is there. Vectors and scores are not recorded: they are
    made up, as `alto.Simulated` makes them. The other settings are those of `ServerSettings`.
    """

    path: str | Path | None = None
    entries: Sequence[Entry] = ()
    fallback: Respond | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path is not None:
            _check_path("Recorded", self.path)
        if isinstance(self.entries, str | bytes | Mapping) or not isinstance(
            self.entries, Sequence
        ):
            raise ConfigError(f"Recorded: entries is {self.entries!r}, expected a list of dicts.")
        if self.fallback is not None and not callable(self.fallback):
            raise ConfigError(f"Recorded: fallback is {self.fallback!r}, expected a function.")
        if self.path is None and not self.entries and self.fallback is None:
            raise ConfigError(
                "Recorded() has nothing to answer with: give path= (JSON lines), entries= (a list "
                'of {"stage", "arguments", "text"}) or fallback='
            )

    def writer(self, name: str) -> Respond:
        """Looks answers up. Reads the file, so it is called when the engine is opened."""
        recording = Answers(name)
        if self.path is not None:
            recording.read(Path(self.path))
        for number, entry in enumerate(self.entries):
            recording.add(entry, f"entries[{number}]")
        fallback = self.fallback

        def answer(call: Call) -> str | Answer:
            found = recording.find(call)
            if found is not None:
                return found
            if fallback is not None:
                return fallback(call)
            raise recording.miss(call)

        return answer

    @staticmethod
    def write(path: str | Path, entries: Iterable[Entry]) -> int:
        """Write a recording; returns how many entries. Structs become JSON; the same entries give
        the same bytes, also with `.gz`."""
        lines = []
        for number, entry in enumerate(entries):
            _check(entry, f"entry {number}")
            lines.append(json.dumps(to_jsonable(dict(entry)), ensure_ascii=False) + "\n")
        data = "".join(lines).encode("utf-8", "surrogatepass")
        target = Path(path)
        target.write_bytes(gzip.compress(data, mtime=0) if target.suffix == ".gz" else data)
        return len(lines)


class Answers:
    """Entries by what they answer."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._by_arguments: dict[str, dict[tuple[str, ...], dict[str, Answer]]] = {}
        self._by_prompt: dict[tuple[str, str], Answer] = {}
        self._by_prompt_alone: dict[str, Answer] = {}  # for calls that name no stage

    def read(self, path: Path) -> None:
        """Add the entries of a file."""
        try:
            data = path.read_bytes()
            plain = gzip.decompress(data) if path.suffix == ".gz" else data
            text = plain.decode("utf-8-sig")
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise ConfigError(
                f"engine {self._engine}: cannot read the recording {str(path)!r}: {error}; "
                "expected a file of JSON lines in UTF-8, compressed if its name ends in .gz"
            ) from error
        for number, line in enumerate(io.StringIO(text), 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{where}: not JSON ({error}): {_short(line.strip())}") from error
            self.add(entry, where)

    def add(self, entry: Entry, where: str) -> None:
        """Add one entry; `where` is for the message if it is none."""
        _check(entry, where)
        stage = entry.get("stage") or ""
        calls = entry.get("tool_calls") or ()
        answer = Answer(entry["text"], entry.get("reasoning") or "", calls)
        if entry.get("arguments") is not None:
            arguments = _plain(entry["arguments"])
            names = tuple(sorted(arguments))
            kinds = self._by_arguments.setdefault(stage, {})
            kinds.setdefault(names, {})[_key(arguments, names)] = answer
        if entry.get("prompt") is not None:
            self._by_prompt[stage, entry["prompt"]] = answer
            self._by_prompt_alone[entry["prompt"]] = answer

    def find(self, call: Call) -> Answer | None:
        """The recorded answer to a call."""
        arguments = _plain(call.arguments)
        for stage in dict.fromkeys((call.stage, "")):
            kinds = self._by_arguments.get(stage, {})
            for names in sorted(kinds, key=lambda names: (-len(names), names)):
                if arguments and all(name in arguments for name in names):
                    answer = kinds[names].get(_key(arguments, names))
                    if answer is not None:
                        return answer
        prompt = prompt_text(call.messages)
        if not call.stage:
            return self._by_prompt_alone.get(prompt)
        return self._by_prompt.get((call.stage, prompt)) or self._by_prompt.get(("", prompt))

    def miss(self, call: Call) -> EngineError:
        """The error for a call that is not recorded."""
        arguments = _plain(call.arguments)
        asked = (
            _key(arguments, tuple(sorted(arguments))) if arguments else prompt_text(call.messages)
        )
        what = "arguments" if arguments else "prompt"
        known = list(self._keys(call.stage))
        near = difflib.get_close_matches(asked, known[:_NEAR_MAX], n=1, cutoff=0.0)
        nearest = f"the nearest recorded is {_short(near[0])}" if near else "nothing is recorded"
        return EngineError(
            f"engine {self._engine} has no recorded answer for stage {call.stage!r} with {what} "
            f"{_short(asked)}: {nearest} ({len(known)} recorded for this stage). Record it, or "
            "give fallback=, a function from a call to its text.",
            engine=self._engine,
            retryable=False,
        )

    def _keys(self, stage: str) -> Iterator[str]:
        for known in dict.fromkeys((stage, "")):
            for answers in self._by_arguments.get(known, {}).values():
                yield from answers
        for known, prompt in self._by_prompt:
            if known in (stage, "") or not stage:
                yield prompt


@dataclass(frozen=True, slots=True)
class Recorder:
    """An engine that writes down what another one answers, as a recording at `path`.

    Each whole answer is one more line, with the call's stage, its arguments and its prompt, and the
    calls of tools in the answer; one that breaks off or is left by its reader is none. Vectors and
    scores pass unrecorded.
    """

    engine: EngineSpec
    path: str | Path

    def __post_init__(self) -> None:
        _check_path("Recorder", self.path)
        if not isinstance(self.engine, EngineSpec) or isinstance(self.engine, type):
            raise ConfigError(
                f"Recorder: engine is {self.engine!r}, expected an engine to listen to, as "
                "alto.OpenAI(...)."
            )

    def open(self, name: str) -> Engine:
        """The other engine, opened, and listened to."""
        if not Path(self.path).parent.is_dir():
            raise ConfigError(
                f"engine {name}: Recorder writes to {str(self.path)!r}, whose folder is not there. "
                "Make it, or name another file."
            )
        return _Listener(self.engine.open(name), Path(self.path))


class _Listener(Encodes):
    def __init__(self, engine: Engine, path: Path) -> None:
        self.name = engine.name
        if isinstance(engine, Encodes):
            self.batch_options = engine.batch_options
        self._engine = engine
        self._path = path

    async def stream(self, call: Call) -> AsyncGenerator[Delta, None]:
        inner = self._engine.stream(call)
        deltas: list[Delta] = []
        try:
            async for delta in inner:
                deltas.append(delta)
                ends = delta.finish_reason is not None
                if ends and not isinstance(call, EncodeCall):  # before the reader can leave
                    self._write(call, deltas)
                yield delta
        finally:
            await inner.aclose()

    async def aclose(self) -> None:
        await self.close_batches()
        await self._engine.aclose()

    def _write(self, call: Call, deltas: Sequence[Delta]) -> None:
        entry: dict[str, Any] = {"stage": call.stage, "prompt": prompt_text(call.messages)}
        if call.arguments:
            entry["arguments"] = _plain(call.arguments)
        entry["text"] = "".join(deltas)
        reasoning = "".join(delta.reasoning for delta in deltas)
        if reasoning:
            entry["reasoning"] = reasoning
        tool_calls = whole_calls(deltas)
        if tool_calls:
            entry["tool_calls"] = tool_calls
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        with self._path.open("ab") as file:
            file.write(gzip.compress(line) if self._path.suffix == ".gz" else line)


def _check_path(kind: str, path: object) -> None:
    if not isinstance(path, str | Path) or not str(path):
        raise ConfigError(f"{kind}: path is {path!r}, expected the name of a file.")


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): to_jsonable(value) for name, value in arguments.items()}


def _key(arguments: Mapping[str, Any], names: tuple[str, ...]) -> str:
    chosen = {name: arguments[name] for name in names}
    return json.dumps(chosen, sort_keys=True, ensure_ascii=False, default=str)


def _check(entry: Any, where: str) -> None:
    problem = None
    if not isinstance(entry, Mapping):
        problem = f"is {type(entry).__name__}, expected an object"
    elif not isinstance(entry.get("text"), str):
        problem = f'has "text" {entry.get("text")!r}, expected the answer as a string'
    elif entry.get("arguments") is None and not isinstance(entry.get("prompt"), str):
        problem = 'names neither "arguments" (an object) nor "prompt" (a string): one is needed'
    elif not isinstance(entry.get("arguments"), Mapping | None):
        problem = f'has "arguments" {_short(repr(entry["arguments"]))}, expected an object'
    elif not _are_calls(entry.get("tool_calls")):
        problem = (
            f'has "tool_calls" {_short(repr(entry["tool_calls"]))}, expected a list of calls, each '
            'with a "function" that has a "name" and its "arguments" as a string'
        )
    if problem:
        raise ConfigError(f"recording, {where}: the entry {problem}")


def _are_calls(given: Any) -> bool:
    return given is None or (isinstance(given, list | tuple) and all(map(is_whole, given)))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 2 :]}"
