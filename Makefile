# `make demo`, `make test`, `make bench` and `make chaos` need nothing but python3 and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test bench bench-quick chaos check fix clean

help: ## Show what can be made
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

demo: $(STAMP) ## Charge a thousand users on an embedded Valkey and SQLite, and prove the sums
	@$(BIN)/credits-fast demo

test: $(STAMP) ## Run all tests, on a real Valkey and a real PostgreSQL from wheels
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

bench: $(STAMP) ## Measure everything beside its baselines, in less than ten minutes
	@$(BIN)/credits-fast bench --json benchmark.json --html benchmark.html

bench-quick: $(STAMP) ## Measure a little of it, in less than a minute
	@$(BIN)/credits-fast bench --set quick --json benchmark.json --html benchmark.html

chaos: $(STAMP) ## Break real servers under load in every way there is a scenario for, and judge what is left
	@$(BIN)/credits-fast chaos --json chaos.json

check: $(STAMP) ## Lint, format, types and layers: what CI runs before the tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pyright
	@$(BIN)/lint-imports

fix: $(STAMP) ## Mend what the linter and the formatter can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Remove what was made, the environment included
	rm -rf $(VENV) dist build .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(STAMP): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	    uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) \
	    && uv pip install --quiet --python $(BIN)/python -e '.[dev]'; \
	elif $(PYTHON) -m venv $(VENV) 2>/dev/null; then \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	else \
	    echo "python3 has no venv module: install your system's python3-venv, or uv" >&2; exit 1; \
	fi
	@touch $@
