"""Links lead somewhere, pictures are there, and nothing in docs/images is left over."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from pages import ROOT, Page, pages, read

PAGES = list(pages())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Page) -> None:
    broken = [link for link in page.links() if leads_nowhere(page, link)]
    assert broken == []


def leads_nowhere(page: Page, link: str) -> bool:
    """Whether a link to a file here has no file, or no heading, at its end."""
    if "://" in link or link.startswith("mailto:"):
        return False
    name, _, anchor = unquote(link).partition("#")
    target = (page.path.parent / name).resolve() if name else page.path
    if not target.exists():
        return True
    return bool(anchor) and target.suffix == ".md" and anchor not in read(target).anchors()


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, open_ = set(), [ROOT / "README.md"]
    while open_:
        path = open_.pop()
        if path in reached:
            continue
        reached.add(path)
        for link in read(path).links():
            target = (path.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists():
                open_.append(target)
    assert [page.name for page in PAGES if page.path not in reached] == []


def test_every_picture_is_shown() -> None:
    shown = {(page.path.parent / link).resolve() for page in PAGES for link in page.links() if link}
    pictures = sorted((ROOT / "docs" / "images").glob("*"))
    assert [path.name for path in pictures if path.resolve() not in shown] == []
