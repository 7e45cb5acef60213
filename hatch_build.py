"""Lets `ALTO_COMPILE=1 pip wheel .` build a wheel with the hot modules compiled (tools/native.py).

Without that variable, and in an editable install, a wheel is plain Python and needs no compiler.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))
import native

NEEDS = ["mypy>=2.4,<3", "setuptools>=75", "msgspec>=0.19"]
"""What compiling takes; msgspec since a compiled module is checked against its types."""


class CompiledWheel(BuildHookInterface):  # type: ignore[misc]
    """Puts a shared object beside the source of each compiled module."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return NEEDS if os.environ.get("ALTO_COMPILE") == "1" else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if os.environ.get("ALTO_COMPILE") != "1" or version == "editable":
            return
        self._work = tempfile.TemporaryDirectory(prefix="alto-wheel-")
        parent = Path(self._work.name)
        native.copy_sources(parent / "alto")
        for made in native.compile_into(parent / "alto"):
            build_data["force_include"][str(made)] = str(made.relative_to(parent))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
