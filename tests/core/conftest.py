"""What counts bytecodes is no part of a run on the compiled form, which has none."""

from __future__ import annotations

from alto.cli import form

collect_ignore = ["test_cut_json_work.py"] if form() == "compiled" else []
