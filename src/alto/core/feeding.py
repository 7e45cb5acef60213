"""Feeds under way: who reads what, what moves when something is known, what is held back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import commit, interest, lifecycle, pressure
from .attempt import Invocation, State
from .events import Wake
from .feed import Feed
from .graph import Gather, Mode, Output
from .scope import Failed, Node

if TYPE_CHECKING:
    from .execution import Execution


def release_feeds(execution: Execution, invocation: Invocation) -> None:
    """The reader is over: what it has not read interests it no more."""
    for feed in invocation.feeds:
        if not feed.ended:
            lose(execution, feed)


def lose(execution: Execution, feed: Feed) -> None:
    """Nobody reads this feed any more."""
    if feed.lost or feed.ended:
        return
    feed.lost = True
    feed.hungry = False
    if not feed.skip() and not feed.ended:
        interest.lost(execution, feed.source.flow, feed.node)


def feed_at(execution: Execution, gather: Gather, node: Node) -> Feed:
    """The feed of a gathered argument at a node; made when first asked for."""
    last, feed = None, node.feeds
    while feed is not None:
        if feed.source is gather:
            return feed
        last, feed = feed, feed.next
    assert gather.use is not None
    feed = Feed(execution, node, gather, gather.use.hold)
    if last is None:
        node.feeds = feed
    else:
        last.next = feed
    return feed


def move(execution: Execution, feed: Feed) -> None:
    """A feed's cursor may be able to go on."""
    over = feed.ended  # by a name of its own: filling it changes that
    if over or feed.node.dead:
        return
    if feed.lost:
        feed.skip()
        return
    source = feed.source
    if isinstance(source, Output):
        move_output(execution, feed)
        return
    invocation = feed.invocation
    if invocation is None:
        return
    if source.mode is not Mode.LIST:
        if feed.hungry and invocation.state is State.RUNNING:
            feed.hungry = False
            execution.idle -= 1
            pressure.unstall(execution, invocation)
            execution.ask(Wake(feed))
        return
    if invocation.state is not State.WAITING:
        return
    feed.hungry = False
    found = feed.fill()
    if type(found) is Failed:
        if not execution.losses or interest.wanted(
            execution, invocation.use.out, feed.node, again=invocation.rerun
        ):
            execution.fail(found.error)
    elif feed.ended and lifecycle.lists_complete(execution, invocation):
        lifecycle.make_ready(execution, invocation)


def move_output(execution: Execution, feed: Feed) -> None:
    if execution.stream and not execution.client_room:
        return
    feed.hungry = False
    if execution.keep:
        found = feed.fill()
        if type(found) is Failed:
            execution.fail(found.error)
    elif feed.skip() and not feed.ended:
        found = feed.cursor.advance()
        if type(found) is Failed:
            execution.fail(found.error)
    if feed.ended:
        execution.open_outputs -= 1


def keep_back(execution: Execution, invocation: Invocation, last: list[Any]) -> None:
    """A committed attempt is over: its output, `last` behind what is held already, goes on when
    everything above it has closed."""
    invocation.state = State.HELD
    invocation.held = [*(invocation.held or []), *last]
    commit.when_committed(
        execution,
        invocation.use.out,
        invocation.node,
        lambda: release(execution, invocation),
    )


def release(execution: Execution, invocation: Invocation) -> None:
    """Everything above a committed attempt has closed: its output may go on."""
    if invocation.state is State.HELD:
        lifecycle.finish(execution, invocation, pressure.let_go(execution, invocation))
