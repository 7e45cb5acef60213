"""`alto.toml` and the environment, read into a `Config`.

    timeout = 30

    [engines.chat]
    kind = "openai"                  # or "simulated", "recorded"; known from url, profile, path
    urls = ["http://10.0.0.1:8000/v1"]
    model = "llama-3-8b"

    [stages.search]
    instances = 4
    max_concurrency = 2
    init = { index = "corpus.bm25" }

    [stages.verify]
    model = "llama-3-70b"

    [limits]
    request_bytes = "2 GiB"

An environment variable `ALTO_SECTION__KEY` overrides a value: `ALTO_ENGINES__CHAT__MODEL`,
`ALTO_LIMITS__REQUEST_BYTES`, `ALTO_TIMEOUT`. Its text is read as a TOML value, and as plain text if
it is none. Unknown keys are errors that name the nearest valid one.
"""

from __future__ import annotations

import difflib
import importlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .config import LM_SETTINGS, Config, StageConfig
from .core.execution import Limits
from .engines.protocol import EngineSpec
from .errors import ConfigError
from .settings import duration, flag, whole

_KINDS = {
    "openai": ("engines.openai", "OpenAI"),
    "simulated": ("engines.simulated", "Simulated"),
    "recorded": ("engines.recorded", "Recorded"),
}
_TELLING = {"url": "openai", "urls": "openai", "path": "recorded", "profile": "simulated"}
_ONE_OF = {"url": "urls", "urls": "url"}
"""Two names of one setting."""
_CODE_ONLY = {"respond", "fallback", "entries", "embed", "score"}
_SECTIONS = ("engines", "stages", "limits", "timeout", "token_budget", "shed", "seed")
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB)?\s*", re.IGNORECASE)
_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}


def load(path: str | Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration in the file (none: the environment alone)."""
    data: dict[str, Any] = {}
    where = "the environment"
    if path is not None:
        where = str(path)
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"{where}: cannot be read: {error.strerror}. Name a file that exists, or leave "
                "--config out."
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: is not TOML: {error}.") from error
    changed = _override(data, environ)
    if changed and path is not None:
        where = f"{where} (with {', '.join(changed)})"
    return _config(data, where)


def _override(data: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    """Put the environment's values into the data. The names of the variables that were used."""
    used = []
    ours: list[tuple[dict[str, Any], str]] = []  # what variables have set
    for name in sorted(environ):
        if not name.startswith("ALTO_") or name in ("ALTO_CACHE_DIR", "ALTO_CONFIG"):
            continue
        parts = [part.lower() for part in name[len("ALTO_") :].split("__")]
        if parts[0] not in _SECTIONS:
            raise ConfigError(
                f"environment variable {name}: there is no section {parts[0]!r}."
                f"{_near(parts[0], _SECTIONS)}"
            )
        place = data
        for part in parts[:-1]:
            key = next((key for key in place if key.lower() == part), part)
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError(f"environment variable {name}: {key} is a value, not a section.")
        key = next((key for key in place if key.lower() == parts[-1]), parts[-1])
        place[key] = _value(environ[name])
        other = _ONE_OF.get(key, "") if parts[0] == "engines" else ""
        if other and not any(place is there and other == set_ for there, set_ in ours):
            place.pop(other, None)  # the file's; a variable goes before it
        ours.append((place, key))
        used.append(name)
    return used


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _near(key: str, valid: Iterable[str]) -> str:
    known = sorted(valid)
    close = difflib.get_close_matches(key, known, 1)
    return f" Did you mean {close[0]!r}?" if close else f" Valid: {', '.join(known)}."


def _check(where: str, given: Mapping[str, Any], valid: Iterable[str]) -> None:
    valid = list(valid)
    for key in given:
        if key not in valid:
            raise ConfigError(f"{where}: unknown key {key!r}.{_near(key, valid)}")


def _table(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}, expected a table of keys and values.")
    return value


def _config(data: dict[str, Any], where: str) -> Config:
    _check(where, data, _SECTIONS)
    engines = {
        name: _engine(f"{where}: [engines.{name}]", _table(f"{where}: [engines.{name}]", table))
        for name, table in _table(f"{where}: [engines]", data.get("engines", {})).items()
    }
    stages = {
        name: _stage(f"{where}: [stages.{name}]", _table(f"{where}: [stages.{name}]", table))
        for name, table in _table(f"{where}: [stages]", data.get("stages", {})).items()
    }
    budget = data.get("token_budget")
    return Config(
        engines=engines,
        stages=stages,
        limits=_limits(f"{where}: [limits]", _table(f"{where}: [limits]", data.get("limits", {}))),
        timeout=duration(f"{where}: timeout", data.get("timeout")),
        token_budget=None if budget is None else whole(f"{where}: token_budget", budget, 1),
        shed=flag(f"{where}: shed", data.get("shed", True)),
        seed=whole(f"{where}: seed", data.get("seed", 0), None),
    )


def _engine(where: str, table: dict[str, Any]) -> EngineSpec:
    table = dict(table)
    kind = table.pop("kind", None)
    if kind is None:
        kind = next((_TELLING[key] for key in table if key in _TELLING), None)
    if kind not in _KINDS:
        raise ConfigError(
            f"{where}: kind is {kind!r}, expected 'openai', 'simulated' or 'recorded'."
            f"{_near(str(kind), _KINDS) if kind else ''}"
        )
    module, name = _KINDS[kind]
    spec = getattr(importlib.import_module(f".{module}", __package__), name)
    _check(where, table, [f.name for f in fields(spec) if f.name not in _CODE_ONLY])
    if kind == "simulated" and isinstance(table.get("speed"), list):
        table["speed"] = tuple(table["speed"])
    try:
        made: EngineSpec = spec(**table)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}.") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return made


def _stage(where: str, table: dict[str, Any]) -> StageConfig:
    _check(where, table, [f.name for f in fields(StageConfig)])
    known: dict[str, Any] = {}
    for key in ("instances", "max_concurrency", "batch"):
        if key in table:
            known[key] = whole(f"{where} {key}", table[key], 1)
    if "max_wait" in table:
        known["max_wait"] = duration(f"{where} max_wait", table["max_wait"])
    known.update((key, table[key]) for key in LM_SETTINGS if key in table)
    try:
        return StageConfig(init=_table(f"{where} init", table.get("init", {})), **known)
    except ConfigError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix('StageConfig: ')}") from None


def _limits(where: str, table: dict[str, Any]) -> Limits:
    names = [f.name for f in fields(Limits)]
    _check(where, table, names)
    return Limits(**{key: _bytes(f"{where} {key}", value) for key, value in table.items()})


def _bytes(where: str, value: Any) -> int:
    if isinstance(value, str):
        match = _BYTES.fullmatch(value)
        if match is None:
            raise ConfigError(f"{where} is {value!r}, expected a number or a text like '64 MiB'.")
        return int(float(match[1]) * _UNITS[(match[2] or "b").lower()])
    return whole(where, value, 1)
