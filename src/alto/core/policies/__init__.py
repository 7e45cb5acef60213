"""The policies that come with ALTO, one a file, by the names that a configuration uses."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction

from ...errors import ConfigError
from ..scheduling import Policy
from .least_outstanding import LeastOutstanding
from .prefix_affinity import PrefixAffinity
from .prompt_aware import PromptAware
from .round_robin import RoundRobin

NAMED: dict[str, Callable[[], Policy]] = {
    "round-robin": RoundRobin,
    "least-outstanding": LeastOutstanding,
    "prefix-affinity": PrefixAffinity,
    "prompt-aware": PromptAware,
}


def resolve(policy: str | Policy) -> Policy:
    """A fresh policy by its name, or the user's own object as it is."""
    if isinstance(policy, str):
        if policy not in NAMED:
            raise ConfigError(
                f"scheduling policy {policy!r} is not known; expected one of "
                f"{', '.join(NAMED)}, or an object with choose() and observe()"
            )
        return NAMED[policy]()
    if isinstance(policy, type):
        raise ConfigError(
            f"scheduling policy {policy.__name__} is a class; give an object: {policy.__name__}()"
        )
    for verb in ("choose", "observe"):
        if not callable(getattr(policy, verb, None)):
            raise ConfigError(
                f"scheduling policy {policy!r} has no {verb}(); a policy needs "
                "choose(candidates, facts, now, random) and observe(seen)"
            )
        if iscoroutinefunction(getattr(policy, verb)):
            raise ConfigError(
                f"scheduling policy {policy!r}: {verb}() is async, expected a plain function, for "
                "a choice is made at once"
            )
    return policy
