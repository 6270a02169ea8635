# `make demo` shows the farm at work, `make test` tests it, `make proof` breaks it for half an hour and audits it.
# `make up` / `make down` to stay.
SHELL := /bin/bash
PYTHON ?= $(shell for v in 3.11 3.12 3.13; do command -v python$$v && break; done)
VENV := .venv
BIN := $(VENV)/bin
FARM := $(BIN)/farm
# Processes of the test run; more than two cores, for whole farms wait more than they compute. A module stays in one,
# with the farm that its tests share.
JOBS ?= 3

SEED ?= 1

.PHONY: demo test proof test-sparse-attention lint up up-servers down clean

demo: $(VENV)/.server
	@$(FARM) demo

up: $(VENV)/.server
	@$(FARM) up --background

# The same beside a Postgres and a SeaweedFS of its own; `make down` stops all of it.
up-servers: $(VENV)/.tryout
	@$(FARM) up --with-servers --background

down: $(VENV)/.server
	@$(FARM) down

test: $(VENV)/.dev
	@$(BIN)/python -m tests.house.packages
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Random histories of the job protocol, faults at every statement, processes killed under load. SEED=7: other dice.
proof: $(VENV)/.dev
	@$(BIN)/python -m tests.chaos.proof --seed $(SEED)

test-sparse-attention: $(VENV)/.server
	@$(BIN)/python -m kernels.selftest

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --level error

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "turbofarm needs Python 3.11, 3.12 or 3.13: install one, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "python's venv module is missing: on Debian, apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.server: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV): about 2 GB, a minute or two"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[server,gpu]"
	@touch $@

$(VENV)/.tryout: pyproject.toml $(VENV)/.server
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[server,gpu,tryout]"
	@touch $@

# All in one: a second installation would look everything up again.
$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV): about 2 GB, a minute or two"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[server,gpu,dev]"
	@touch $(VENV)/.server $@

clean:
	@rm -rf $(VENV) demo-out .pytest_cache .ruff_cache
