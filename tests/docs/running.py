"""Runs the blocks of one page, from the top to the bottom, in an empty directory.

- ```python blocks share one namespace. One with a `title` is written to a file of that name and
  imported, as a reader would have it; `test_...` functions that a block defines are called.
- ```toml blocks must be configurations that ALTO reads; one with a `title` is written to a file.
- ```console: the lines that begin with `$ alto` are run. Lines below them are their output.
- ```output must be what the block before it printed. `...` stands for any text, also of many lines.
  With `any-order` its lines may come in any order: those of items that are finished side by side.
- A block that cannot run anywhere is marked `no-run`, and says on its first line what it needs.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import re
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from click.testing import CliRunner
from pages import ROOT, Block, Page

from alto.cli import main
from alto.config_file import load

_REASON = re.compile(r"# [Nn]eeds ")


class PageRun:
    """One page under way: its namespace, its directory, and what was printed last."""

    def __init__(self, page: Page, directory: Path) -> None:
        self.page = page
        self.directory = directory
        self.module = ModuleType("page_" + re.sub(r"\W", "_", page.name))
        self.files: set[str] = set()
        self.printed = ""

    def run(self) -> None:
        """Every block in turn."""
        steps = {
            "python": self._python,
            "toml": self._toml,
            "console": self._console,
            "output": self._output,
        }
        sys.modules[self.module.__name__] = self.module
        try:
            for block in self.page.blocks:
                step = steps.get(block.language)
                if step is not None:
                    step(block)
        finally:
            for name in (self.module.__name__, *self.files):
                sys.modules.pop(name, None)

    def where(self, block: Block) -> str:
        return f"{self.page.name}, line {block.line}"

    # ---------------------------------------------------------------- Python

    def _python(self, block: Block) -> None:
        # Blank lines before it, so that a traceback names the line of the page.
        source = "\n" * (block.line - 1) + block.text
        tree = ast.parse(source, self.page.name)
        if not block.runs:
            assert _REASON.match(block.text), (
                f"{self.where(block)}: a block that is not run begins with '# needs ...', so that "
                "its reader knows what it takes."
            )
            return
        names = vars(self.module)
        before = dict(names)
        printed = io.StringIO()
        with redirect_stdout(printed):
            if block.title is not None and block.title.endswith(".py"):
                names.update(self._imported(block))
            else:
                exec(compile(tree, self.page.name, "exec"), names)
            for name, value in list(names.items()):
                if name.startswith("test_") and before.get(name) is not value:
                    assert not inspect.signature(value).parameters, f"{name} takes no arguments"
                    value()
        self.printed = printed.getvalue()

    def _imported(self, block: Block) -> dict[str, Any]:
        assert block.title is not None
        name = block.title.removesuffix(".py")
        (self.directory / block.title).write_text(block.text, encoding="utf-8")
        self.files.add(name)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        found = vars(importlib.import_module(name))
        return {key: value for key, value in found.items() if not key.startswith("__")}

    # ---------------------------------------------------------------- the rest

    def _toml(self, block: Block) -> None:
        name = block.title or "checked.toml"
        path = self.directory / name
        path.write_text(block.text, encoding="utf-8")
        load(path, {})
        if block.title is None:
            path.unlink()

    def _console(self, block: Block) -> None:
        for command, expected in commands(block):
            words = shlex.split(command, comments=True)
            if words[:1] == ["alto"] and block.runs:
                for name in self.files:
                    sys.modules.pop(name, None)
                result = CliRunner().invoke(main, words[1:])
                assert result.exit_code == 0, (
                    f"{self.where(block)}: {command}: exit code {result.exit_code}\n"
                    f"{result.output}\n{result.exception!r}"
                )
                if expected.strip():
                    compare(f"{self.where(block)}: {command}", expected, result.output)
            else:
                check_words(f"{self.where(block)}: {command}", words)

    def _output(self, block: Block) -> None:
        shown, printed = block.text, self.printed
        if "any-order" in block.marks.split():
            shown, printed = _sorted(shown), _sorted(printed)
        compare(self.where(block), shown, printed)


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that is shown for it."""
    found: list[tuple[str, str]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (found[-1][0][:-1] + line.strip(), "")
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


def check_words(where: str, words: list[str]) -> None:
    """Other programs are not run; but what they are told to use must be there."""
    if words[:1] == ["make"]:
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in words[1:]:
            known = "=" in target or re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)
            assert known, f"{where}: the Makefile has no target {target}"
    if words[:1] == ["python"] and words[1:] and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), f"{where}: there is no file {words[1]}"


def compare(where: str, expected: str, printed: str) -> None:
    """Like doctest with ELLIPSIS, without a view to blanks at the ends of lines."""
    wanted, given = _tidy(expected), _tidy(printed)
    pattern = ".*?".join(map(re.escape, wanted.split("...")))
    assert re.fullmatch(pattern, given, re.DOTALL), (
        f"{where}: shown\n{wanted}\nbut printed\n{given}"
    )


def _sorted(text: str) -> str:
    return "\n".join(sorted(text.strip().splitlines()))


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
