"""How much may be sent in a minute: requests and tokens, as hosted servers limit them.

A `Window` looks back over the last minute and lets nothing pass that would make its sum more than
the limit. That is the strictest reading of "so many per minute": whether a server counts by the
minute of its clock, refills a bucket, or looks back as well, it never sees more than its limit.

What a call will cost in tokens is not known when it is sent. So its estimate is reserved, and
corrected when the call has ended: what was not used is given back, what was used beyond it counts
from then on. A call that is larger than the limit goes when nothing else is in the window, and
is counted for as many minutes as it is worth.

Always true:
    W1  in any minute no more is charged than the limit, but for one call larger than that and for
        corrections upwards
    W2  whatever amount is asked for, `fits_at` is a time that comes
    W3  a window costs constant memory
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from ..errors import ConfigError
from .pool_events import Allowed

WINDOW_S = 60.0
GRAIN_S = 0.5
"""Charges that come within so long of each other leave the window together, with the last."""


@dataclass(slots=True)
class Charge:
    """What was sent within a moment. It leaves the window at `until`."""

    amount: int
    first: float
    last: float
    until: float


class Window:
    """One limit: so much in any minute."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._charges: deque[Charge] = deque()
        """By `until`."""
        self._used = 0
        """The sum of their amounts."""
        self._withheld = 0
        """What the server will not give, though by our own books it should, until"""
        self._withheld_until = 0.0
        """then."""

    def used(self, now: float) -> int:
        """What counts against the limit now."""
        charges = self._charges
        while charges and charges[0].until <= now:
            self._used -= charges.popleft().amount
        return self._used + (self._withheld if now < self._withheld_until else 0)

    def fits_at(self, amount: int, now: float) -> float:
        """When so much may be sent, if nothing else is until then: `now`, or later."""
        over = self.used(now) + min(amount, self.limit) - self.limit
        if over <= 0:
            return now
        leaving = [(charge.until, charge.amount) for charge in self._charges]
        if now < self._withheld_until:
            leaving.append((self._withheld_until, self._withheld))
            leaving.sort()
        for at, left in leaving:
            over -= left
            if over <= 0:
                return at
        return leaving[-1][0]

    def charge(self, amount: int, now: float) -> Charge:
        """So much is sent."""
        self.used(now)
        self._used += amount
        last = self._charges[-1] if self._charges else None
        until = max(self._until(amount, now), last.until if last else 0.0)
        if last is not None and now < last.first + GRAIN_S and amount <= self.limit:
            last.amount += amount
            last.last, last.until = now, until
            return last
        charge = Charge(amount, now, now, until)
        self._charges.append(charge)
        return charge

    def correct(self, charge: Charge, by: int, now: float) -> None:
        """What was charged was more or less by so much, as is known now."""
        if by > 0:
            self.charge(by, now)
        elif charge.until > now:
            self.used(now)
            self._used += by
            charge.amount += by
            charge.until = min(charge.until, self._until(charge.amount, charge.last))

    def told(self, left: int, reset_s: float, now: float) -> None:
        """The server says that so much is left, and in how long all will be there again.

        Where that is less than by our own books somebody else uses the same limit, or the limit is
        lower than we were told. More is never believed.
        """
        self._withheld_until = 0.0
        self._withheld = max(0, self.limit - self.used(now) - left)
        self._withheld_until = now + min(max(0.0, reset_s), WINDOW_S)

    def _until(self, amount: int, now: float) -> float:
        return now + WINDOW_S * max(1.0, amount / self.limit)


@dataclass(slots=True)
class Reserved:
    """Tokens that a call under way may cost."""

    charge: Charge
    tokens: int


class Rate:
    """The limits of one engine; None where there is none."""

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self.requests = None if requests is None else Window(requests)
        self.tokens = None if tokens is None else Window(tokens)

    def fits_at(self, tokens: float, now: float) -> float:
        """When a call of so many tokens may be sent: `now`, or later."""
        at = now
        if self.requests is not None:
            at = self.requests.fits_at(1, now)
        if self.tokens is not None:
            at = max(at, self.tokens.fits_at(math.ceil(tokens), now))
        return at

    def reserve(self, tokens: float, now: float) -> Reserved | None:
        """A call of so many tokens is sent."""
        if self.requests is not None:
            self.requests.charge(1, now)
        if self.tokens is None:
            return None
        whole = math.ceil(tokens)
        return Reserved(self.tokens.charge(whole, now), whole)

    def settle(self, reserved: Reserved | None, tokens: float, now: float) -> None:
        """The call has cost so many tokens."""
        if reserved is not None and self.tokens is not None:
            self.tokens.correct(reserved.charge, math.ceil(tokens) - reserved.tokens, now)

    def told(self, allowed: Allowed, now: float) -> None:
        """What the server says of its own books."""
        if self.requests is not None and allowed.requests is not None:
            self.requests.told(*allowed.requests, now)
        if self.tokens is not None and allowed.tokens is not None:
            self.tokens.told(*allowed.tokens, now)

    def describe(self, now: float) -> str:
        """How much of each limit is used, in words."""
        return " and ".join(
            f"{window.used(now)} of {window.limit} {what} of a minute used"
            for window, what in ((self.requests, "requests"), (self.tokens, "tokens"))
            if window is not None
        )


def part_of(limit: int | None, place: int, of: int) -> int | None:
    """What the one at `place`, from 0, of so many may send, that none be more than one apart."""
    if limit is None:
        return None
    if limit < of:
        raise ConfigError(
            f"a limit of {limit} per minute cannot be shared by {of} orchestrators, for each must "
            "be able to send something. Raise the limit, or let there be fewer."
        )
    return limit // of + (place < limit % of)


def rate_of(requests_per_minute: int | None, tokens_per_minute: int | None) -> Rate | None:
    """The limits of an engine; None if it has none."""
    if requests_per_minute is None and tokens_per_minute is None:
        return None
    return Rate(requests_per_minute, tokens_per_minute)
