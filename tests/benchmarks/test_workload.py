"""The scheduled LM writes what its prompt says, word by word, when each word is due."""

from __future__ import annotations

import asyncio

import pytest

from alto.testing.loop import run
from benchmarks import workload


def test_pieces_lose_nothing_and_keep_white_space_at_the_end() -> None:
    text = '{"text": "a b"}\n{"text": "c"}\n'
    assert "".join(workload.pieces(text)) == text
    assert workload.pieces("a  b c\n") == ("a  ", "b ", "c\n")


def test_words_come_on_schedule_whatever_the_reader_does() -> None:
    lm = workload.ScheduledLM(first_s=1.0, gap_s=1.0)
    prompt = workload.answer_prompt("What is known about matter 0?")
    pace = lm.pace(prompt)

    async def main(reader_s: float) -> list[float]:
        times: list[float] = []
        async for _ in lm.stream(prompt):
            times.append(asyncio.get_running_loop().time())
            await asyncio.sleep(reader_s)
        return times

    quick = run(main(0.0))
    assert quick == pytest.approx([1.0 + pace * k for k in range(len(quick))])
    assert run(main(pace / 2)) == pytest.approx(quick)


def test_an_expected_tally_counts_one_verdict_a_claim() -> None:
    (question,) = workload.questions(1)
    answer = workload.respond(workload.answer_prompt(question))
    sentences = [f"{text}." for text in answer.removesuffix(".").split(". ")]
    claims = [
        line
        for sentence in sentences
        for line in workload.respond(workload.extract_prompt(sentence)).splitlines()
    ]
    assert sum(workload.expected(question).values()) == len(claims) > 0


def test_a_prompt_of_another_make_is_refused() -> None:
    with pytest.raises(ValueError, match="knows only prompts made by"):
        workload.respond("Tell me a story")
