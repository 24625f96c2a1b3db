# Two commands do everything: make train, make test.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LOWEST := .venv-lowest

SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: train test unit lint check docs wheel-test test-lowest test-slow faults bench bench-data bench-growth bench-gpu bench-generate bench-speculation clean

# Many tests start Python: each module is compiled once, not by each process.
test unit test-lowest test-slow: export PYTHONDONTWRITEBYTECODE =

train: $(VENV)/installed
	$(BIN)/python train.py

# All tests but those that take minutes: unit tests, and those that start processes or train.
test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not slow and not network" $(SIDE_BY_SIDE)

unit: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not process and not slow and not network and not gpu" $(SIDE_BY_SIDE)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check gpt train.py sample.py data
	$(BIN)/lint-imports

check: lint unit

# The wheel, in an empty environment and an empty directory, does what README does.
wheel-test: $(VENV)/installed-dev
	$(BIN)/python tests/wheel.py

# The pages of docs/ as a site, in build/site; their links, code and notebooks are tried first.
docs: $(VENV)/installed-docs
	$(BIN)/python -m pytest tests/test_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

# With the lowest versions that pyproject.toml declares, all but the tests of several processes.
test-lowest: $(LOWEST)/installed
	$(LOWEST)/bin/python -m pytest -m "not slow and not network" --ignore=tests/distributed/test_world.py $(SIDE_BY_SIDE)

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "slow"

# Hundreds of kills, damaged files, full disks, signals and dead ranks; ends in the table of docs/reliability.md.
faults: $(VENV)/installed-dev
	$(BIN)/python -m pytest reliability

# Against a checkout of nanoGPT, on an idle machine: make bench NANOGPT=../nanoGPT. It takes about two hours; results go
# to benchmarks/results/, and into docs/performance.md. TEXT=FILE is tinyshakespeare, if it is here already.
bench: $(VENV)/installed data/python
	@test -n "$(NANOGPT)" || { echo "make bench NANOGPT=DIR: give a checkout of github.com/karpathy/nanoGPT"; exit 2; }
	$(BIN)/python -m benchmarks.time_to_loss --nanogpt $(NANOGPT) $(if $(TEXT),--text $(TEXT))
	$(BIN)/python -m benchmarks.bits_per_byte --nanogpt $(NANOGPT)
	$(BIN)/python -m benchmarks.throughput --nanogpt $(NANOGPT)
	$(BIN)/python -m benchmarks.memory --nanogpt $(NANOGPT)
	$(BIN)/python -m benchmarks.learning --nanogpt $(NANOGPT)
	$(BIN)/python -m benchmarks.overheads
	$(BIN)/python -m benchmarks.table

# DATA is a dataset of at least 50 million of GPT-2's tokens, such as of the Python packages installed:
# python data/prepare.py files --input .venv/lib --name packages --tokenizer gpt2
bench-gpu: $(VENV)/installed
	@test -n "$(NANOGPT)" -a -n "$(DATA)" || { echo "make bench-gpu NANOGPT=DIR DATA=DATASET"; exit 2; }
	$(BIN)/python -m benchmarks.attention --device cuda
	$(BIN)/python -m benchmarks.throughput --nanogpt $(NANOGPT) --device cuda
	$(BIN)/python -m benchmarks.memory --nanogpt $(NANOGPT) --device cuda
	$(BIN)/python -m benchmarks.learning --nanogpt $(NANOGPT) --device cuda --data $(DATA)
	$(BIN)/python -m benchmarks.table

# How fast text becomes shards, beside tiktoken alone and the ways of llm.c and nanoGPT; MEGABYTES=10,100 for less.
bench-data: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.preparing $(if $(MEGABYTES),--megabytes $(MEGABYTES))

# How cost grows with work, beside theory: some minutes of an idle machine; ONLY="training decoding" for some curves.
bench-growth: $(VENV)/installed
	$(BIN)/python -m benchmarks.growth $(if $(ONLY),--only $(ONLY)) $(if $(RUNS),--runs $(RUNS))
	$(BIN)/python -m benchmarks.table

# Beside transformers and CTranslate2, and nanoGPT if NANOGPT names a checkout, on an idle machine.
bench-generate: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet ctranslate2
	$(BIN)/python -m benchmarks.generate $(if $(NANOGPT),--nanogpt $(NANOGPT)) $(if $(DEVICE),--device $(DEVICE)) $(if $(RUNS),--runs $(RUNS))
	$(BIN)/python -m benchmarks.table

# Guesses of what comes next, by a run that was trained on Python: RUN names one, by default that of `make train`.
bench-speculation: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.speculation $(if $(RUN),--run $(RUN)) $(if $(RUNS),--runs $(RUNS))
	$(BIN)/python -m benchmarks.table

data/python:
	$(BIN)/python data/prepare.py python

clean:
	rm -rf $(VENV) $(LOWEST) build dist .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-docs: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

# The build backend is one of them, so it builds here and not in an environment of its own, which has the newest.
$(LOWEST)/installed: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv --clear $(LOWEST)
	$(PYTHON) tests/lowest.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --requirement $(LOWEST)/lowest.txt editables
	$(LOWEST)/bin/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@
