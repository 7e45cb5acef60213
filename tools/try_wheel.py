"""Does what pip makes of ALTO work where its sources are not? Builds wheels, and installs each.

    python tools/try_wheel.py

    as this machine is, with a C compiler       for this kind of machine; `alto` says `compiled`
    as if it had no C compiler                  for every machine; `alto` says `interpreted`

Both then run a pipeline. Needs a package index, as an installation does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

OWN = ("PYTHONPATH", "ALTO_COMPILE")
"""Variables that would say what to build, or from where to import it."""

PIPELINE = """
from alto import Stream, pipeline, stage

@stage
def words(text: str) -> Stream[str]:
    yield from text.split()

@stage
def shout(word: str) -> str:
    return word.upper()

@stage
def join(words: list[str]) -> str:
    return " ".join(words)

@pipeline
def loud(text: str):
    return join(shout(words(text)))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """A command's output; its failure ends this program, with what it wrote."""
    path = {name: value for name, value in os.environ.items() if name not in OWN}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        words = " ".join(map(str, command))
        sys.exit(f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def expect(what: str, found: str, wanted: str) -> None:
    if wanted not in found:
        sys.exit(f"{what}: expected {wanted!r} in {found!r}")
    print(f"{what}: {found.strip()}", flush=True)


def try_one(name: str, form: str, tag: str, **environment: str) -> None:
    """Build a wheel with these variables, install it in a fresh environment, run a pipeline."""
    with tempfile.TemporaryDirectory(prefix="alto-wheel-") as made:
        folder = Path(made)
        pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
        run(sys.executable, *pip, "wheel", "--no-deps", "-w", folder, ".", cwd=ROOT, **environment)
        (wheel,) = folder.glob("*.whl")
        expect(f"{name}, the wheel", wheel.name, tag)
        venv.create(folder / "venv", with_pip=True)
        scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        python = scripts / "python"
        run(python, *pip, "install", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
        (folder / "app.py").write_text(PIPELINE, encoding="utf-8")
        expect(f"{name}, its form", run(scripts / "alto", "--version", cwd=folder), form)
        said = run(scripts / "alto", "run", "app:loud", '"as it comes"', "--json", cwd=folder)
        expect(f"{name}, a pipeline", said, "AS IT COMES")


def main() -> None:
    try_one("with a compiler", "compiled", "cp3")
    try_one("without a compiler", "interpreted", "py3-none-any", CC="no-such-compiler")


if __name__ == "__main__":
    main()
