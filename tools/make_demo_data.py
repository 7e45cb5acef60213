"""Regenerate the data that `alto demo` ships: questions with checked answers, and passages.

    python tools/make_demo_data.py SOURCE

SOURCE is a folder that holds `chatverify/factcheck_gpt.jsonl.gz` (questions, ChatGPT's answers,
the claims in them with human verdicts), `corpus/evidence_passages.jsonl.gz` (what the annotators
read) and `corpus/wikipedia_leads.jsonl.gz` (distractors). Where they come from, under which
licences, and what each shipped field means: `src/alto/demo/data/README.md`.

Always true: the same SOURCE gives the same bytes, so a difference in git is a difference in data.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

DATA = Path(__file__).resolve().parent.parent / "src" / "alto" / "demo" / "data"

# The first is what `alto demo` shows when nobody asks for another: nine claims in four sentences,
# right and wrong ones in both halves of the answer. The rest were chosen because sentences and
# claims cover the whole answer and the question stands alone; answers that are all wrong, all
# right and undecided are among them, and so are short and long ones.
QUESTIONS = [29, 0, 9, 15, 20, 23, 25, 28, 32, 36, 37, 40, 45, 48, 49, 58, 67]

# Every fifth much-read and every fifth little-read article: enough that search can go wrong, few
# enough that the whole index is made in about a second.
DISTRACTOR_STRIDE = 5
DISTRACTOR_SETS = ("head", "tail")


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line, without a time stamp or a file name in the gzip header."""
    text = "".join(
        json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n" for entry in entries
    )
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    print(f"{path.name}: {path.stat().st_size:,} bytes")


def question(record: dict[str, Any]) -> dict[str, Any]:
    """One annotated answer: its sentences, and under each the claims that it makes."""
    sentences: list[dict[str, Any]] = [
        {"text": sentence["text"].strip(), "claims": []} for sentence in record["sentences"]
    ]
    for entry in record["claims"]:
        sentences[entry["sentence"]]["claims"].append(claim(entry))
    return {
        "id": record["id"],
        "question": record["prompt"].strip(),
        "answer": record["response"].strip(),
        "model": record["response_model"],
        "sentences": sentences,
    }


def claim(entry: dict[str, Any]) -> dict[str, Any]:
    """A claim, the annotators' verdict, their correction, and what they read in each passage."""
    correction = (entry.get("revised") or "").strip()
    wrong = entry["label"] is False
    differs = "".join(correction.split()) != "".join(entry["text"].split())
    # A passage that was quoted twice keeps its first, more considered stance.
    stances: dict[str, str] = {}
    for passage, stance in zip(entry["evidence"], entry["stance"], strict=True):
        stances.setdefault(passage, stance)
    return {
        "text": entry["text"].strip(),
        "label": {True: "SUPPORTED", False: "REFUTED", None: "UNKNOWN"}[entry["label"]],
        "correction": correction if wrong and differs else "",
        "stances": stances,
    }


def passages(source: Path) -> list[dict[str, Any]]:
    """Every passage the annotators of the whole data set read, then the distractors."""
    evidence = [
        {"id": row["id"], "url": row["url"], "text": row["text"]}
        for row in rows(source / "corpus" / "evidence_passages.jsonl.gz")
        if row["src"] == "factcheck-gpt"
    ]
    leads = rows(source / "corpus" / "wikipedia_leads.jsonl.gz")
    distractors = [
        {
            "id": row["id"],
            "url": "https://en.wikipedia.org/wiki/" + quote(row["title"].replace(" ", "_")),
            "text": row["text"],
        }
        for name in DISTRACTOR_SETS
        for row in [lead for lead in leads if lead["set"] == name][::DISTRACTOR_STRIDE]
    ]
    return evidence + distractors


def claims(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every claim of the data set that has a passage worth finding: what recall is measured on."""
    return [
        {"text": entry["text"].strip(), "relevant": sorted(relevant)}
        for record in records
        for entry in record["claims"]
        if (
            relevant := {
                passage
                for passage, stance in zip(entry["evidence"], entry["stance"], strict=True)
                if stance != "irrelevant"
            }
        )
    ]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0], "chatverify").is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    source = Path(arguments[0])
    records = rows(source / "chatverify" / "factcheck_gpt.jsonl.gz")
    DATA.mkdir(parents=True, exist_ok=True)
    write(DATA / "questions.jsonl.gz", (question(records[index]) for index in QUESTIONS))
    write(DATA / "passages.jsonl.gz", passages(source))
    recall = DATA.parents[3] / "tests" / "demo" / "claims.jsonl.gz"
    write(recall, claims(records))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
