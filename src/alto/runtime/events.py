"""What the client of a request is told while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.calls import Usage
from ..core.path import Path


@dataclass(slots=True)
class Event:
    """Something for the client of a request.

    `output` names an output of the pipeline, `path` says which item, `value` is it. An item that
    replaces one given before is `revised`; one taken back is `withdrawn` (`value` is None). With
    `progress`, a stage called `current().emit(output, value)`. `usage` is what the request's LM
    calls have used so far.
    """

    output: str
    path: Path
    value: Any
    revised: bool = False
    withdrawn: bool = False
    progress: bool = False
    stage: str = ""
    usage: Usage | None = None
