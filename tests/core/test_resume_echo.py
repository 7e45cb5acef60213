"""An engine that repeats what it was asked to go on with."""

from __future__ import annotations

import pytest

from alto import Call, Delta
from alto.core.resume import EchoFilter
from alto.engines.dialect import Dialect

TEXT = "Penicillin was discovered by"


def rest(*pieces: str) -> str:
    echo = EchoFilter(TEXT)
    deltas = [Delta(piece) for piece in pieces] + [Delta(finish_reason="stop")]
    given = [new for delta in deltas for new in echo.feed(delta)]
    assert given[-1].finish_reason == "stop"
    return "".join(given)


@pytest.mark.parametrize("size", range(1, len(TEXT) + 9))
def test_an_exact_echo_is_taken_off_wherever_it_is_cut(size: int) -> None:
    whole = TEXT + " Fleming."
    assert rest(*(whole[at : at + size] for at in range(0, len(whole), size))) == " Fleming."


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("text", [" Fleming.", "Pen", "Penicillin was not", TEXT[:-1], ""])
def test_what_is_no_echo_is_given_whole(text: str, size: int) -> None:
    assert rest(*(text[at : at + size] for at in range(0, len(text), size))) == text


def test_a_short_beginning_may_come_again_by_chance() -> None:
    assert [*EchoFilter("ha").feed(Delta("ha"))] == ["ha"]


def test_a_server_that_refuses_the_open_end_is_asked_without() -> None:
    dialect = Dialect("m")
    call = Call(
        messages=[{"role": "user", "content": "q"}, {"role": "assistant", "content": TEXT}],
        extra={"continue_final_message": True, "add_generation_prompt": False, "top_k": 1},
    )
    form = dialect.form_for(call)
    assert b"continue_final_message" in dialect.body(call, form)
    simpler = dialect.simpler(call, form, 400, "Unrecognized argument: continue_final_message")
    assert simpler is not None
    body = dialect.body(call, simpler)
    assert b"continue_final_message" not in body
    assert b"add_generation_prompt" not in body
    assert b"top_k" in body
