"""Every block of README.md and docs/ does what the page says (see running.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from pages import Block, Page, pages
from running import PageRun, commands, compare

RUNNING = [page for page in pages() if any(block.language for block in page.blocks)]


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in [name for name in os.environ if name.startswith("ALTO_")]:
        monkeypatch.delenv(name)
    PageRun(page, tmp_path).run()


@pytest.mark.parametrize("page", list(pages()), ids=lambda page: page.name)
def test_every_block_names_its_language(page: Page) -> None:
    assert [block.line for block in page.blocks if not block.language] == []


def test_output_is_compared_and_dots_stand_for_anything() -> None:
    compare("here", "a ... z\n", "a b\nc z  \n")
    with pytest.raises(AssertionError, match="here: shown"):
        compare("here", "a\n", "a b\n")


def test_a_command_goes_on_after_a_backslash_and_is_followed_by_its_output() -> None:
    text = "$ alto one \\\n    two\nout\n$ alto three\n"
    assert commands(Block("console", "", text, 1)) == [
        ("alto one two", "out\n"),
        ("alto three", ""),
    ]
