"""What is known of one request so far: sentences, their claims, and the verdicts on them.

The board is told of events as they arrive and keeps the latest state by path, so that it can be
drawn at any moment. It asks no clock: the time of an event, in seconds since the request began,
is given with it.

Always true:
    B1  what a revision replaced or a withdrawal took back is not on the board
    B2  what stands under a withdrawn item is gone with it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, get_args

from .data import Label, Verdict, text_of

Path = tuple[int, ...]


class Event(Protocol):
    """An item of an output of the pipeline, as `Runtime.stream` gives it."""

    @property
    def output(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def value(self) -> Any: ...
    @property
    def revised(self) -> bool: ...
    @property
    def withdrawn(self) -> bool: ...


@dataclass(slots=True)
class Moments:
    """When things were there, in seconds since the request began; None is not yet.

    `answer` is the last sentence, `total` the end of the request.
    """

    first_sentence: float | None = None
    answer: float | None = None
    first_verdict: float | None = None
    last_verdict: float | None = None
    total: float | None = None


@dataclass(slots=True)
class Board:
    """The state of one request, by path."""

    question: str
    title: str = ""
    sentences: dict[Path, str] = field(default_factory=dict)
    claims: dict[Path, str] = field(default_factory=dict)
    evidence: dict[Path, Sequence[str]] = field(default_factory=dict)
    verdicts: dict[Path, Verdict] = field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    moments: Moments = field(default_factory=Moments)

    def see(self, event: Event, at: float) -> None:
        """Take in one event. Outputs that the board does not show are passed over."""
        if event.withdrawn:
            self._withdraw(event)
            return
        match event.output:
            case "sentences":
                self.sentences[event.path] = str(event.value)
                self.moments.first_sentence = _first(self.moments.first_sentence, at)
                self.moments.answer = at
            case "claims":
                self.claims[event.path] = text_of(event.value)
            case "evidence":
                self.evidence[event.path] = event.value
            case "verdicts":
                self.verdicts[event.path] = verdict_of(event.value)
                self.moments.first_verdict = _first(self.moments.first_verdict, at)
                self.moments.last_verdict = at
            case "report":
                self.report = event.value

    def end(self, at: float) -> None:
        """The request is finished."""
        self.moments.total = at

    def claims_under(self, sentence: Path) -> list[Path]:
        """The paths of a sentence's claims, in order."""
        return sorted(path for path in self.claims if path[: len(sentence)] == sentence)

    def counts(self, sentence: Path = ()) -> Counter[str]:
        """How many verdicts of each label there are, in all or under one sentence."""
        return Counter(
            verdict.label
            for path, verdict in self.verdicts.items()
            if path[: len(sentence)] == sentence
        )

    def _withdraw(self, event: Event) -> None:
        below: dict[str, tuple[dict[Path, Any], ...]] = {
            "sentences": (self.sentences, self.claims, self.evidence, self.verdicts),
            "claims": (self.claims, self.evidence, self.verdicts),
            "evidence": (self.evidence, self.verdicts),
            "verdicts": (self.verdicts,),
        }
        for items in below.get(event.output, ()):
            for path in [path for path in items if path[: len(event.path)] == event.path]:
                del items[path]


def verdict_of(value: Any) -> Verdict:
    """A verdict from the pipeline's struct, from its JSON form, or from a bare label."""
    if isinstance(value, Verdict):
        return value
    if isinstance(value, Mapping):
        return Verdict(
            label=_label(value["label"]),
            passage=value.get("passage"),
            correction=value.get("correction", ""),
        )
    return Verdict(label=_label(value))


def _label(value: Any) -> Label:
    return cast(Label, value) if value in get_args(Label) else "UNKNOWN"


def _first(known: float | None, now: float) -> float:
    return now if known is None else known
