# `make demo` and `make test` do all the set-up themselves; they need Python 3.11 or 3.12, make and a network.
.DEFAULT_GOAL := help
.PHONY: help demo test faults chaos compose-test check format parity clean
SHELL := /bin/bash

# The first Python that is 3.11 or 3.12 and can make virtual environments. PYTHON=... names another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

demo: .venv/installed ## Judge the sample pairs with the shipped model, end to end
	@$(BIN)/caption-audit demo

# Most tests wait for real processes: three at a time take half as long, also on two cores.
TEST_JOBS ?= 3
test: .venv/installed-dev ## Run the tests
	@$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile

# One after the other: two that kill processes at a time would measure each other.
FAULTS_LOG ?= var/faults.jsonl
faults: .venv/installed-dev ## Run every fault test, also those of minutes, and note how soon work went on
	@mkdir -p "$(dir $(FAULTS_LOG))" && rm -f "$(FAULTS_LOG)"
	@FAULTS_LOG="$(abspath $(FAULTS_LOG))" $(BIN)/python -m pytest tests/faults -m "long or not long"

# CHAOS_SEED=N repeats a run, CHAOS_PAIRS=N makes it shorter or longer, CHAOS_OPTIONS="--database sqlite --json FILE" and so on.
chaos: .venv/installed-dev ## Judge 100,000 pairs while 200 faults fall, and check every outcome
	@$(BIN)/python -m tests.chaos $(if $(CHAOS_SEED),--seed $(CHAOS_SEED)) $(if $(CHAOS_PAIRS),--pairs $(CHAOS_PAIRS)) $(CHAOS_OPTIONS)

# Another command that understands docker-compose.yml: make compose-test COMPOSE="podman-compose"
COMPOSE ?= docker compose
compose-test: ## Build and start docker-compose.yml, hurt it, count, take it down
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; name one with: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) -m tests.compose --compose "$(COMPOSE)"

check: .venv/installed-dev ## Lint, format, types, arrows, generated docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m ops.settings_table --check README.md README.zh.md
	$(BIN)/python -m ops.command_reference --check docs/commands.md

format: .venv/installed-dev ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

parity: .venv/installed ## Compare the engine with modelscope's own pipeline
	@$(BIN)/python -m parity

clean: ## Remove what make has installed; AUDIT_HOME (./var) stays
	rm -rf .venv .venv-parity *.egg-info .mypy_cache .ruff_cache .pytest_cache

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 with venv is needed; name one with: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv .venv

.venv/installed: requirements.lock pyproject.toml | .venv/bin/python
	@echo "Installing the pinned requirements into .venv (about 1.5 GB, once) ..."
	@$(BIN)/pip install --quiet --requirement requirements.lock
	@$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

.venv/installed-dev: requirements-dev.lock .venv/installed
	@echo "Installing what the tests need ..."
	@$(BIN)/pip install --quiet --requirement requirements-dev.lock
	@touch $@
