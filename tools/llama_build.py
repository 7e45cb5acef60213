"""Build llama.cpp's llama-server once, and keep it outside the repository.

The source is the llama-cpp-python sdist on PyPI, which carries the whole llama.cpp tree. Nothing
else is fetched but the tools that build it.

Always true:
    - it all lies in ALTO_CACHE_DIR, by default ~/.cache/alto (XDG_CACHE_HOME is obeyed)
    - a folder under its final name is complete. Work is done beside it, under a lock that the
      system drops if we die, and renamed at the end; a build that was broken off goes on where
      it stopped
    - the folder's name holds a hash of the CPU's features and of the compiler flags, so a cache
      carried to another machine is never run there by mistake
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = "0.3.36"
SDIST = f"llama_cpp_python-{VERSION}.tar.gz"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

BUILD_TOOLS = ("ninja", "scikit-build-core")  # the latter only so that pip can read the sdist
BUILD_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DGGML_OPENMP=OFF",  # one library less to find at run time
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # else the configure step fetches it
    "-DLLAMA_OPENSSL=OFF",
)

PROGRESS_EVERY_S = 10.0
OUTPUT_TAIL_CHARS = 4000


class LlamaError(Exception):
    """The server could not be built or started; the message says how to mend it."""


# -- where things are ---------------------------------------------------------------------------


def cache_folder() -> Path:
    """Everything that is built or made lies here."""
    chosen = os.environ.get("ALTO_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "alto"


def machine_key() -> str:
    """A hash of what the binary depends on besides its source."""
    features = ""
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        lines = cpu.read_text(encoding="utf-8", errors="replace").splitlines()
        line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        features = " ".join(sorted(line.partition(":")[2].split()))
    facts = "\n".join([platform.machine(), features, *BUILD_FLAGS])
    return hashlib.sha256(facts.encode()).hexdigest()[:8]


def server_folder() -> Path:
    return cache_folder() / f"llama-server-{VERSION}-{machine_key()}"


def server_binary() -> Path:
    """The built server, or an error that says how to build it."""
    binary = server_folder() / "llama-server"
    if not binary.exists():
        raise LlamaError(
            f"looked for a built llama-server at {binary} and found none.\n"
            "Build it once (some minutes): python tools/llama.py build"
        )
    return binary


# -- building -----------------------------------------------------------------------------------


def build(jobs: int | None = None) -> Path:
    """Build the server unless it is there already, and give its path.

    Two builds at once are one build: the second waits for the first.
    """
    home = server_folder()
    binary = home / "llama-server"
    if binary.exists():
        return binary
    home.parent.mkdir(parents=True, exist_ok=True)
    with only_one(Path(f"{home}.lock")):
        if binary.exists():
            return binary
        need_compiler()
        work = Path(f"{home}.work")
        work.mkdir(exist_ok=True)
        tools = build_tools(work)
        source = unpacked(work, fetched(work, tools))
        built = compiled(work, tools, source, jobs or available_cores())
        ready = work / "ready"
        ready.mkdir(exist_ok=True)
        shutil.copy2(built, ready / "llama-server")
        ready.replace(home)
        shutil.rmtree(work)
    say(f"done: {binary}")
    return binary


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold `lock`, a file. The system lets go of it when this process ends, however it ends."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another build holds {lock}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def need_compiler() -> None:
    wanted = {
        "C": os.environ.get("CC") or "cc gcc clang",
        "C++": os.environ.get("CXX") or "c++ g++ clang++",
    }
    for language, names in wanted.items():
        if not any(shutil.which(name) for name in names.split()):
            raise LlamaError(
                f"building llama-server needs a {language} compiler; none of "
                f"{', '.join(names.split())} is on PATH.\n"
                "Debian or Ubuntu: apt-get install g++    Fedora: dnf install gcc-c++    "
                "macOS: xcode-select --install"
            )


def build_tools(work: Path) -> dict[str, str]:
    """A virtual environment with what the build needs; gives the variables that put it first."""
    venv = work / "venv"
    complete = venv / "complete"
    paths = os.pathsep.join([str(venv / "bin"), os.environ.get("PATH", "")])
    variables = {**os.environ, "PATH": paths, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if not complete.exists():
        names = BUILD_TOOLS if shutil.which("cmake") else (*BUILD_TOOLS, "cmake")
        say(f"installing {', '.join(names)} in a virtual environment")
        checked([sys.executable, "-m", "venv", "--clear", str(venv)], "making a venv")
        checked([*pip(venv), "install", *names], "installing build tools", variables)
        complete.touch()
    return variables


def pip(venv: Path) -> list[str]:
    return [str(venv / "bin" / "python"), "-m", "pip"]


def fetched(work: Path, variables: dict[str, str]) -> Path:
    """The sdist, with the hash that this file names."""
    archive = work / SDIST
    if not archive.exists() or digest(archive) != SDIST_SHA256:
        say(f"fetching {SDIST} (77 MB)")
        archive.unlink(missing_ok=True)
        wanted = ["--no-binary", "llama-cpp-python", f"llama-cpp-python=={VERSION}"]
        quiet = ["--no-deps", "--no-build-isolation", "--dest", str(work)]
        checked([*pip(work / "venv"), "download", *quiet, *wanted], "fetching", variables)
    if digest(archive) != SDIST_SHA256:
        raise LlamaError(
            f"fetched {archive}: its SHA-256 is {digest(archive)}, expected {SDIST_SHA256}.\n"
            "The package index gave another file. Remove it and try an index you trust."
        )
    return archive


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpacked(work: Path, archive: Path) -> Path:
    """The llama.cpp tree of the sdist."""
    tree = work / "tree"
    if not tree.exists():
        say("unpacking")
        partial = work / "tree.part"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.unpack_archive(archive, partial)  # safe without a filter: its hash is known
        (partial / SDIST.removesuffix(".tar.gz")).replace(tree)
        shutil.rmtree(partial)
    return tree / "vendor" / "llama.cpp"


def compiled(work: Path, variables: dict[str, str], source: Path, jobs: int) -> Path:
    """Configure and compile. What an earlier, broken-off build compiled is kept."""
    say(f"compiling with {jobs} jobs")
    output = work / "build"
    configure = ["cmake", "-S", str(source), "-B", str(output), "-G", "Ninja", *BUILD_FLAGS]
    checked(configure, "configuring llama.cpp", variables)
    command = ["cmake", "--build", str(output), "--target", "llama-server", "-j", str(jobs)]
    with_progress(command, work / "build.log", variables)
    return output / "bin" / "llama-server"


def with_progress(command: list[str], log: Path, variables: dict[str, str]) -> None:
    """Run a build, telling how far it is now and then; its whole output goes to `log`."""
    last = deque[str](maxlen=40)
    began = told = time.monotonic()
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=variables,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            last.append(line)
            step = re.match(r"\[(\d+)/(\d+)\]", line)
            now = time.monotonic()
            if step and now - told >= PROGRESS_EVERY_S:
                told = now
                say(f"step {step[1]} of {step[2]}, {now - began:.0f} s")
    if process.returncode != 0:
        raise LlamaError(
            f"compiling llama-server failed with exit status {process.returncode}; the whole "
            f"output is in {log}. Its end:\n{''.join(last)}"
        )


def checked(command: list[str], doing: str, variables: dict[str, str] | None = None) -> None:
    """Run a command in silence; show what it said only if it fails."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=variables,
        check=False,
    )
    if done.returncode != 0:
        raise LlamaError(
            f"{doing} failed with exit status {done.returncode}: {' '.join(command)}\n"
            f"{done.stdout[-OUTPUT_TAIL_CHARS:]}"
        )


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def say(line: str) -> None:
    print(f"llama: {line}", file=sys.stderr, flush=True)
