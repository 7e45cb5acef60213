"""The one table of settings (`settings.toml`), read once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TABLE: dict[str, Any] = tomllib.loads((HERE / "settings.toml").read_text("utf-8"))
