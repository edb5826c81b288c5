# Everything from a fresh checkout: each target sets up what it needs, and is quick the second time.
.DEFAULT_GOAL := help
.PHONY: help setup demo studio test test-slow lint format docs notebooks bench bench-check lock clean

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Make .venv with everything that is pinned in requirements/.

$(READY): requirements/dev.txt requirements/no-deps.txt requirements/rabbitmq.sh pyproject.toml
	@PYTHON=$(PYTHON) sh requirements/setup.sh
	@touch $@

demo: $(READY)  ## Run the main job: real molecules, a real local LLM (or URL=...), a LangGraph graph.
	@$(BIN)/python -m examples.molecules.demo $(if $(URL),--url $(URL))

studio: $(READY)  ## Serve the molecules example to LangGraph Studio (URL=... of a model).
	@cd examples/molecules && $(if $(URL),LLM_URL=$(URL)) $(CURDIR)/$(BIN)/langgraph dev --n-jobs-per-worker 8

test: $(READY)  ## Run the test suite, with coverage.
	$(BIN)/python -m pytest README.md docs # by themselves: the snippets of a page follow one another
	$(BIN)/python -m pytest tests -n 2 -m "not slow" --cov --cov-report=term:skip-covered

test-slow: $(READY)  ## Run what does not fit into 20 minutes: many kills, a million items.
	$(BIN)/python -m pytest -m slow --timeout 1800

lint: $(READY)  ## Check style, types, imports between rooms, and dependencies.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

format: $(READY)  ## Put the code into the one style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## Build the documentation into site/.
	$(BIN)/zensical build --clean --strict

notebooks: $(READY)  ## Execute the notebooks for real; writes notebooks/*.ipynb.
	@$(BIN)/python -m notebooks.execute

bench: $(READY)  ## Run all benchmarks in full; writes docs/benchmarks.md.
	$(BIN)/python -m benchmarks

bench-check: $(READY)  ## Run all benchmarks small; fails when a ratio misses its bar by over 30 %.
	$(BIN)/python -m benchmarks --check

lock: $(READY)  ## Pin the newest versions that pyproject.toml allows.
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --upgrade --quiet --output-file requirements/dev.txt
	$(BIN)/uv pip compile requirements/peers.in --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --upgrade --quiet --output-file requirements/peers.txt

clean:  ## Remove what the targets made.
	rm -rf .venv .venv-peers .coverage .coverage.* .mypy_cache .ruff_cache .hypothesis .import_linter_cache site dist
