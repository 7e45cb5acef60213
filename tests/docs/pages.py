"""The pages of the documentation, read: their fenced blocks, headings and links.

A fence opens with its language and marks: ```python title="app.py", ```console no-run. A block
`output` says what the block before it prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_SOURCE = re.compile(r'(?:src|href|srcset)="([^"]+)"')
_CODE_SPAN = re.compile(r"`[^`\n]*`")


@dataclass(frozen=True)
class Block:
    """One fenced block. `line` is that of its first line of text, counted from 1."""

    language: str
    marks: str
    text: str
    line: int

    @property
    def title(self) -> str | None:
        """The file that the block stands for."""
        found = _TITLE.search(self.marks)
        return found[1] if found else None

    @property
    def runs(self) -> bool:
        """Whether the block is more than something to look at."""
        return "no-run" not in self.marks.split()


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path
    text: str
    blocks: list[Block] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    def prose(self) -> str:
        """The text without what is in fences."""
        kept, fenced = [], False
        for line in self.text.splitlines():
            if _FENCE.match(line):
                fenced = not fenced
            elif not fenced:
                kept.append(line)
        return "\n".join(kept)

    def links(self) -> list[str]:
        """Where its links and pictures lead."""
        prose = _CODE_SPAN.sub("", self.prose())
        return _LINK.findall(prose) + _SOURCE.findall(prose)

    def anchors(self) -> set[str]:
        """What can stand behind the # of a link to this page, as GitHub makes it."""
        found: set[str] = set()
        for line in self.prose().splitlines():
            heading = re.match(r"#{1,6} +(.*)", line)
            if heading is None:
                continue
            words = re.sub(r"[^\w\- ]", "", heading[1].strip().lower())
            anchor = words.replace(" ", "-")
            count = 0
            while (unique := f"{anchor}-{count}" if count else anchor) in found:
                count += 1
            found.add(unique)
        return found


def read(path: Path) -> Page:
    """A page and its blocks. A fence that is not closed is an error."""
    text = path.read_text(encoding="utf-8")
    page = Page(path, text)
    language: str | None = None
    marks, start, indent = "", 0, 0
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if fence is None:
            lines.append(line[indent:])
        elif language is None:
            language, _, marks = fence["info"].strip().partition(" ")
            start, indent, lines = number + 1, len(fence["indent"]), []
        else:
            page.blocks.append(Block(language, marks, "\n".join(lines) + "\n", start))
            language, indent = None, 0
    if language is not None:
        raise ValueError(f"{page.name}, line {start - 1}: this block is not closed by ```.")
    return page


def pages() -> Iterator[Page]:
    """Every page that users read. Names that begin with _ are drafts."""
    files = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "changes" / "README.md"]
    files += sorted((ROOT / "docs").rglob("*.md"))
    for path in files:
        if path.exists() and not path.name.startswith("_"):
            yield read(path)
