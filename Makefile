# Each target does all of its own set-up: Python >= 3.11, pip and a package index are enough.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=

.PHONY: demo test soak bench bench-engine docs format lint types check clean

demo: $(VENV)/.harness
	$(BIN)/sslconnector echo-test $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(ARGS)

# Random seeds and large counts; takes long.
soak: $(VENV)/.test
	$(BIN)/python -m pytest --hypothesis-profile=soak -o timeout=3600 $(ARGS)
	$(BIN)/sslconnector echo-test --connections 2000 --duration 60

# All peers in one run: about half an hour; ARGS=--quick takes less than two minutes. Needs Linux, a C compiler and OpenSSL's headers.
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/compare.py $(ARGS)

# The engine alone, in memory.
bench-engine: $(VENV)/.bench
	$(BIN)/python benchmarks/engine.py $(ARGS)

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy sslconnector tests compliance examples benchmarks

check: lint types test docs

clean:
	rm -rf $(VENV) docs/_build build bench-results *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.harness: EXTRA = harness,uvloop
$(VENV)/.test: EXTRA = test
$(VENV)/.dev: EXTRA = dev
$(VENV)/.bench: EXTRA = bench
$(VENV)/.harness $(VENV)/.test $(VENV)/.bench $(VENV)/.dev: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sslconnector needs Python 3.11 or newer; say which: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRA)]'
	touch $@
