"""One replica of a real LM server: a llama-server process with the tiny model.

Always true:
    - a server is only ever stopped by the object that started it
    - it listens on 127.0.0.1 and fetches nothing
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self

from llama_build import LlamaError, cache_folder, server_binary
from llama_model import tiny_model

POLL_EVERY_S = 0.02
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 10.0
LOG_TAIL_CHARS = 4000


class LlamaServer:
    """One replica: a llama-server process on 127.0.0.1, with the tiny model.

    `start()` returns once it answers; `stop()` asks it to end and waits; `kill()` ends it as a
    crash would. `port=0` lets the system choose a free one, without a race; started again, the
    server takes the port it had. `context_tokens` is for all slots together. Prefixes are kept
    in the slots and nowhere else, so what a test sees of caching is a matter of routing.
    Also a context manager.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        slots: int = 3,
        context_tokens: int = 12288,
        alias: str = "tiny",
        options: Sequence[str] = (),
    ) -> None:
        self.alias = alias
        self.slots = slots
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None  # open while the process runs
        self._said = ""  # by the last process, once it has ended
        self._options = [
            *("--alias", alias, "--host", "127.0.0.1", "--offline", "--no-ui", "--metrics"),
            *("--slots", "-np", str(slots), "-c", str(context_tokens), "-no-kvu"),
            *("-t", "1", "-tb", "1", "--cache-ram", "0", *options),
        ]

    @property
    def address(self) -> str:
        """Where /health, /slots and /metrics are."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """What an OpenAI client takes as its base URL."""
        return f"{self.address}/v1"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise LlamaError("asked for the pid of a server that was not started; call start()")
        return self._process.pid

    def start(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Start the process and wait until /health says that the model is loaded."""
        if self._process is not None:
            raise LlamaError(f"this server runs already, as process {self.pid}; stop() it first")
        program = [str(server_binary()), "--model", str(tiny_model(cache_folder()))]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _finish
        self._process = subprocess.Popen(
            [*program, "--port", str(self._port), *self._options],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            self._wait_until_healthy(time.monotonic() + timeout_s)
        except BaseException:
            self.kill()
            raise
        return self

    def _wait_until_healthy(self, deadline: float) -> None:
        assert self._process is not None
        while True:
            # It says its port only once it has bound it: that is what makes port 0 safe.
            listening = re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.log())
            if listening:
                self._port = int(listening[1])
                if self._healthy():
                    return
            if self._process.poll() is not None:
                raise LlamaError(
                    f"llama-server {' '.join(self._options)} ended with status "
                    f"{self._process.returncode} before it answered. It said:\n{self.log_tail()}"
                )
            if time.monotonic() >= deadline:
                raise LlamaError(
                    f"llama-server, process {self.pid}, did not answer /health in time. It said:\n"
                    f"{self.log_tail()}"
                )
            time.sleep(POLL_EVERY_S)

    def _healthy(self) -> bool:
        try:
            self.get("/health")
        except (urllib.error.URLError, OSError):
            return False  # 503 while the model loads
        return True

    def get(self, path: str) -> bytes:
        """The body of `GET path`, for /slots, /metrics and the like."""
        with urllib.request.urlopen(self.address + path, timeout=ANSWER_TIMEOUT_S) as answer:
            body: bytes = answer.read()
        return body

    def log(self) -> str:
        """All that the server wrote to its stdout and stderr, the last time it ran."""
        if self._log is None:
            return self._said
        # pread: the file's position is shared with the server, which writes at it.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def log_tail(self) -> str:
        return self.log()[-LOG_TAIL_CHARS:]

    def stop(self) -> None:
        """End it in order; if it does not end in time, kill it. Nothing if it does not run."""
        if self._process is None:
            return
        self._process.terminate()
        self.thaw()  # a frozen process would not hear it
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._finish()

    def kill(self) -> None:
        """End it at once, as a crash would: open streams break off in the middle."""
        if self._process is None:
            return
        self._process.kill()
        self._finish()

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay open and nothing more comes. `thaw()` goes on."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on; nothing if it is not frozen."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise LlamaError(f"sent {number.name} to a server that was not started; call start()")
        self._process.send_signal(number)

    def _finish(self) -> None:
        assert self._process is not None
        assert self._log is not None
        self._process.wait()
        self._process = None
        self._said = self.log()
        self._log.close()
        self._log = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
