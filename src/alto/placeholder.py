"""What stands for a value while a pipeline is recorded.

The function under `@pipeline` runs once, before there is anything to compute with. What it does to
a `Flow` other than passing it on (a condition, a loop, arithmetic, an f-string) would silently
mean something else than it says, so all of that raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from .core import graph as g
from .errors import GraphError

if TYPE_CHECKING:
    from .recorder import Recorder


class Flow:
    """A placeholder for values that will flow while a request runs.

    It has no value while the pipeline is recorded: pass it to stages, filter it with `where`,
    return it. Conditions, loops and attribute access on it belong inside a stage.
    """

    __slots__ = ("_core", "_recorder")

    def __init__(self, core: g.Flow, recorder: Recorder) -> None:
        self._core = core
        self._recorder = recorder

    def where(self, predicate: Callable[[Any], bool]) -> Any:
        """Keep the items for which `predicate(value)` is true; levels stay as they are.

        The predicate must be quick and pure. One that raises is a failure at that path.
        """
        return self._recorder.where(self, predicate)

    def __repr__(self) -> str:
        return f"<flow {self._core.name}>"

    def _no_value(self, what: str) -> NoReturn:
        raise GraphError(
            f"pipeline {self._recorder.name}: {what} the flow {self._core.name!r}, which has no "
            "value while the pipeline is recorded. Do that inside a stage, or keep items with "
            ".where(predicate)."
        )

    def __bool__(self) -> bool:
        self._no_value("a condition on")

    def __iter__(self) -> Any:
        self._no_value("a loop over")

    def __len__(self) -> int:
        self._no_value("len() of")

    def __contains__(self, item: object) -> bool:
        self._no_value(f"{item!r} in")

    def __getitem__(self, key: Any) -> Any:
        self._no_value(f"item {key!r} of")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._no_value(f"attribute {name!r} of")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._no_value("a call of")

    def __format__(self, spec: str) -> str:
        self._no_value("an f-string with")

    def _compare(self, other: object) -> Any:
        self._no_value("a comparison with")

    def _compute(self, other: object) -> Any:
        self._no_value("arithmetic on")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _compare
    __hash__ = object.__hash__
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _compute
    __truediv__ = __rtruediv__ = __mod__ = __or__ = __ror__ = __and__ = __rand__ = _compute
