"""Compiles the hot modules (tools/native.py) into the wheel, where this machine can.

`pip install .` and `pip wheel .` make a compiled wheel if there is a C compiler, else one of plain
Python that says so. ALTO_COMPILE=1 makes the lack of a compiler an error, ALTO_COMPILE=0 makes
plain Python. An editable install is always plain Python, so that what is edited is what runs.
"""

from __future__ import annotations

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
        wish = native.wish()
        compiles = wish == "must" or (wish == "may" and native.missing_compiler() is None)
        return NEEDS if compiles else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wish = native.wish()
        if wish == "never" or version == "editable":
            return
        self._work = tempfile.TemporaryDirectory(prefix="alto-wheel-")
        parent = Path(self._work.name)
        native.copy_sources(parent / "alto")
        try:
            compiled = native.compile_into(parent / "alto")
        except native.NativeError as error:
            if wish == "must":
                raise
            self.app.display_warning(f"{error}\nThis wheel of ALTO is plain Python.")
            return
        for made in compiled:
            build_data["force_include"][str(made)] = str(made.relative_to(parent))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
