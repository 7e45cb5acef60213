"""The reference is drawn from sources, which compiled functions do not give."""

from __future__ import annotations

from alto.cli import form

collect_ignore = ["test_reference.py"] if form() == "compiled" else []
