"""Write the tables that the headline experiment draws its requests from: lengths and counts only.

    python tools/make_headline_data.py DATA

DATA is a folder with `chatverify/factool_kbqa.jsonl.gz`, `chatverify/factool_zh_pipeline.jsonl.gz`,
`chatverify/factcheck_gpt.jsonl.gz` (all Apache-2.0) and `corpus/evidence_passages.jsonl.gz`, of
which only lengths are taken. `benchmarks/headline/README.md` says what each column is.

What a data set lacks is dealt from one that has it, in the order of the files and the same for
every run: search queries, verdicts and the snippets of FacTool's own records come from the whole
FacTool runs of `factool_zh_pipeline` (claim after claim), passages for a turn from the evidence of
`factcheck_gpt`. Lengths are counted with the tokens of the simulated engine.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alto.core.sentences import Sentences
from alto.engines.tokens import tokenize

TARGET = Path(__file__).resolve().parents[1] / "benchmarks" / "headline"
PASSAGES_MAX = 9
RELEVANT_WANTED = 3
RECORD_COLUMNS = ("record", "source", "question", "sentences", "passages")
CLAIM_COLUMNS = ("record", "sentence", "claim", "queries", "evidence", "verdict")


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def tokens(text: str) -> int:
    return len(tokenize(text))


def spaced(counts: list[int]) -> str:
    return " ".join(map(str, counts))


def sentences_of(text: str) -> list[str]:
    cutter = Sentences()
    return [*cutter.feed(text), *cutter.finish()]


def home(claim: str, sentences: list[str]) -> int:
    """The sentence that has most of a claim's words; the first of those that have as many."""
    wanted = set(re.findall(r"\w+", claim.lower()))
    shared = [len(wanted & set(re.findall(r"\w+", each.lower()))) for each in sentences]
    return shared.index(max(shared))


def whole_runs(path: Path) -> Iterator[dict[str, Any]]:
    """Steps of whole FacTool runs, one per claim, again from the start when they run out."""
    steps = []
    for record in rows(path):
        if record["category"] != "kbqa":
            continue
        for step in record["steps"]:
            verdict, evidence = step.get("verdict"), step.get("evidence")
            if isinstance(verdict, dict) and evidence and step.get("queries"):
                said = {
                    name: verdict.get(name)
                    for name in ("reasoning", "error", "correction", "factuality")
                }
                steps.append(
                    {
                        "queries": [tokens(query) for query in step["queries"]],
                        "evidence": [tokens(text) for text in evidence["evidence"]],
                        "verdict": tokens(json.dumps(said, ensure_ascii=False)),
                    }
                )
    return itertools.cycle(steps)


def passages_of(claims: list[dict[str, Any]], length: dict[str, int]) -> list[int]:
    """Passages in threes until three are relevant, nine at most, as WikiChat asks for them."""
    found, relevant = [], 0
    for claim in claims:
        for passage, stance in zip(claim["evidence"], claim["stance"], strict=True):
            if len(found) % 3 == 0 and relevant >= RELEVANT_WANTED or len(found) == PASSAGES_MAX:
                return found
            found.append(length[passage])
            relevant += stance != "irrelevant"
    return found[: len(found) // 3 * 3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    length = {
        row["id"]: tokens(row["text"]) for row in rows(data / "corpus/evidence_passages.jsonl.gz")
    }
    steps = whole_runs(data / "chatverify/factool_zh_pipeline.jsonl.gz")
    annotated = [row for row in rows(data / "chatverify/factcheck_gpt.jsonl.gz") if row["claims"]]
    turns = [found for row in annotated if (found := passages_of(row["claims"], length))]
    dealt = itertools.cycle(turns)
    records: list[tuple[Any, ...]] = []
    claims: list[tuple[Any, ...]] = []
    for row in rows(data / "chatverify/factool_kbqa.jsonl.gz") + annotated:
        number = len(records)
        own = [each["text"] for each in row["sentences"]] if "sentences" in row else None
        sentences = own or sentences_of(row["response"])
        source = "factcheck-gpt" if own else "factool-kbqa"
        passages = passages_of(row["claims"], length) if own else []
        records.append(
            (
                number,
                source,
                tokens(row["prompt"]),
                spaced([tokens(text) for text in sentences]),
                spaced(passages or next(dealt)),
            )
        )
        for claim in row["claims"]:
            step = next(steps)
            evidence = [length[each] for each in claim["evidence"]] if own else step["evidence"]
            claims.append(
                (
                    number,
                    claim["sentence"] if own else home(claim["text"], sentences),
                    tokens(claim["text"]),
                    spaced(step["queries"]),
                    spaced(evidence[:10] or step["evidence"][:10]),
                    step["verdict"],
                )
            )
    claims.sort(key=lambda row: (row[0], row[1]))
    for name, columns, table in (
        ("records.csv", RECORD_COLUMNS, records),
        ("claims.csv", CLAIM_COLUMNS, claims),
    ):
        with (TARGET / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(table)
        print(f"{name}: {len(table)} rows")


if __name__ == "__main__":
    main()
