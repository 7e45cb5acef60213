"""The wire without a network: events and answers, however the bytes are cut."""

from __future__ import annotations

import itertools
import json

import pytest
from hostile import DONE, event, stop, text, usage
from hypothesis import given
from hypothesis import strategies as st

from alto import openai_api
from alto.core.calls import Delta, Usage
from alto.openai_api import (
    AnswerReader,
    EventReader,
    WireError,
    is_retryable,
    message_of,
    retry_after,
    usage_of,
)

STREAM = (
    b"\xef\xbb\xbf: hello\r\n\r\n"
    + text("Grüße, ").replace(b"\n", b"\r\n")
    + b"event: ping\ndata: {}\n\nid: 7\nretry: 10\n\n"
    + text("日本語 😀").replace(b"\n", b"\r")
    + b'data: {"choices": [{"index": 0,\ndata: "delta": {"content": "!"}}]}\n\n'
    + b'data:{"choices":[{"index":1,"delta":{"content":"another answer"}}]}\n\n'
    + stop("length")
    + usage(7, 3, prompt_tokens_details={"cached_tokens": 4})
    + DONE
)


def read(*pieces: bytes) -> tuple[list[Delta], AnswerReader]:
    reader = AnswerReader()
    deltas = [delta for piece in pieces for delta in reader.feed(piece)]
    return deltas + reader.close(), reader


def test_an_answer_is_the_same_cut_at_any_byte() -> None:
    for cut in range(len(STREAM) + 1):
        deltas, reader = read(STREAM[:cut], STREAM[cut:])
        assert [str(delta) for delta in deltas] == ["Grüße, ", "日本語 😀", "!"], cut
        assert reader.fault is None
        assert reader.ended
        assert reader.last().finish_reason == "length"
        assert reader.last().usage == Usage(7, 3, cached_tokens=4, calls=1)


def test_an_answer_is_the_same_byte_by_byte() -> None:
    deltas, reader = read(*(STREAM[i : i + 1] for i in range(len(STREAM))))
    assert "".join(deltas) == "Grüße, 日本語 😀!"
    assert reader.ended


def test_all_chunks_of_one_read_are_given_each_as_a_delta() -> None:
    reader = AnswerReader()
    assert reader.feed(text("a") + text("b") + text("c")) == ["a", "b", "c"]


@given(
    st.lists(st.sampled_from([b"data: x", b"data:y", b": c", b"event: e", b"data", b"", b"id: 1"])),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 200), max_size=4),
)
def test_events_do_not_depend_on_line_ends_and_cuts(
    lines: list[bytes], end: bytes, cuts: list[int]
) -> None:
    whole = EventReader().feed(b"".join(line + b"\n" for line in lines))
    data = b"".join(line + end for line in lines)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = EventReader()
    assert [
        found for a, b in itertools.pairwise(places) for found in reader.feed(data[a:b])
    ] == whole


def test_several_data_lines_are_one_event_with_its_name() -> None:
    assert EventReader().feed(b"event: e\ndata: a\ndata: b\n\ndata: c\n\n") == [
        ("e", b"a\nb"),
        ("", b"c"),
    ]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """A limit of events that is reached sooner."""
    monkeypatch.setattr(openai_api, "EVENT_BYTES_MAX", 100_000)
    return 100_000


@pytest.mark.parametrize("size", [1, 1000, 200_000])
def test_an_event_without_end_is_given_up_at_the_limit(size: int, limit: int) -> None:
    reader = AnswerReader()
    reader.feed(b"data: ")
    fed = 6
    while reader.fault is None:
        assert fed <= limit
        reader.feed(b"x" * size)
        fed += size
    assert str(reader.fault) == "an event of more than 100000 bytes"


@pytest.mark.parametrize("line", [b"data:\n", b"event: e\n"])
def test_lines_without_a_blank_line_are_given_up_at_the_limit(line: bytes, limit: int) -> None:
    reader = EventReader()
    with pytest.raises(WireError, match="an event of more than"):
        for _ in range(limit // len(line) + 1):
            reader.feed(line)


def test_comments_for_hours_are_no_event_and_no_fault(limit: int) -> None:
    reader = EventReader()
    for _ in range(limit // 6000 + 1):
        assert reader.feed(b": ping\n" * 1000) == []


def test_a_document_without_end_is_given_up_at_the_limit(limit: int) -> None:
    reader = AnswerReader()
    for _ in range(limit // 1000):
        reader.feed(b"{" + b" " * 1000)
    assert str(reader.fault) == "an answer of more than 100000 bytes"


@pytest.mark.parametrize("field", ["content", "reasoning_content"])
def test_an_answer_without_end_is_given_up_at_the_limit(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alto.openai_api.ANSWER_CHARS_MAX", 10_000)
    reader = AnswerReader()
    chunk = event({"choices": [{"index": 0, "delta": {field: "word " * 100}}]})
    fed = 0
    while reader.fault is None and fed < 100:
        assert reader.feed(chunk)
        fed += 1
    assert 15 < fed <= 21
    assert str(reader.fault).startswith("an answer of more than 10000 characters")
    assert not reader.fault.retryable


def test_text_before_a_fault_is_given_first() -> None:
    reader = AnswerReader()
    assert reader.feed(text("good") + b"data: {garbage}\n\n" + text("never")) == ["good"]
    assert str(reader.fault) == "a chunk that is not JSON: {garbage}"


@pytest.mark.parametrize(
    ("tail", "fault"),
    [
        (b"", "the answer broke off after 2 characters, without a finish reason"),
        (text("cut")[:20], "the answer broke off after 2 characters, without a finish reason"),
        (b'data: {"error": {"message": "boom", "code": 500}}', "an error in the stream: boom"),
        (event({"error": "boom"}), "an error in the stream: boom"),
        (b"event: error\ndata: out of memory\n\n", "an error in the stream: out of memory"),
        (b'event: error\ndata: {"message": "boom"}\n\n', "an error in the stream: boom"),
        (stop("abort"), "the server ended the text with 'abort'"),
        (b"data: [1]\n\n", "JSON that is no chat completion"),
        (b'data: {"choices": 3}\n\n', "JSON that is no chat completion"),
    ],
)
def test_what_breaks_a_stream(tail: bytes, fault: str) -> None:
    deltas, reader = read(text("ok") + tail)
    assert deltas == ["ok"]
    assert str(reader.fault).startswith(fault)
    assert reader.fault is not None
    assert reader.fault.retryable


def test_an_error_in_the_stream_has_the_status_that_it_names() -> None:
    error = {"message": "too long", "type": "BadRequestError", "code": 400}
    _, reader = read(text("ok") + event({"error": error}))
    assert reader.fault is not None
    assert (reader.fault.status, reader.fault.retryable) == (400, False)


@pytest.mark.parametrize(
    "end",
    [DONE, b"", b"data: [DONE]", DONE + b"data: anything after it\n\n", b"data: {cut"],
)
def test_a_finish_reason_makes_an_answer_whole_however_it_ends(end: bytes) -> None:
    deltas, reader = read(text("ok") + stop() + end)
    assert deltas == ["ok"]
    assert reader.fault is None
    assert reader.last().finish_reason == "stop"


def test_done_without_a_finish_reason_is_a_stop() -> None:
    _, reader = read(text("ok") + DONE)
    assert reader.ended
    assert reader.last().finish_reason == "stop"


def test_a_tool_call_is_an_answer_without_text() -> None:
    call = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]
    _, reader = read(text("", tool_calls=call) + DONE)
    assert reader.fault is None
    assert reader.last().finish_reason == "stop"


def test_usage_that_never_comes_counts_the_call_and_no_tokens() -> None:
    _, reader = read(text("ok") + stop() + DONE)
    assert reader.last().usage == Usage(calls=1)


def test_usage_of_zeros_at_the_end_does_not_undo_what_was_told() -> None:
    _, reader = read(text("ok") + usage(7, 3) + stop() + usage(0, 0) + DONE)
    assert reader.last().usage == Usage(7, 3, calls=1)


def test_usage_that_is_told_in_parts_is_one() -> None:
    _, reader = read(usage(7, 1) + text("ok") + usage(0, 3) + stop() + DONE)
    assert reader.last().usage == Usage(7, 3, calls=1)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_kept_apart(name: str) -> None:
    thought = event({"choices": [{"index": 0, "delta": {name: "hmm", "content": None}}]})
    deltas, _ = read(thought + text("yes") + stop())
    assert [(str(delta), delta.reasoning) for delta in deltas] == [("", "hmm"), ("yes", "")]


def test_a_refusal_of_the_model_is_its_text() -> None:
    deltas, _ = read(event({"choices": [{"delta": {"refusal": "I cannot."}}]}) + stop())
    assert deltas == ["I cannot."]


def test_tool_calls_come_as_they_are() -> None:
    fragment = {"index": 0, "id": "call_1", "function": {"name": "add", "arguments": '{"a"'}}
    deltas, reader = read(text("", tool_calls=[fragment]) + stop("tool_calls") + DONE)
    assert deltas[0].tool_calls == [fragment]
    assert reader.last().finish_reason == "tool_calls"


def test_a_json_answer_to_a_stream_request_is_an_answer() -> None:
    answer = {
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
    raw = json.dumps(answer, indent=1).encode()
    for cut in range(len(raw)):
        deltas, reader = read(raw[:cut], raw[cut:])
        assert deltas == ["Hi"]
        assert reader.last().usage == Usage(1, 1, calls=1)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "the answer broke off after 0 characters"),
        (b"  \n", "the answer broke off after 0 characters"),
        (DONE, "[DONE] instead of an answer: no text, and no finish reason"),
        (usage(3, 0) + DONE, "[DONE] instead of an answer: no text, and no finish reason"),
        (b"<html><title>Sign in</title></html>", "HTML instead of an answer: Sign in"),
        (b'{"choices": [', "a chunk that is not JSON"),
        (b'{"object": "list"}', "JSON that is no chat completion"),
        (b'{"error": {"message": "no such model"}}', "an error in the stream: no such model"),
        (b"hello", "the answer broke off after 0 characters"),
    ],
)
def test_what_is_no_answer(body: bytes, fault: str) -> None:
    deltas, reader = read(body)
    assert deltas == []
    assert str(reader.fault).startswith(fault)


def test_broken_utf8_is_shown_as_such_and_does_not_end_the_text() -> None:
    broken = b'data: {"choices":[{"delta":{"content":"a\xff\xfeb"}}]}\n\n'
    deltas, reader = read(broken + text("c") + stop())
    assert "".join(deltas) == "a\ufffd\ufffdbc"
    assert reader.fault is None


def test_a_surrogate_pair_split_over_chunks_is_one_character() -> None:
    def half(escape: str) -> bytes:
        return b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % escape.encode()

    deltas, _ = read(half("x\\ud83d") + half("\\ude00y") + stop())
    assert "".join(deltas) == "x😀y"
    deltas, reader = read(
        half("x\\ud83d") + half("y") + half("\\ude00") + half("z\\ud83d") + stop()
    )
    text_read = "".join([*deltas, reader.last()])
    assert text_read == "x\ufffdy\ufffdz\ufffd"


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({}, Usage(calls=1)),
        ({"prompt_tokens": 3, "completion_tokens": None}, Usage(3, 0, calls=1)),
        ({"prompt_tokens": "3", "prompt_tokens_details": []}, Usage(calls=1)),
        ({"prompt_tokens": 1e300, "completion_tokens": 2}, Usage(0, 2, calls=1)),
        ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 8}, Usage(9, cached_tokens=8, calls=1)),
        (
            {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 5}},
            Usage(0, 9, reasoning_tokens=5, calls=1),
        ),
    ],
)
def test_usage_in_the_ways_it_is_told(told: dict[str, object], usage: Usage) -> None:
    assert usage_of(told) == usage


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "bad\\nthing", "code": 400}}', "bad thing"),
        (b'{"error": "bad"}', "bad"),
        (b'{"object": "error", "message": "bad"}', "bad"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (
            b'{"detail": [{"loc": ["body"], "msg": "missing"}]}',
            '[{"loc":["body"],"msg":"missing"}]',
        ),
        (b"<html><style>b{}</style><h1>502 Bad Gateway</h1></html>", "502 Bad Gateway"),
        (b"", "(an empty body)"),
        (b"x" * 5000, "x" * 397 + "..."),
    ],
)
def test_what_an_error_body_says(body: bytes, message: str) -> None:
    assert message_of(body) == message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "3", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:16:50 GMT"}, 10.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-4"}, 0.0),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, wall_clock=1000.0) == seconds


def test_which_statuses_another_try_can_help() -> None:
    retryable = {status for status in range(400, 600) if is_retryable(status)}
    assert retryable == {408, 409, 425, 429, *range(500, 600)} - {501}
