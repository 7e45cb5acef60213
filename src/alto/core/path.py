"""Where an item came from: a tuple of positions, level by level; the request itself is `()`.

Inside a request ancestry is a tree of nodes (core/scope.py). Tuples appear only at the edges:
events, the wire, errors, results.
"""

from __future__ import annotations

Path = tuple[int, ...]

ROOT: Path = ()


def show(path: Path) -> str:
    """A path as people read it: `(0, 2)`, and `the request` for the root."""
    return (
        "the request"
        if not path
        else "(" + ", ".join(map(str, path)) + ("," * (len(path) == 1)) + ")"
    )


def is_under(path: Path, ancestor: Path) -> bool:
    """Whether `path` is `ancestor` or lies below it."""
    return path[: len(ancestor)] == ancestor
