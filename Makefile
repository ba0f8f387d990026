# Everything runs from .venv, which is built, and brought up to date when requirements/dev.txt or pyproject.toml changes.
PYTHON ?= python3
READY := .venv/.ready
BIN := .venv/bin
LOCK = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock'
# One process more than there are cores, four at most: tests wait a third of their time for other processes.
PROCESSES = $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() or 1, 3) + 1)')
PYTEST = $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder --durations 20

.PHONY: demo test test-all up check lint types lock screenshots clean

demo: $(READY) ## teach a model the Fibonacci numbers; MODEL=org/name takes another one, KEEP=1 leaves the service on
	@$(BIN)/tunesmith demo $(if $(MODEL),--model "$(MODEL)") $(if $(KEEP),--keep)

test: $(READY) ## every rule once
	$(PYTEST) -m "not slow" --hypothesis-profile few

test-all: $(READY) ## every rule in all its variants, and how much of the program they run
	$(PYTEST) --cov

up: $(READY) ## the whole service on http://127.0.0.1:8000 until Ctrl-C
	@$(BIN)/tunesmith up

check: lint types

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

lock: $(READY) ## pin the newest versions that pyproject.toml allows: for the API, for GPU processes, for development
	$(LOCK) --extra train --extra trackers --extra build --extra dev --upgrade -o requirements/dev.txt
	$(LOCK) --extra train --extra trackers --extra build -c requirements/dev.txt -o requirements/gpu.txt
	$(LOCK) --extra build -c requirements/dev.txt -o requirements/api.txt

screenshots: $(READY) ## the pictures of the documents, of a real training; needs Chromium
	$(BIN)/python -m bench.screenshots docs/pictures

clean: ## remove all that make built, .venv too
	rm -rf .venv build *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache unsloth_compiled_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed and $(PYTHON) is not; name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
