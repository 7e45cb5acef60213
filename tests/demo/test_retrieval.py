"""Search over the passages: what it finds, in which order, and what it says when it cannot."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from alto.demo.data import Claim, Passage
from alto.demo.retrieval import EVIDENCE_PASSAGES, Passages
from alto.errors import ConfigError

PLACES = [
    Passage("a", "https://example.org/a", "The harbour of Valparaíso lies in Chile."),
    Passage("b", "https://example.org/b", "Copper is mined in Chile, copper above all."),
    Passage("c", "https://example.org/c", "The harbour of Valparaíso lies in Chile."),
    Passage("d", "https://example.org/d", "Sheep are painted in spring."),
]


def ids(found: list[Passage]) -> list[str]:
    return [passage.id for passage in found]


@pytest.mark.parametrize(
    ("query", "k", "expected"),
    [
        ("copper mined", 3, ["b"]),
        ("harbour of Valparaíso", 3, ["a", "c"]),
        ("harbour of Valparaíso", 1, ["a"]),
        ("Chile copper", 9, ["b", "a", "c"]),
        ("unheard words", 3, []),
        ("the of in", 3, []),
        ("?!", 3, []),
        ("", 3, []),
    ],
)
def test_what_a_query_finds(query: str, k: int, expected: list[str]) -> None:
    assert ids(Passages(PLACES).search(query, k)) == expected


def test_as_a_stage_it_gives_texts_with_their_site() -> None:
    assert Passages(PLACES)(Claim("Copper is mined.")) == [
        "[example.org] Copper is mined in Chile, copper above all."
    ]


def test_instances_over_the_shipped_passages_share_one_index() -> None:
    assert Passages()._index is Passages()._index


def test_recall_on_every_annotated_claim() -> None:
    """How often one of the first k passages is one that a person found relevant."""
    packed = Path(__file__).with_name("claims.jsonl.gz").read_bytes()
    claims = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    search = Passages().search
    found = [(ids(search(claim["text"], 10)), set(claim["relevant"])) for claim in claims]
    hits = {
        k: sum(not relevant.isdisjoint(best[:k]) for best, relevant in found) for k in (1, 5, 10)
    }
    assert len(claims) == 469
    assert hits == {1: 193, EVIDENCE_PASSAGES: 371, 10: 417}


def test_without_the_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ConfigError, match=r"pip install 'alto\[demo\]'"):
        Passages(PLACES)
