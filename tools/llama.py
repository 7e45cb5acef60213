"""A real LM server for tests: llama.cpp's llama-server, built here, with a tiny random model.

    python tools/llama.py build                     once a machine; later calls return at once
    python tools/llama.py serve --replicas 2        in the foreground, until Ctrl-C
    python tools/llama.py model                     where the tiny model is

No weights are fetched: the model is made on the spot. Nothing is written inside the repository.
What is built lies in ALTO_CACHE_DIR, by default ~/.cache/alto. In Python, with this folder on
sys.path: `from llama_server import LlamaServer`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from llama_build import LlamaError, build, cache_folder, say
from llama_model import tiny_model
from llama_server import LlamaServer


def serve(port: int, replicas: int, slots: int) -> None:
    """Run replicas until Ctrl-C or SIGTERM; prints one URL a line once all of them answer."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as running:
            ports = [port + index if port else 0 for index in range(replicas)]
            servers = [running.enter_context(LlamaServer(port=each, slots=slots)) for each in ports]
            for server in servers:
                print(server.url, flush=True)
            say("the model's name is tiny; Ctrl-C ends")
            signal.pause()
    except KeyboardInterrupt:
        say("stopped")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tools/llama.py", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build llama-server once; prints its path")
    building.add_argument("--jobs", type=int, help="compilers at a time (default: all cores)")
    commands.add_parser("model", help="make the tiny model; prints its path")
    serving = commands.add_parser("serve", help="run replicas in the foreground")
    serving.add_argument("--port", type=int, default=0, help="of the first one (default: any free)")
    serving.add_argument("--replicas", type=int, default=1)
    serving.add_argument("--slots", type=int, default=3, help="calls at a time, each")
    chosen = parser.parse_args(arguments)
    try:
        match chosen.command:
            case "build":
                print(build(chosen.jobs))
            case "model":
                print(tiny_model(cache_folder()))
            case _:
                serve(chosen.port, chosen.replicas, chosen.slots)
    except LlamaError as error:
        print(f"llama: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
