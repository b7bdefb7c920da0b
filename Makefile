# Two commands for a newcomer: `make demo` and `make test`. Both need only Linux, Python 3.11 to 3.13 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: demo test test-slow lint bench bench-compare clean

demo: $(READY)
	$(BIN)/embedstore demo --out demo

# One test process a core, one thread each: threads of several processes on the same cores wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

test: lint
	$(PYTEST) -m "not slow"

test-slow: $(READY)
	$(PYTEST) -m slow

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Ours against what a user would run instead, a quarter of an hour on two idle cores; results go to build/bench.json.
bench: $(READY)
	$(BIN)/python -m benchmarks all

# What became faster or slower since the numbers that are committed.
bench-compare: benchmarks/results.json bench
	$(BIN)/python -m benchmarks compare benchmarks/results.json build/bench.json

# uv installs torch in seconds where pip takes minutes; it comes from pip itself, so nothing else is needed. The marker's
# name holds a checksum of what was asked for, so a change of the dependencies installs them again.
$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=/path/to/python3.12"; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(shell grep '^uv==' constraints.txt)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[dev]'
	rm -f $(VENV)/ready-*
	touch $@

clean:
	rm -rf build demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
