"""ALTO with its hot modules compiled to machine code by mypyc: which ones, and how they are built.

    python tools/native.py                       build, and print the folder to put on PYTHONPATH
    PYTHONPATH=$(python tools/native.py) python -m pytest tests/core

What is built is a copy of the package, sources and all, in which the modules of `MODULES` have a
shared object beside them; Python prefers that. Nothing is ever written into src/, where it would
stand in for sources that have been edited since.

Always true:
    - it lies in ALTO_CACHE_DIR, by default ~/.cache/alto (XDG_CACHE_HOME is obeyed), in a folder
      whose name holds a hash of every source and of the compilers; under its final name it is
      complete, since it is made beside it and renamed
    - of other builds there the newest `KEPT` stay
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "alto"

CORE = (
    "admission", "attempt", "budget", "choice", "commit", "cost", "cut", "dark", "execution",
    "feed", "feeding", "flights", "forecast", "graph", "interest", "json_cut", "json_flat",
    "learning", "lifecycle", "next_call", "path", "peer_load", "pool", "pool_events", "prefix",
    "pressure", "prewarm", "prompt", "prompt_cache", "rate", "readable", "refusals", "replicas",
    "resume", "revision", "scalar_cut", "scope", "sentences", "settling", "slots", "think",
    "waiting", "where",
)  # fmt: skip
INTERPRETED = {
    "calls": "Delta is a str; users make calls, and tell usage, in whatever types they have",
    "default": "users make it, and ask for its docstring, which a compiled class has not",
    "encode": "its answers are Deltas",
    "events": "mypyc cannot read BaseException in a dataclass",
    "limits": "a user's mistake in it has an error of its own",
    "peers": "what other pools say is read with all its mistakes",
    "pool_limits": "a user's mistake in it has an error of its own",
    "scheduling": "what users write policies with",
    "texts": "its classes are strs",
}
"""The modules of the core that stay as they are, and why; and so do the policies, which are
functions of `scheduling`'s values."""

MODULES = (
    *(f"core/{name}.py" for name in CORE),
    "values.py",
    "engines/keeper.py",
    "engines/pool_calls.py",
    "engines/pool_reader.py",
    "runtime/aside.py",
    "runtime/barrier.py",
    "runtime/calls.py",
    "runtime/driver.py",
    "runtime/reading.py",
)
"""What is compiled, below src/alto: what decides and reads text, what is asked for the size of each
item, and what is done for a request, a piece of text or a call without waiting. What waits is left
alone. Compiled coroutines gain little, an exception that is thrown into one loses its traceback,
and async generators cannot be compiled at all. A class that is derived from another adds no
`__call__`: mypyc keeps a field for that before those of the base, which code for the base then
takes for others."""

OPTIMISATION = "3"
"""Of the C compiler, `-O`."""

KEPT = 3
"""How many builds stay in the cache."""

SHOWN_CHARS_MAX = 4000
"""How much of a compiler's output an error shows."""

SETUP = """
from setuptools import setup
from mypyc.build import mypycify
modules = {modules!r}
setup(
    name="alto",
    ext_modules=mypycify(
        ["--config-file=" + {config!r}, *modules],
        opt_level={optimisation!r},
        debug_level="0",
        group_name="alto",
    ),
)
"""

CONFIG = "[mypy]\nfollow_imports = silent\nignore_missing_imports = true\n"
"""For mypy inside mypyc. Whether the types are right is for `make check` to say, of all sources."""


class NativeError(Exception):
    """The package could not be compiled; the message says how to mend it."""


Wish = Literal["must", "may", "never"]
WISHES: dict[str, Wish] = {"": "may", "auto": "may", "1": "must", "0": "never"}


def wish() -> Wish:
    """What ALTO_COMPILE asks of an installation: that it must be compiled, may be where this
    machine can, or never is."""
    asked = os.environ.get("ALTO_COMPILE", "")
    if asked not in WISHES:
        raise NativeError(
            f"ALTO_COMPILE={asked!r}: expected 1 (compile, or fail), 0 (plain Python) or auto "
            "(compile where a C compiler is found, as without the variable)."
        )
    return WISHES[asked]


def missing() -> str | None:
    """What this machine lacks to compile, in words; None if nothing."""
    for package in ("mypy", "setuptools"):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            return f"the Python package {package} (pip install 'alto[dev]')"
    return missing_compiler()


def missing_compiler() -> str | None:
    """What no pip can bring: an interpreter that mypyc compiles for, a C compiler, headers."""
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return f"a CPython with its global lock: {sys.executable} is another"
    compiler = os.environ.get("CC") or (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler.split()[0]) is None:
        return f"a C compiler: no {compiler} on PATH (on Debian: apt install gcc)"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        return f"the headers of Python: no {header} (on Debian: apt install python3-dev)"
    return None


def compile_into(package: Path) -> list[Path]:
    """Compile the modules of a copy of the package, which is named `alto`, in place; gives what was
    made: a shared object beside each module, and the one beside the package that holds the code."""
    lacking = missing()
    if lacking is not None:
        raise NativeError(f"tried to compile ALTO; this machine lacks {lacking}.")
    parent = package.parent
    with tempfile.TemporaryDirectory(prefix="alto-native-") as scratch:
        work = Path(scratch)
        config = work / "mypy.ini"
        config.write_text(CONFIG, encoding="utf-8")
        script = work / "setup.py"
        modules = [f"{package.name}/{name}" for name in MODULES]
        script.write_text(
            SETUP.format(modules=modules, config=str(config), optimisation=OPTIMISATION),
            encoding="utf-8",
        )
        command = [sys.executable, str(script), "-q", "build_ext", "--inplace"]
        command += ["--build-temp", str(work / "objects")]
        environment = {**os.environ, "MYPYPATH": str(parent)}
        done = subprocess.run(
            command, cwd=parent, env=environment, text=True, capture_output=True, check=False
        )
    shutil.rmtree(parent / "build", ignore_errors=True)
    if done.returncode != 0:
        output = (done.stdout + done.stderr)[-SHOWN_CHARS_MAX:]
        raise NativeError(f"mypyc or the C compiler refused ALTO's modules:\n{output}")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return sorted([*parent.glob(f"*{suffix}"), *package.rglob(f"*{suffix}")])


def copy_sources(to: Path) -> None:
    """The package without what Python has cached of it."""
    shutil.copytree(SOURCE, to, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd"))


# -- the cache ------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Everything that is built lies here."""
    chosen = os.environ.get("ALTO_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "alto"


def key() -> str:
    """A hash of all that a build depends on: sources, this script, Python, mypyc, the compiler."""
    found = hashlib.sha256()
    for path in [*sorted(SOURCE.rglob("*.py")), Path(__file__)]:
        found.update(f"{path.relative_to(ROOT)}\n".encode())
        found.update(path.read_bytes())
    facts = [sys.version, sysconfig.get_config_var("EXT_SUFFIX"), metadata.version("mypy")]
    facts += [os.environ.get(name) for name in ("CC", "CFLAGS")]
    found.update("\n".join(map(str, facts)).encode())
    return found.hexdigest()[:16]


def built() -> Path:
    """A folder with the compiled package in it, for PYTHONPATH. Takes a minute or two, once for
    each state of the sources."""
    lacking = missing()
    if lacking is not None:
        raise NativeError(f"tried to compile ALTO; this machine lacks {lacking}.")
    home = cache_folder() / f"native-{key()}"
    if home.exists():
        os.utime(home)
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="native-work-", dir=home.parent))
    try:
        copy_sources(work / "alto")
        compile_into(work / "alto")
        try:
            work.rename(home)
        except OSError:  # somebody else was first
            if not home.exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    forget_old(home)
    return home


def forget_old(newest: Path) -> None:
    builds = sorted(newest.parent.glob("native-*"), key=lambda path: path.stat().st_mtime)
    others = [path for path in builds if path != newest and "work" not in path.name]
    for old in others[: 1 - KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    try:
        print(built())
    except NativeError as error:
        print(f"native: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
