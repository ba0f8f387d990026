# Everything runs from .venv, which is built, and brought up to date when requirements.lock or pyproject.toml changes.
PYTHON ?= python3
READY := .venv/.ready
BIN := .venv/bin

.PHONY: demo test up check lint types lock clean

demo: $(READY) ## teach a model the Fibonacci numbers; MODEL=org/name takes another one than the demo's own
	@$(BIN)/tunesmith demo $(if $(MODEL),--model "$(MODEL)")

test: $(READY)
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 20

up: $(READY) ## the whole service on http://127.0.0.1:8000 until Ctrl-C
	@$(BIN)/tunesmith up

check: lint types

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

lock: $(READY) ## pin the newest versions that pyproject.toml allows
	mkdir -p build
	$(BIN)/pip install --quiet --dry-run --ignore-installed --report build/lock.json ".[train,dev]"
	$(BIN)/python -c "$$PRINT_LOCK" build/lock.json > build/requirements.lock
	mv build/requirements.lock requirements.lock

clean: ## remove all that make built, .venv too
	rm -rf .venv build *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache unsloth_compiled_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed and $(PYTHON) is not; name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

define PRINT_LOCK
import json, sys
found = [item["metadata"] for item in json.load(open(sys.argv[1]))["install"]]
print("# Every package of a development environment, pinned; made by `make lock` from pyproject.toml.")
print(*sorted((f"{each['name']}=={each['version']}" for each in found if each["name"] != "tunesmith"), key=str.lower), sep="\n")
endef
export PRINT_LOCK
