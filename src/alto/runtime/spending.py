"""LM calls of a request that has a token budget: how they are read, and refused when it is spent.

A refusal is a `StageError`: nothing is tried again, neither elsewhere nor by the stage's retries,
for the budget will not come back. What the stage says of errors (`on_error`) holds as for others.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from ..core.budget import Account
from ..core.calls import Call, Delta
from ..core.execution import Invocation
from ..core.path import show
from ..engines.asked import ended
from ..engines.keeper import Keeper
from ..engines.keeping import Kept
from ..engines.pieces import delta_of
from ..engines.pool_reader import text_of
from ..engines.protocol import Ask, Engine, Take
from ..errors import EngineError, StageError

if TYPE_CHECKING:
    from .driver import Run


async def read(
    run: Run,
    invocation: Invocation,
    ask: Ask,
    call: Call,
    take: Take,
    keeper: Keeper,
) -> None:
    """Have a call read (asked for by `ask`) as far as the budget goes."""
    with _opened(run, invocation, call) as account:

        def counted(piece: str) -> bool | Awaitable[bool]:
            if account.over:
                return False
            going = take(account.note(piece if isinstance(piece, Delta) else Delta(text_of(piece))))
            if not account.over:
                return going
            return False if isinstance(going, bool) else _then_stop(going)

        kept = Kept(counted)
        await ended(ask(account.call, kept.take, kept.keeper))


async def stream(
    run: Run, invocation: Invocation, name: str, engine: Engine, call: Call
) -> AsyncGenerator[Delta, None]:
    """The answer of the engine of this name to a call, as far as the budget goes."""
    with _opened(run, invocation, call) as account:
        async with aclosing(engine.stream(account.call)) as pieces:
            async for piece in pieces:
                yield account.note(delta_of(name, piece))
                if account.over:
                    return


@contextmanager
def _opened(run: Run, invocation: Invocation, call: Call) -> Iterator[Account]:
    budget = run.budget
    assert budget is not None
    account = budget.open(call)
    if account is None:
        raise StageError(
            f"stage {invocation.use.name} at {show(invocation.path)}: the token budget of request "
            f"{run.id} is spent: of {budget.tokens} tokens {budget.spent} are used and "
            f"{budget.held} held by calls under way, and the prompt of this call has about "
            f"{budget.prompt_tokens(call)}. Give the request more (token_budget), ask for less "
            "(max_tokens, fewer items), or let a stage that can be done without say "
            'on_error="drop".',
            stage=invocation.use.name,
            path=invocation.path,
            attempts=invocation.attempt,
        )
    sent = account.call
    try:
        yield account
    except EngineError as failure:
        sent.untold = sent.untold or failure.usage
        raise
    finally:
        account.close()
        call.answered_by, call.untold = sent.answered_by, sent.untold


async def _then_stop(going: Awaitable[bool]) -> bool:
    await going
    return False
