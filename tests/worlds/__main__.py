"""`python -m tests.worlds SEED [COUNT] [calls|pipelines]`: run the worlds of these seeds."""

from __future__ import annotations

import sys
import traceback

from . import calls, pipelines

WAYS = {"calls": calls.one, "pipelines": pipelines.one}


def main() -> None:
    first = int(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    ways = sys.argv[3:] or list(WAYS)
    wrong = answered = 0
    for seed in range(first, first + count):
        for way in ways:
            try:
                answered += WAYS[way](seed)
            except Exception as error:
                wrong += 1
                text = str(error)[: 3000 if count == 1 else 300]
                print(f"seed {seed}, {way}: {type(error).__name__} {text}\n", flush=True)
                if count == 1:
                    traceback.print_exc()
    print(f"{count} worlds, {answered} answers while replicas were moody, {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
