"""`alto.Simulated`: LM servers in this process, for tests, benchmarks and planning.

Each replica is a continuous-batching server with the step times of a measured GPU profile
(`model.py`, `profiles.py`). It shares no cost code with the scheduler that it is used to judge.
What it says comes from `respond(call)`, or is made up so that it reads as the stage's return type
(`synthesis.py`); equal seeds and calls give equal text, in any process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..core.calls import Call
from ..errors import ConfigError
from .sim_encode import Embed, Encoder, Score
from .sim_faults import Faults
from .sim_replica import Answer, Respond, SimReplica
from .sim_settings import ServerSettings, from_table
from .synthesis import Lengths, synthesize
from .tokens import tokenize

__all__ = ["Answer", "Faults", "Lengths", "Respond", "SimReplica", "Simulated"]


@dataclass(frozen=True, kw_only=True)
class Simulated(ServerSettings):
    """A pool of simulated LM servers.

    `respond(call)` gives the whole answer, a `str` (or an `Answer` with reasoning); `call.stage`,
    `.arguments`, `.messages`, `.path` and `.request` say what is asked. Without it the text is made
    up, as long and as many as `lengths` says: one `Lengths`, or one for each stage by name with
    `"*"` for the others; a plain dict with the fields of a `Lengths` will do for each.

    `embed(text)` gives a vector and `score(query, document)` a number; without them both are made
    up, so that texts with words in common are near each other. The other settings are those of
    `ServerSettings`.
    """

    respond: Respond | None = None
    lengths: Lengths | Mapping[str, Lengths] = field(default_factory=Lengths)
    embed: Embed | None = None
    score: Score | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("respond", "embed", "score"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise ConfigError(
                    f"Simulated: {name} is {getattr(self, name)!r}, expected a function."
                )
        lengths: Any = self.lengths
        if isinstance(lengths, Lengths):
            return
        if not isinstance(lengths, Mapping):
            raise ConfigError(
                f"Simulated: lengths is {lengths!r}, expected Lengths(...), or a dict of them."
            )
        plain = {each.name for each in fields(Lengths)}
        made: Lengths | dict[str, Lengths]
        if lengths and plain.issuperset(lengths):
            made = from_table(Lengths, lengths, "Simulated(lengths)")
        else:
            made = {
                stage: each
                if isinstance(each, Lengths)
                else from_table(Lengths, each, f"Simulated(lengths[{stage!r}])")
                for stage, each in lengths.items()
            }
        object.__setattr__(self, "lengths", made)

    def writer(self, name: str) -> Respond:
        """`respond`, or what makes text up."""
        return self.respond if self.respond is not None else self._made_up

    def encoder(self, name: str) -> Encoder:
        """`embed` and `score`, or what makes them up."""
        return Encoder(self.dimensions, self.embed, self.score)

    def _made_up(self, call: Call) -> str:
        lengths = self.lengths
        if not isinstance(lengths, Lengths):
            lengths = lengths.get(call.stage) or lengths.get("*") or Lengths()

        def count_tokens(text: str) -> int:
            return len(tokenize(text, self.token_letters))

        return synthesize(call, lengths, self.seed, count_tokens)
