"""What is of the compiled form alone is no part of a run on the interpreted one."""

from __future__ import annotations

from alto.cli import form

collect_ignore = ["test_compiled.py"] if form() == "interpreted" else []
