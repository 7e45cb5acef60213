# make demo    set up, then watch a recorded chatbot answer being fact-checked while it is written
# make test    set up, then run all tests
#
# Everything lives in .venv, built by pip from pyproject.toml with the versions in constraints.txt.
# PYTHON chooses the interpreter (3.11 or later).

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
READY := .venv/.ready
SEED ?= 1

.PHONY: help demo test test-compiled test-wheel test-engines wheel check format bench sim docs headline clean

help:
	@sed -n '1,5p' Makefile | cut -c3-
	@echo "also: check  format  bench  headline  sim SEED=n  docs  test-compiled  test-wheel  test-engines  wheel  clean"

$(READY): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "ALTO needs Python 3.11 or later with the venv module; none was found on PATH."; \
		echo "On Debian: apt install python3 python3-venv. Or name one: make PYTHON=/path/to/python3.12 ..."; \
		exit 1; fi
	$(PYTHON) -m venv .venv
	ALTO_COMPILE=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench,demo]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/alto demo

test: $(READY)
	$(BIN)/python -m pytest

test-compiled: $(READY)
	folder=$$($(BIN)/python tools/native.py) && PYTHONPATH="$$folder" $(BIN)/python -m pytest

wheel: $(READY)
	ALTO_COMPILE=1 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

test-wheel: $(READY)
	$(BIN)/python tools/try_wheel.py

test-engines: $(READY)
	$(BIN)/python tools/llama.py build
	$(BIN)/python -m pytest tests/real_engines -m engines

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python -m benchmarks

headline: $(READY)
	$(BIN)/python -m benchmarks.headline

sim: $(READY)
	$(BIN)/python -m tests.oracle $(SEED)
	$(BIN)/python -m tests.worlds $(SEED)

docs: $(READY)
	$(BIN)/python -m pytest tests/docs

clean:
	rm -rf .venv build dist results .mypy_cache .ruff_cache .hypothesis .import_linter_cache
