# Two commands do everything: make train, make test.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: train test test-slow faults check clean

train: $(VENV)/installed
	$(BIN)/python train.py

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not slow and not network"

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "slow" --ignore=tests/faults

# Hundreds of kills, damaged files, full disks, signals and dead ranks; ends in the table of docs/reliability.md.
faults: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "slow" tests/faults

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check gpt train.py sample.py data
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow and not network"

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
