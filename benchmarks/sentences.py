"""Where do sentences end, and how soon is it known? Our rules against the libraries there are.

    python -m benchmarks.sentences DATA [--answers N]

DATA is a folder with `factcheck_gpt.jsonl.gz` and `factscore_bios.jsonl.gz`: answers of language
models with the sentences that people or their tools marked. Libraries take part if they are
installed: pysbd, sentencex, syntok, blingfire (with numpy).

No library cuts a growing text. The straightforward way to use one is to run it again on the open
rest with each piece, and to give all sentences but the last. That is what is measured here:

    F1 whole      boundaries in the finished text against the marked ones
    F1 stream     the same when the text grows piece by piece and nothing can be taken back
    delay         characters between the end of a sentence and the piece that makes it known
    us/char       CPU while the text grows in pieces of four characters, about a token

Boundaries are compared by the visible characters before them, without citations like [1], which
the marked sentences do not have. The end of the text is not counted: everybody finds it.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from alto.core.sentences import Sentences

FILES = ("factcheck_gpt", "factscore_bios")
PIECE_CHARS = 4

Segment = Callable[[str], list[str]]
_UNSEEN = re.compile(r"\[\d+\]|\s+")


@dataclass(slots=True)
class Answer:
    """One text, and after how many visible characters its sentences end."""

    text: str
    ends: set[int]


@dataclass(slots=True)
class Score:
    """How one contender did on one file."""

    right: int = 0
    wrong: int = 0
    missed: int = 0
    delays: list[int] = field(default_factory=list)
    seconds: float = 0.0
    chars: int = 0

    @property
    def f1(self) -> float:
        return 2 * self.right / (2 * self.right + self.wrong + self.missed)

    def count(self, found: set[int], marked: set[int]) -> None:
        self.right += len(found & marked)
        self.wrong += len(found - marked)
        self.missed += len(marked - found)


def visible(text: str) -> int:
    return len(_UNSEEN.sub("", text))


def ends_of(sentences: list[str], total: int) -> set[int]:
    """After how many visible characters each sentence ends, but for the last."""
    ends: set[int] = set()
    count = 0
    for sentence in sentences:
        count += visible(sentence)
        ends.add(count)
    return ends - {0, total}


def answers(path: Path) -> Iterator[Answer]:
    """The answers whose marked sentences, joined, are the text."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            marked = [s["text"] if isinstance(s, dict) else s for s in row.get("sentences") or ()]
            text = row["response"]
            if marked and _UNSEEN.sub("", "".join(marked)) == _UNSEEN.sub("", text):
                yield Answer(text, ends_of(marked, visible(text)))


def ours(text: str) -> list[str]:
    cutter = Sentences()
    return [*cutter.feed(text), *cutter.finish()]


def libraries() -> dict[str, Segment]:
    """What is installed of the libraries."""
    found: dict[str, Segment] = {}
    for name, make in _LIBRARIES.items():
        try:
            found[name] = make(importlib.import_module(name))
        except ImportError:
            print(f"{name} is not installed: left out")
    return found


def _pysbd(module: Any) -> Segment:
    return module.Segmenter(language="en", clean=False).segment  # type: ignore[no-any-return]


def _sentencex(module: Any) -> Segment:
    return lambda text: list(module.segment("en", text))


def _syntok(_: Any) -> Segment:
    segmenter = importlib.import_module("syntok.segmenter")

    def segment(text: str) -> list[str]:
        return [
            "".join(token.spacing + token.value for token in sentence)
            for paragraph in segmenter.process(text)
            for sentence in paragraph
        ]

    return segment


def _blingfire(module: Any) -> Segment:
    return lambda text: module.text_to_sentences(text).split("\n")


_LIBRARIES: dict[str, Callable[[Any], Segment]] = {
    "pysbd": _pysbd,
    "sentencex": _sentencex,
    "syntok": _syntok,
    "blingfire": _blingfire,
}


class Rerun:
    """A library on a growing text: run it on the open rest, keep its last sentence open."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._open = ""

    def feed(self, piece: str) -> list[str]:
        self._open = (self._open + piece).lstrip()
        sentences = [each for each in self._segment(self._open) if each.strip()]
        if len(sentences) < 2:
            return []
        count = visible(sentences[-1])
        at = len(self._open)
        while visible(self._open[at:]) < count:
            at -= 1
        self._open = self._open[at:]
        return sentences[:-1]


def stream(feed: Callable[[str], list[str]], answer: Answer, size: int, score: Score) -> None:
    """Let the text grow; note which ends become known and how many characters late."""
    text = answer.text
    known: dict[int, int] = {}
    count = 0
    started = time.process_time()
    for at in range(0, len(text), size):
        for sentence in feed(text[at : at + size]):
            count += visible(sentence)
            known.setdefault(count, at + size)
    score.seconds += time.process_time() - started
    score.chars += len(text)
    total = visible(text)
    score.count(set(known) - {0, total}, answer.ends)
    if size == 1:
        at_visible = positions(text)
        found = [end for end in known if end in answer.ends]
        score.delays += [known[end] - at_visible[end] for end in found]


def positions(text: str) -> list[int]:
    """How far into the text each number of visible characters is, citations behind it included."""
    at = [0]
    for index, char in enumerate(_UNSEEN.sub(lambda found: " " * len(found[0]), text)):
        if not char.isspace():
            at.append(index + 1)
    return at


def measure(segment: Segment, new: Callable[[], Any], texts: list[Answer]) -> str:
    whole, by_char, by_token = Score(), Score(), Score()
    for answer in texts:
        whole.count(ends_of(segment(answer.text), visible(answer.text)), answer.ends)
        stream(new().feed, answer, 1, by_char)
        stream(new().feed, answer, PIECE_CHARS, by_token)
    mean = statistics.fmean(by_char.delays)
    p90 = sorted(by_char.delays)[len(by_char.delays) * 9 // 10]
    cost = by_token.seconds / by_token.chars * 1e6
    return f"{whole.f1:.3f} | {by_char.f1:.3f} | {mean:.1f} / {p90} | {cost:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--answers", type=int, default=60, help="at most so many of each file")
    options = parser.parse_args()
    contenders: dict[str, tuple[Segment, Callable[[], Any]]] = {"alto": (ours, Sentences)}
    for name, segment in libraries().items():
        contenders[name] = (segment, partial(Rerun, segment))
    for file in FILES:
        texts = list(answers(options.data / f"{file}.jsonl.gz"))
        step = max(1, len(texts) // options.answers)
        texts = texts[::step][: options.answers]
        count = sum(len(answer.ends) for answer in texts)
        print(f"\n{file}: {len(texts)} answers, {count} boundaries inside them\n")
        print("| | F1 whole | F1 stream | delay mean / p90 | us/char |\n|---|---|---|---|---|")
        for name, (segment, new) in contenders.items():
            print(f"| {name} | {measure(segment, new, texts)} |", flush=True)


if __name__ == "__main__":
    main()
