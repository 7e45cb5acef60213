"""Reasoning apart from the answer: `<think>…</think>` is taken out of the text as it streams.

Some servers give reasoning in a field of its own; others leave it in the text between these tags,
and then it must not reach the cutters. A tag may be split over pieces at any place, so the end of
a piece that could be the start of a tag is held back: at most seven characters, never longer than
until the next piece that decides.

Always true:
    R1  answer and reasoning together are the text without its tags, each in its order, apart from
        the white space that stands between reasoning and the first word of the answer
    R2  what could still become a tag is in neither

A text that ends inside `<think>` was all reasoning. A `</think>` that nothing opened is dropped:
with templates that open the tag inside the prompt, start with `thinking=True`.
"""

from __future__ import annotations

OPEN = "<think>"
CLOSE = "</think>"


class ThinkSplitter:
    """Text pieces in, `(answer, reasoning)` pieces out."""

    __slots__ = ("_answered", "_held", "_trim", "thinking")

    def __init__(self, thinking: bool = False) -> None:
        self.thinking = thinking
        """The text is inside the tags now."""
        self._held = ""
        """The start of a tag, perhaps."""
        self._answered = False
        """A visible character of the answer has been given."""
        self._trim = False
        """Reasoning has been closed: white space goes until the answer begins."""

    def feed(self, text: str) -> tuple[str, str]:
        """Take the next piece; return what it adds to the answer and to the reasoning."""
        if not self._held and not self.thinking and "<" not in text:
            # Nearly every piece of nearly every answer.
            return self._visible(text), ""
        answer: list[str] = []
        reasoning: list[str] = []
        text = self._held + text
        self._held = ""
        at = 0
        while (found := text.find("<", at)) >= 0:
            tag = self._tag(text, found)
            if tag is None:
                self._held = text[found:]
                text = text[:found]
                break
            end = found if tag else found + 1
            self._give(text[at:end], answer, reasoning)
            if tag:
                self.thinking = tag == OPEN
                self._trim = True
            at = end + len(tag)
        self._give(text[at:], answer, reasoning)
        return "".join(answer), "".join(reasoning)

    def finish(self) -> tuple[str, str]:
        """The text has ended: what was held back was no tag."""
        answer: list[str] = []
        reasoning: list[str] = []
        self._give(self._held, answer, reasoning)
        self._held = ""
        return "".join(answer), "".join(reasoning)

    def _tag(self, text: str, at: int) -> str | None:
        """The tag at `at`, "" if there is none, None if more text must tell."""
        for tag in (OPEN, CLOSE):
            if text.startswith(tag, at):
                return tag
        rest = text[at:]
        return None if OPEN.startswith(rest) or CLOSE.startswith(rest) else ""

    def _give(self, text: str, answer: list[str], reasoning: list[str]) -> None:
        if self.thinking:
            reasoning.append(text)
        else:
            answer.append(self._visible(text))

    def _visible(self, text: str) -> str:
        if self._answered:
            return text
        if self._trim:
            text = text.lstrip()
        self._answered = bool(text) and not text.isspace()
        return text
