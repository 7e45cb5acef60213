"""Write the tables that the headline experiment draws its requests from: lengths and counts only.

    python tools/make_headline_data.py DATA

DATA is a folder with `chatverify/` (`factool_kbqa`, `factool_zh_pipeline` and `factcheck_gpt`,
Apache-2.0; `expertqa` and `factscore_bios`, MIT) and `corpus/evidence_passages.jsonl.gz`, of which
only lengths and labels are taken. All English records that have claims are used, every `EVERY`th of
each source. `benchmarks/headline/README.md` says what each column is.

What a data set lacks is dealt from one that has it, in the order of the files: search queries,
verdicts, and the snippets of claims without evidence come from the whole FacTool runs of
`factool_zh_pipeline` (claim after claim), passages for a turn from the evidence of `factcheck_gpt`.
Lengths are counted with the tokens of the simulated engine.
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
EVERY = 5
SNIPPETS_MAX = 10
EVIDENCE = 2
PASSAGES_MAX = 9
RELEVANT_WANTED = 3
SOURCES = ("factool_kbqa", "factcheck_gpt", "expertqa", "factscore_bios")
RECORD_COLUMNS = ("record", "source", "question", "sentences", "passages", "relevant")
CLAIM_COLUMNS = ("record", "sentence", "claim", "true", "queries", "evidence", "first", "verdict")


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


def passages_of(
    claims: list[dict[str, Any]], length: dict[str, int]
) -> tuple[list[int], list[bool]]:
    """Passages in threes until three are relevant, nine at most, as WikiChat asks for them; and
    which of them are."""
    found: list[int] = []
    relevant: list[bool] = []
    for claim in claims:
        for passage, stance in zip(claim["evidence"], claim["stance"], strict=True):
            enough = len(found) % 3 == 0 and sum(relevant) >= RELEVANT_WANTED
            if enough or len(found) == PASSAGES_MAX:
                return found, relevant
            found.append(length[passage])
            relevant.append(stance != "irrelevant")
    whole = len(found) // 3 * 3
    return found[:whole], relevant[:whole]


def annotated(path: Path) -> Iterator[dict[str, Any]]:
    """Every `EVERY`th record with claims, each claim with its sentence."""
    for row in [row for row in rows(path) if row["claims"]][::EVERY]:
        given = [each["text"] for each in row.get("sentences", ()) if isinstance(each, dict)]
        row["sentences"] = given or sentences_of(row["response"])
        for claim in row["claims"]:
            if not given:
                claim["sentence"] = home(claim["text"], row["sentences"])
        yield row


def write(name: str, columns: tuple[str, ...], table: list[tuple[Any, ...]]) -> None:
    with (TARGET / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(table)
    print(f"{name}: {len(table)} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    corpus = rows(data / "corpus/evidence_passages.jsonl.gz")
    length = {row["id"]: tokens(row["text"]) for row in corpus}
    steps = whole_runs(data / "chatverify/factool_zh_pipeline.jsonl.gz")
    checked = [row["claims"] for row in rows(data / "chatverify/factcheck_gpt.jsonl.gz")]
    turns = itertools.cycle([found for row in checked if (found := passages_of(row, length))[0]])
    records: list[tuple[Any, ...]] = []
    claims: list[tuple[Any, ...]] = []
    for source in SOURCES:
        for row in annotated(data / "chatverify" / f"{source}.jsonl.gz"):
            number = len(records)
            passages, relevant = next(turns)
            records.append(
                (
                    number,
                    source,
                    tokens(row["prompt"]),
                    spaced([tokens(text) for text in row["sentences"]]),
                    spaced(passages),
                    "".join(str(int(each)) for each in relevant),
                )
            )
            for claim in sorted(row["claims"], key=lambda each: each["sentence"]):
                step = next(steps)
                own = [length[each] for each in claim.get("evidence", ())]
                evidence = (own or step["evidence"])[:SNIPPETS_MAX]
                claims.append(
                    (
                        number,
                        claim["sentence"],
                        tokens(claim["text"]),
                        int(claim["label"] is True),
                        spaced(step["queries"]),
                        sum(evidence),
                        sum(evidence[:EVIDENCE]),
                        step["verdict"],
                    )
                )
    write("records.csv", RECORD_COLUMNS, records)
    write("claims.csv", CLAIM_COLUMNS, claims)


if __name__ == "__main__":
    main()
