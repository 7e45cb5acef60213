"""How a text that broke off is gone on with elsewhere: as a call for the rest of it.

The text so far goes back to the model as the beginning of its own answer: an assistant message at
the end of the conversation. Engines that know `continue_final_message` (vLLM, SGLang) leave that
message open; many others go on with a last assistant message by themselves. Where the server has
told the tokens of prompt and text, these go along, and an engine that takes tokens goes on from
them exactly. Either way readers see one unbroken text.

Some things cannot be gone on with: a tool call is structured, and half of one cannot be handed
back. A JSON schema can be given no more: engines start its grammar anew, at the first brace. The
rest is then written without it, as models nearly always do rightly in the middle of a text, and is
checked by whoever parses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .calls import Call, Delta, TokenIds, Usage


def can_resume(given: list[str]) -> bool:
    """Whether what was given on can be gone on with."""
    return not any(delta.tool_calls for delta in _telling(given))


def rest_of(
    call: Call,
    text: str,
    written_tokens: int,
    *,
    continue_final_message: bool,
    ids: TokenIds | None = None,
) -> Call:
    """The call for what is missing after `text`; its `max_tokens` may come out as 0 or less. `ids`
    are the tokens of its prompt and of the text, if they are known.

    Where there is no text yet (thinking at most) it is the call itself. `boundaries` do not fit a
    part of a text, so every token of the rest is worth a delta.
    """
    if not text:
        return call
    extra = dict(call.extra)
    if continue_final_message:
        extra |= {"continue_final_message": True, "add_generation_prompt": False}
    return replace(
        call,
        messages=[*call.messages, {"role": "assistant", "content": text}],
        max_tokens=None if call.max_tokens is None else call.max_tokens - written_tokens,
        schema=None,
        schema_name="",
        extra=extra,
        boundaries=None,
        prompt_ids=() if ids is None else (*ids.prompt, *ids.answer),
    )


ECHO_CHARS_MIN = 16
"""A beginning shorter than this may come again by chance and is not taken for an echo."""


class EchoFilter:
    """Takes an exact repetition of the text so far off the beginning of the rest.

    llama.cpp, asked to go on with an answer, gives all of it again. What could still become the
    repetition is held back, and given on when it turns out not to be one.
    """

    def __init__(self, text: str) -> None:
        self._text = text if len(text) >= ECHO_CHARS_MIN else ""
        self._seen = ""
        self._held: list[Delta] = []

    def feed(self, delta: Delta) -> Sequence[Delta]:
        """One piece of the rest; what of it (and of what was held) is new."""
        if not self._text:
            return (delta,)
        self._seen += delta
        self._held.append(delta)
        text = self._text
        if self._seen.startswith(text):
            new = self._seen[len(text) :]
            self._text = ""
            last = delta
            return (Delta(new, last.reasoning, last.tool_calls, last.finish_reason, last.usage),)
        if text.startswith(self._seen) and delta.finish_reason is None:
            return ()
        self._text = ""
        return self._held


def chars_of(given: list[str]) -> int:
    """How long a text is in these pieces."""
    return len("".join(given))  # quick in compiled code as in interpreted


def spent(
    given: list[str],
    chars: int,
    prompt_tokens: float,
    tokens_per_char: float,
    ids: TokenIds | None = None,
) -> Usage:
    """What a try that broke, or was left, has cost: as reported, else counted, else estimated.
    `chars` are those of the pieces that it gave (`chars_of`).

    Of a text of which nothing is reported, engines send one token or more in a piece: there were at
    least as many as pieces.
    """
    telling = _telling(given)
    usage = _told(telling)
    if usage is not None:
        return usage
    if ids is not None:
        return Usage(len(ids.prompt), len(ids.answer), calls=1)
    thought = [delta for delta in telling if delta.reasoning]
    for delta in thought:
        chars += len(delta.reasoning)
    written = _rounded(chars * tokens_per_char)
    if written < len(given):  # else there is no need to count
        pieces = len(given) - given.count("")
        for delta in thought:
            pieces += 0 if delta else 1
        written = max(pieces, written)
    # By the names of its fields it would take twice as long.
    return Usage(_rounded(prompt_tokens), written, 0, 0, 1)


def _rounded(tokens: float) -> int:
    """As `round` has it, a half to the even side. To call that takes compiled code longer than all
    else that an estimate needs."""
    whole = int(tokens)
    rest = tokens - whole
    return whole + 1 if rest > 0.5 or (rest == 0.5 and whole & 1) else whole


def _telling(given: list[str]) -> list[Delta]:
    """Those of the pieces that may carry more than text."""
    return [piece for piece in given if type(piece) is not str and isinstance(piece, Delta)]


def _told(given: list[Delta]) -> Usage | None:
    """What the server said of the cost; counts of nothing are no answer."""
    for delta in reversed(given):
        usage = delta.usage
        if usage is not None and usage.total_tokens:
            return usage
    return None


def with_usage(delta: Delta, before: Usage) -> Delta:
    """The delta, its usage summed with that of the tries that broke before."""
    if delta.usage is None:
        return delta
    return Delta(
        delta.text, delta.reasoning, delta.tool_calls, delta.finish_reason, before + delta.usage
    )
