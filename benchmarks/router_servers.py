"""The servers of `routers.py`: llama-server replicas, and sglang-router in front of them.

llama-server is the one that the tests use (`tools/llama.py` builds it once). sglang-router comes
from PyPI into a virtual environment of its own, beside llama-server in ALTO_CACHE_DIR: it brings a
web framework and thirty megabytes that nothing else here needs.

Always true:
    - every server listens on 127.0.0.1, and the router is told of no model, tokenizer or hub, so
      it fetches nothing
    - a server is only ever stopped by the object that started it
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tools"))

from llama_build import build, cache_folder  # noqa: E402 - the path above must come first
from llama_server import LlamaServer  # noqa: E402

__all__ = ["ROOT", "LlamaServer", "Router", "build", "cache_counts", "replicas"]

ROUTER = "sglang-router==0.3.2"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


@contextmanager
def replicas(count: int, slots: int, context_tokens: int) -> Iterator[list[LlamaServer]]:
    """Fresh servers, so with nothing in their caches."""
    with ExitStack() as running:
        yield [
            running.enter_context(LlamaServer(slots=slots, context_tokens=context_tokens))
            for _ in range(count)
        ]


def cache_counts(server: LlamaServer) -> tuple[float, float]:
    """Prompt tokens that a server has found in its cache, and those that it has read."""
    page = server.get("/metrics").decode()
    found = {
        line.split()[0]: float(line.split()[1])
        for line in page.splitlines()
        if line.startswith("llamacpp:prompt_tokens")
    }
    return found["llamacpp:prompt_tokens_cached_total"], found["llamacpp:prompt_tokens_total"]


def router_python() -> Path:
    """The Python of a virtual environment that has sglang-router; made by the first call."""
    home = cache_folder() / ROUTER.replace("==", "-")
    python = home / "bin" / "python"
    complete = home / "complete"
    if not complete.exists():
        print(f"  installing {ROUTER} into {home}", file=sys.stderr, flush=True)
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        pins = str(ROOT / "constraints.txt")
        subprocess.run([*pip, "install", "--constraint", pins, ROUTER], check=True)
        complete.touch()
    return python


class Router:
    """sglang-router over some replicas, with the policy `cache_aware` and its own defaults.

    A context manager: it is in when the router is ready to serve, and stopped at the end.
    """

    def __init__(self, workers: Sequence[LlamaServer]) -> None:
        self._workers = [worker.address for worker in workers]
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.url = ""
        """What an OpenAI client takes as its base URL."""

    @property
    def pid(self) -> int:
        assert self._process is not None, "asked for the pid of a router that was not started"
        return self._process.pid

    def __enter__(self) -> Self:
        port, metrics_port = _free_ports(2)
        self.url = f"http://127.0.0.1:{port}/v1"
        self._log = tempfile.TemporaryFile()
        address = ["--host", "127.0.0.1", "--port", str(port)]
        metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port)]
        quiet = ["--log-level", "warn", "--policy", "cache_aware"]
        self._process = subprocess.Popen(
            [
                *(str(router_python()), "-m", "sglang_router.launch_router"),
                *(*address, *metrics, *quiet, "--worker-urls", *self._workers),
            ],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        try:
            self._wait_until_ready(f"http://127.0.0.1:{port}/readiness")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait_until_ready(self, address: str) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with urllib.request.urlopen(address, timeout=STOP_TIMEOUT_S):
                    return
            except (urllib.error.URLError, OSError):
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{ROUTER} over {', '.join(self._workers)} was not ready within "
                    f"{START_TIMEOUT_S:.0f} s. It said:\n{self.said()}"
                )
            time.sleep(0.05)

    def said(self) -> str:
        """The end of what the router wrote."""
        if self._log is None:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), 4000, max(0, size - 4000)).decode(errors="replace")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log is not None:
            self._log.close()
        self._process = self._log = None


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; the router cannot be asked which one it took."""
    with ExitStack() as open_sockets:
        found = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]
