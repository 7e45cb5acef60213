"""The books of a request's tokens: what is held, spent and left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from alto.core.budget import Account, Budget
from alto.core.calls import Call, Delta, Usage
from alto.core.learning import OUTPUT_TOKENS_PRIOR, Texts

PROMPT = "x" * 362  # with its frame 368 bytes: 100 tokens as long as nothing is known


def budget(tokens: int) -> Budget:
    return Budget(tokens, Texts())


def ask(max_tokens: int | None = None, prompt: str = PROMPT) -> Call:
    return Call(messages=[{"role": "user", "content": prompt}], max_tokens=max_tokens, stage="s")


def opened(books: Budget, call: Call) -> Account:
    account = books.open(call)
    assert account is not None
    return account


def test_a_call_holds_its_prompt_and_what_it_may_write_until_its_usage_is_known() -> None:
    books = budget(1000)
    account = opened(books, ask(50))
    assert books.prompt_tokens(ask()) == 100
    assert books.left == 1000 - 100 - 25  # half of max_tokens is the guess for a new stage
    account.note(Delta("hello"))
    account.note(Delta(finish_reason="stop", usage=Usage(90, 7, calls=1)))
    account.close()
    assert (books.spent, books.held, books.left) == (97, 0, 903)


def test_max_tokens_is_lowered_to_what_is_left() -> None:
    assert opened(budget(1000), ask(50)).call.max_tokens == 50
    assert opened(budget(1000), ask()).call.max_tokens == 900
    assert opened(budget(120), ask(50)).call.max_tokens == 20


def test_a_call_whose_prompt_does_not_fit_is_not_started() -> None:
    assert budget(100).open(ask()) is None
    books = budget(101)
    assert opened(books, ask()).call.max_tokens == 1
    assert books.left == 0
    assert books.open(ask()) is None


def test_who_writes_more_than_expected_holds_more() -> None:
    books = budget(1000)
    account = opened(books, ask())
    assert books.left == 900 - int(OUTPUT_TOKENS_PRIOR)
    account.note(Delta("x" * 2000))
    assert books.left == 400


def test_who_wants_what_others_hold_is_cut_off_by_length() -> None:
    books = budget(1000)
    first, second = opened(books, ask()), opened(books, ask())
    assert second.note(Delta("x" * 1600)) == "x" * 1600
    assert books.left == 1000 - 228 - 500
    delta = first.note(Delta("x" * 2400, reasoning="y"))
    assert first.over
    assert (delta.finish_reason, delta.usage) == ("length", Usage(100, 600, calls=1))
    assert (delta.text, delta.reasoning) == ("x" * 2400, "y")
    first.close()
    assert books.spent == 700
    assert not second.over


def test_who_is_alone_is_held_by_max_tokens_which_the_engine_counts_better() -> None:
    books = budget(300)
    account = opened(books, ask())
    assert account.note(Delta("x" * 4000)).finish_reason is None
    assert not account.over
    account.note(Delta(finish_reason="length", usage=Usage(100, 200, calls=1)))
    account.close()
    assert (books.spent, books.left) == (300, 0)


def test_a_call_that_gave_nothing_costs_nothing_and_one_that_was_left_what_it_wrote() -> None:
    books = budget(1000)
    opened(books, ask()).close()
    assert books.left == 1000
    account = opened(books, ask())
    account.note(Delta("x" * 40))
    account.close()
    assert books.spent == 110


def test_what_is_learned_serves_the_next_request() -> None:
    texts = Texts()
    for _ in range(20):
        account = opened(Budget(1000, texts), ask())
        account.note(Delta("x" * 100, finish_reason="stop", usage=Usage(200, 10, calls=1)))
        account.close()
    assert Budget(1000, texts).prompt_tokens(ask()) > 180
    books = Budget(1000, texts)
    opened(books, ask())
    assert 780 < books.left < 820


def test_a_server_that_miscounts_is_paid_but_not_learned_from() -> None:
    texts = Texts()
    account = opened(Budget(1000, texts), ask())
    account.note(Delta("x" * 100, finish_reason="stop", usage=Usage(10**9, 10, calls=1)))
    account.close()
    assert Budget(1000, texts).prompt_tokens(ask()) == 100


@given(
    st.integers(1, 2000),
    st.lists(
        st.tuples(st.integers(0, 600), st.one_of(st.none(), st.integers(1, 300)), st.integers(0, 400)),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_calls_side_by_side_never_spend_more_than_the_budget(
    tokens: int, asked: list[tuple[int, int | None, int]], luck: object
) -> None:
    """Where the estimates are exact: a token is four bytes, a piece is a token."""
    books = budget(tokens)
    running: list[tuple[Account, int]] = []
    for size, max_tokens, wants in asked:
        account = books.open(ask(max_tokens, "xxxx" * size))
        if account is not None:
            assert account.call.max_tokens is not None
            running.append((account, min(wants, account.call.max_tokens)))
    while running:
        account, wants = running.pop(luck.randrange(len(running)))  # type: ignore[attr-defined]
        if wants and not account.over:
            account.note(Delta("abcd"))
            running.append((account, wants - 1))
        else:
            account.close()
        assert books.spent + books.held <= tokens + len(asked)
    assert books.held == 0
