"""Tests against a real LM server: llama-server, built by `python tools/llama.py build`.

They are no part of a plain `pytest` run, which needs no compiler and no such server; name this
folder, or say `-m engines`, to run them. A server that was not built is then an error, not a
skip.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tools"), str(HERE.parent / "engines")]

from llama_server import LlamaServer  # noqa: E402 - the paths above must come first


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder alone unless it was asked for."""
    if config.getoption("markexpr").strip() == "engines":
        return None
    here = config.invocation_params.dir
    asked = [(here / argument.partition("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(HERE) for path in asked) else True


@pytest.fixture(scope="session")
def replicas() -> Iterator[tuple[LlamaServer, LlamaServer]]:
    """Two servers for all tests. Whoever breaks one starts its own instead."""
    with LlamaServer() as first, LlamaServer() as second:
        yield first, second


@pytest.fixture
def doomed() -> Iterator[LlamaServer]:
    """A server of this test's own, to be killed."""
    with LlamaServer() as server:
        yield server


@pytest.fixture
def other() -> Iterator[LlamaServer]:
    """A second one, for what must survive the first."""
    with LlamaServer() as server:
        yield server
