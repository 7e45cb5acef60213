"""What ALTO costs and what it gains, always measured side by side in one run.

`python -m benchmarks` runs everything and prints one table of targets with PASS or MISS; every
module here can also be run alone (`python -m benchmarks.overhead --quick`). README.md says what is
measured and how. This package imports nothing, so that a contender's process holds only what that
contender needs.
"""
