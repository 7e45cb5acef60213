"""`python -m tests.oracle SEED [COUNT] [puppets|production]`: run the cases of these seeds.

A single case prints its pipeline and the whole trace of what went wrong.
"""

from __future__ import annotations

import sys
import traceback

from . import production, puppets

WAYS = {"puppets": puppets.one, "production": production.one}


def main() -> None:
    first = int(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    ways = sys.argv[3:] or list(WAYS)
    wrong = 0
    runs = 0
    for seed in range(first, first + count):
        for way in ways:
            try:
                runs += WAYS[way](seed)
            except Exception as error:
                wrong += 1
                text = str(error)[: 3000 if count == 1 else 300]
                print(f"seed {seed}, {way}: {type(error).__name__} {text}\n")
                if count == 1:
                    traceback.print_exc()
    print(f"{count} cases, {runs} invocations, {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
