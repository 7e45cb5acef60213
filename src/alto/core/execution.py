"""One request: events in, actions out. No clock, no tasks, no luck of its own.

The state is a tree of nodes (core/scope.py). An invocation of a stage at a node is

    waiting ──▶ ready ──▶ running ─▶ done | failed | absent
                 ▲           │
                 └─ backoff ◀┘         and cancelled, from anywhere, when nobody wants its output

A flow that settles at a node (a value, absent, or failed) wakes what takes it there: stages whose
arguments are then complete become ready, operators settle at once, feeds move on. Everything that
follows from one event is worked off a list, never by recursion.

Interest (core/interest.py) is looked at only after somebody has lost it. Re-runs (core/revision.py)
compare a new attempt with what an earlier one gave.

Always true:
    E1  an attempt that is not the current one of its place changes nothing
    E2  a request finishes once; after that nothing is asked for and nothing is counted
    E3  an invocation is ready at most once per attempt, and only when all its items are present
    E4  a failure is raised only when a consumer or an output reaches it

The driver sets `now` before it calls in, works off `ready` and `actions`, and calls `tick` at
`wake_at()`.
"""

from __future__ import annotations

import functools
import heapq
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import AltoError, DeadlineExceeded
from . import commit, feeding, interest, lifecycle, pressure, revision, settling
from .attempt import ACTIVE, Invocation, State, at, is_list
from .events import Action, Broke, Closed, Done, Emit, Event, Finish, Given, Start
from .feed import END, WAIT, Feed, Forgotten
from .graph import Flow, Gather, Graph, Kind, Mode, Output, Use
from .limits import Limits
from .path import Path, show
from .scope import Failed, Node


def _same(a: Any, b: Any) -> bool:
    return bool(a == b)


def _no_size(value: Any) -> int:
    return 64


class Execution:
    """The dataflow of one request over `graph`.

    `size(value)` estimates bytes; `same(a, b)` compares two items as they would be encoded;
    `rng(name)` makes what the jitter of back-offs is drawn from. With `stream=True` every output
    item is emitted as soon as it exists, else only `results()` is kept.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        name: str = "",
        rng: Callable[[str], random.Random] = random.Random,
        limits: Limits = Limits(),
        size: Callable[[Any], int] = _no_size,
        same: Callable[[Any, Any], bool] = _same,
        stream: bool = False,
        keep: bool = True,
        committed: bool = False,
    ) -> None:
        self.graph = graph
        self.name = name
        self.now = 0.0
        self._make_rng = rng
        self._rng: random.Random | None = None
        self.bound(limits)
        self.size = size
        self.same = same
        self.stream = stream
        self.keep = keep
        self.committed = committed
        self.shown = False
        """The client was told of an item."""
        self._first: dict[int, Path] | None = None
        """By use that leads (`Graph.leading`): the place of its first call."""
        self.ready: deque[Invocation] = deque()
        self.actions: list[Action] | None = None
        self.finished = False
        self.error: BaseException | None = None
        self.root = Node(None, (), graph.root)
        self.outputs: list[Feed] = []
        self.given: dict[str, Any] | None = None  # the results, when the request is over
        self.open_outputs = len(graph.outputs)
        self.running = 0  # attempts that are ready or running
        self.idle = 0  # of those: paused, or sessions that wait for input
        self.reruns = 0  # attempts under way at places that had settled before
        self.undecided: dict[Node, list[Use]] | None = None  # where something else may come
        self.losses = False
        self.client_room = True
        self.bytes = 0
        self.paused: tuple[Invocation, ...] = ()
        self.retired: deque[Node] | None = None
        self.retired_bytes = 0
        self.told: revision.Told | None = None
        self.commits: commit.Commits | None = None
        self._work: list[tuple[Node, Flow, Any]] = []
        self._moves: list[Feed] = []
        self._timers: list[tuple[float, int, str, Invocation | None]] | None = None
        self._serial = 0

    @property
    def rng(self) -> random.Random:
        """Made when it is first needed: most requests try nothing again, and it is large."""
        if self._rng is None:
            self._rng = self._make_rng(self.name)
        return self._rng

    def bound(self, limits: Limits) -> None:
        """Go by these limits. Those that are asked for with each item are kept as numbers."""
        self.limits = limits
        self.scope_items = limits.scope_items
        self.scope_bytes = limits.scope_bytes
        self.request_bytes = limits.request_bytes

    # ---------------------------------------------------------------- the driver's side

    def begin(self, arguments: Mapping[str, Any], deadline: float | None = None) -> None:
        """The request's parameters are known. `deadline` is in the clock of `now`."""
        if deadline is not None:
            self._timer(deadline, "deadline", None)
        self.outputs = [
            Feed(self, self.root, output, hold=output.flow.level.retained)
            for output in self.graph.outputs
        ]
        for name, flow in self.graph.parameters.items():
            self._work.append((self.root, flow, arguments[name]))
        for use in self.graph.uses:
            if not use.items and use.kind is Kind.STAGE:
                lifecycle.start(self, use, self.root)
        self._moves.extend(self.outputs)
        self._drain()

    def handle(self, event: Event, now: float) -> list[Action]:
        """One event as a value; the actions that follow, `Start` for what became ready."""
        self.now = now
        if isinstance(event, Given | Closed | Done | Broke):
            invocation = self.find(event.stage, event.path, event.attempt)
            if invocation is not None:
                if isinstance(event, Given):
                    self.give(invocation, event.value)
                elif isinstance(event, Closed):
                    self.close(invocation)
                elif isinstance(event, Done):
                    self.done(invocation, event.value)
                else:
                    self.broke(invocation, event.error, event.retryable)
        else:
            self.tick()
        return self.take_actions()

    def take_actions(self) -> list[Action]:
        """Everything asked for since the last call, as values; ready invocations become running."""
        actions: list[Action] = []
        while self.ready:
            invocation = self.ready.popleft()
            if invocation.state is State.READY:
                self.started(invocation)
                actions.append(Start(invocation))
        actions.extend(self.actions or ())
        self.actions = None
        return actions

    def ask(self, action: Action) -> None:
        """Have the driver do something."""
        if self.actions is None:
            self.actions = [action]
        else:
            self.actions.append(action)

    def find(self, stage: str, path: Path, attempt: int) -> Invocation | None:
        """The stage's invocation at this path, if that attempt is the current one."""
        for use in self.graph.uses:
            if use.name == stage and use.kind is Kind.STAGE:
                for node in interest.nodes_under(self.root, use.level):
                    if node.path == path:
                        invocation = at(node, use)
                        if invocation is not None and invocation.attempt == attempt:
                            return invocation
        return None

    def started(self, invocation: Invocation) -> bool:
        """The driver begins to run an invocation of `ready`. False: it is not wanted any more."""
        if invocation.state is not State.READY:
            return False
        invocation.state = State.RUNNING
        timeout = invocation.use.rules.timeout
        if timeout is not None:
            invocation.due = self.now + timeout
            self._timer(invocation.due, "attempt", invocation)
        return True

    def arguments(self, invocation: Invocation, stream: Callable[[Feed], Any]) -> dict[str, Any]:
        """The keyword arguments of an attempt; `stream(feed)` makes what a session iterates."""
        use, node = invocation.use, invocation.node
        arguments = use.constants.copy()
        for name, up, slot in use.named:
            arguments[name] = (node.up(up) if up else node).vals[slot]
        for feed in invocation.feeds:
            gather = feed.source
            assert isinstance(gather, Gather)
            if gather.mode is Mode.LIST:
                arguments[gather.parameter] = feed.values or []
            else:
                arguments[gather.parameter] = stream(feed)
        return arguments

    def give(self, invocation: Invocation, value: Any) -> bool:
        """An item of a fan-out. False: pause until `Go` (or `Stop`)."""
        before = invocation.state  # by a name of its own: what follows may change it
        if before is not State.RUNNING:
            return False
        if invocation.held is not None:
            return pressure.hold_back(self, invocation, value)
        scope = invocation.scope
        assert scope is not None
        try:
            lifecycle.append(self, invocation, scope, value)
        except Forgotten:
            pressure.forgotten(self, None)
        if self._work or self.finished:
            self._drain()
        if invocation.state is not State.RUNNING:
            return False
        if scope.live >= scope.limit or pressure.heavy(self, scope):
            return pressure.may_run_ahead(self, invocation, scope)
        return True

    def close(self, invocation: Invocation) -> None:
        """A fan-out has given all its items."""
        if invocation.state is not State.RUNNING:
            return
        if invocation.held is not None:
            lifecycle.leave_running(self, invocation, State.HELD)
            feeding.keep_back(self, invocation, [])
        else:
            lifecycle.leave_running(self, invocation, State.DONE)
            self._or_forgotten(lambda: lifecycle.close(self, invocation, None))
        self._drain()

    def done(self, invocation: Invocation, value: Any) -> None:
        """A stage with one output has given it."""
        if invocation.state is not State.RUNNING:
            return
        if invocation.use.rules.committed:
            lifecycle.leave_running(self, invocation, State.HELD)
            feeding.keep_back(self, invocation, [value])
        else:
            lifecycle.leave_running(self, invocation, State.DONE)
            if invocation.use.rerun:
                self._or_forgotten(lambda: lifecycle.put(self, invocation, value))
            else:
                lifecycle.put(self, invocation, value)
        self._drain()

    def broke(self, invocation: Invocation, error: BaseException, retryable: bool = True) -> None:
        """An attempt raised. `retryable`: the stage's `retry_on` covers it."""
        if invocation.state is not State.RUNNING:
            return
        rules = invocation.use.rules
        lifecycle.leave_running(self, invocation, State.FAILED, keep_feeds=True)
        if self.losses and not interest.wanted(
            self, invocation.use.out, invocation.node, again=invocation.rerun
        ):
            invocation.state = State.CANCELLED
            commit.cancelled(self, invocation)
            feeding.release_feeds(self, invocation)
            pressure.obligation(self, invocation.node)
            lifecycle.end_rerun(self, invocation)
        elif retryable and invocation.failures < rules.retries:
            invocation.state = State.BACKOFF
            pause = min(rules.backoff_s * 2.0**invocation.failures, rules.backoff_max_s)
            invocation.failures += 1
            pause *= 0.5 + self.rng.random() / 2
            self._timer(self.now + pause, "backoff", invocation)
        else:
            feeding.release_feeds(self, invocation)
            self._or_forgotten(lambda: lifecycle.give_up(self, invocation, error))
        self._drain()

    def pull(self, feed: Feed) -> Any:
        """The next item for a session; END; WAIT (a `Wake` follows); or a `Failed`, which fails the
        request: the driver stops this attempt."""
        invocation = feed.invocation
        if self.finished or invocation is None or invocation.state is not State.RUNNING:
            return END
        if feed.lost:  # its prompt is complete; a task that it has left behind asks
            return END
        try:
            value = feed.pull()
        except Forgotten:
            pressure.forgotten(self, feed)
            self._let_go()
            return WAIT
        if type(value) is Failed:
            self.fail(value.error)
            self._let_go()
            return WAIT
        if self._moves or self.actions or self._work or (value is WAIT and self.paused):
            self._drain()
        return value

    def have_enough(self, invocation: Invocation) -> None:
        """A running session reads no further: what it has not read interests it no more."""
        if invocation.state is not State.RUNNING or all(feed.ended for feed in invocation.feeds):
            return
        for feed in invocation.feeds:
            if feed.hungry:
                feed.hungry = False
                self.idle -= not is_list(feed)
        pressure.unstall(self, invocation)
        feeding.release_feeds(self, invocation)
        self._drain()

    def cancel(self, error: BaseException) -> None:
        """The caller gives up."""
        self.fail(error)
        self._let_go()

    def fail(self, error: BaseException) -> None:
        """End the request with an error: stop everything."""
        self._finish(error)

    def set_client_room(self, room: bool) -> None:
        """Whether the client takes more output items now; without room the walks that free items
        stand still, so producers slow down."""
        self.client_room = room
        if room:
            self._moves.extend(feed for feed in self.outputs if not feed.ended)
            self._drain()

    def wake_at(self) -> float | None:
        """When `tick` must be called at the latest."""
        timers = self._timers
        while timers:
            when, _, kind, invocation = timers[0]
            if kind == "attempt" and (invocation is None or invocation.state is not State.RUNNING):
                heapq.heappop(timers)
                continue
            return when
        return None

    def tick(self) -> None:
        """Let every timer that is due take effect."""
        while not self.finished and (timers := self._timers) and timers[0][0] <= self.now:
            _, _, kind, invocation = heapq.heappop(timers)
            if kind == "deadline":
                self.fail(
                    DeadlineExceeded(f"request {self.name}: its time ran out. {self.story()}")
                )
            elif kind == "backoff" and invocation is not None:
                if invocation.state is State.BACKOFF:
                    self._or_forgotten(functools.partial(lifecycle.retry, self, invocation))
            elif invocation is not None and invocation.state is State.RUNNING:
                lifecycle.attempt_due(self, invocation)
        self._drain()

    def results(self) -> dict[str, Any]:
        """Each output: a value (None if absent) at the request's level, else a list by path."""
        if self.given is not None:
            return self.given
        results: dict[str, Any] = {}
        for feed in self.outputs:
            output, values = feed.source, feed.values
            assert isinstance(output, Output)
            if output.flow.level is self.graph.root:
                results[output.name] = values[0] if values else None
            else:
                results[output.name] = values or []
        return results

    def story(self) -> str:
        """What the request waits for, for error messages."""
        waits: list[str] = []
        for invocation in interest.active(self):
            if len(waits) == 5:
                waits.append("and more")
                break
            waits.append(f"{invocation.use.name} at {show(invocation.path)}")
        return "It was running " + ", ".join(waits) + "." if waits else "Nothing was running."

    def hold(self, node: Node, size: int) -> None:
        """So many more bytes are held until `node` is spent."""
        while node.source is not None:  # below a merge: let go with the item that it stands for
            node = node.source
        node.bytes += size
        self.bytes += size

    def spend(self, node: Node) -> None:
        pressure.spend(self, node)

    def starve(self, feed: Feed) -> None:
        pressure.starve(self, feed)

    # ---------------------------------------------------------------- what follows

    def settle(self, node: Node, flow: Flow, value: Any) -> None:
        """Queue that a flow is known at a node."""
        self._work.append((node, flow, value))

    def _drain(self) -> None:
        """Work off everything that follows, then see whether the request is over or stuck."""
        work, moves = self._work, self._moves
        moved = 0  # so many of these have been worked off: mostly there is but one
        try:
            over = self.finished
            while not over:
                if work:
                    for node, flow, value in work:  # and what is put behind it meanwhile
                        settling.settled(self, node, flow, value)
                        over = self.finished
                        if over:
                            break
                    work.clear()
                elif moves:
                    feed = moves[moved]
                    moved += 1
                    if moved == len(moves):
                        moves.clear()
                        moved = 0
                    feeding.move(self, feed)
                    over = self.finished
                elif self.commits is None or not commit.judge(self, self.commits):
                    break
                else:
                    over = self.finished
        except Forgotten:
            pressure.forgotten(self, None)
        finally:
            if moved:
                del moves[:moved]
        if not (self.open_outputs or self.reruns or self.finished):
            self._finish(None)
        elif self.paused and self.running <= self.idle and self.client_room and not self.finished:
            pressure.grow(self)
        if self.finished:
            self._let_go()

    # ---------------------------------------------------------------- outputs and the end

    def _output(self, output: Output, node: Node, value: Any) -> None:
        """An output settled somewhere: tell the client."""
        if type(value) is Failed:
            self.fail(value.error)
            return
        if self.stream:
            if self.committed:
                commit.when_committed(
                    self,
                    output.flow,
                    node,
                    lambda: revision.emit(self, output, node),
                    last=True,
                )
            else:
                revision.emit(self, output, node)

    def emit(
        self, output: str, path: Path, value: Any, revised: bool = False, withdrawn: bool = False
    ) -> None:
        self.shown = True
        self.ask(Emit(output, path, value, revised, withdrawn))

    def leads(self, invocation: Invocation) -> bool:
        """Whether a client who has seen nothing yet waits for the call that this one makes: its use
        leads to what is seen first (`Graph.leading`), and no other place of it made one before."""
        if self.shown or not self.stream or invocation.use.index not in self.graph.leading:
            return False
        if self._first is None:
            self._first = {}
        return self._first.setdefault(invocation.use.index, invocation.path) == invocation.path

    def _timer(self, when: float, kind: str, invocation: Invocation | None) -> None:
        self._serial += 1
        if self._timers is None:
            self._timers = []
        heapq.heappush(self._timers, (when, self._serial, kind, invocation))

    def _finish(self, error: BaseException | None) -> None:
        if self.finished:
            return
        if error is None:
            commit.flush(self)
            revision.withdraw_all(self)
        for invocation in interest.active(self):
            lifecycle.stop(self, invocation, State.CANCELLED)
        self.finished = True
        self.error = error
        self.ready.clear()
        self._timers = None
        self.paused = ()
        self.ask(Finish(error))
        if error is not None and not isinstance(error, AltoError):
            self.error = error

    def _or_forgotten(self, step: Callable[[], None]) -> None:
        """Do something that may look at items which are held no longer."""
        try:
            step()
        except Forgotten:
            pressure.forgotten(self, None)

    def _let_go(self) -> None:
        """The request is over. The tree refers to itself: its values would else stay until some
        garbage collection comes by."""
        self._work.clear()
        self._moves.clear()
        self.ready.clear()  # the event that ended it may have made more ready after that
        self.retired = self.told = self.commits = self.undecided = None
        root = self.root
        pressure.close_node(root)
        root.vals = []
        root.merged = None
        for feed in self.outputs:
            feed.let_go()
            feed.forget()
        self.given = self.results()
        self.outputs = []


__all__ = ["ACTIVE", "END", "WAIT", "Execution", "Invocation", "Limits", "State"]
