# One environment, .venv; every target makes it first. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
HOST ?= 127.0.0.1
PORT ?= 8000
# Processes of the tests; each takes up to 3 GB.
JOBS ?= 2

.PHONY: help install serve test scale-tools test-scale check fix conformance

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install: .venv/installed  ## Make .venv with everything, serve nothing

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

serve: install  ## Pull the default models if need be, and serve on HOST:PORT
	$(BIN)/t2l serve --host $(HOST) --port $(PORT)

# One thread each: the models of most tests are tiny, and spinning threads cost more than they give.
# A file's tests share what they set up, so they stay in one process.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: install  ## Run all tests
	$(PYTEST) -m "not scale"

scale-tools: install  ## nginx by apt where it is missing, and vLLM in an environment of its own (3.5 GB)
	command -v nginx || test -x /usr/sbin/nginx || \
		(apt-get update -qq && apt-get install -y -qq --no-install-recommends nginx-light)
	$(BIN)/python -m tests.scale.servers

test-scale: install  ## A fleet on this machine: vLLM with the plugin, routers, nginx, PostgreSQL, S3
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m scale tests/scale

check: install  ## The gate: format, lint, types, imports, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

fix: install  ## Format, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

conformance: install  ## Generated requests for every operation of our OpenAPI, many of them
	$(BIN)/python tests/conformance/api.py --examples 200
