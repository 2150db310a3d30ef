# Each target does its own set-up in .venv. Python 3.11 or newer and pip are all it needs.
PYTHON ?= python3
BIN := .venv/bin
# A process a core, each with one thread; a file stays in one process, for what its tests share
PYTEST := -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: help quickstart test test-slow test-minimum mutation coverage quality dist clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: .venv/installed  ## Fine-tune a real model both ways on real articles and print one table
	$(BIN)/python recipes/quickstart.py

test: .venv/installed  ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

test-slow: .venv/installed  ## Run what takes about an hour: kills at random moments, mutation testing, lowest versions
	$(BIN)/python -m pytest -m slow
	$(MAKE) mutation test-minimum

test-minimum: .venv-minimum/installed  ## Run the tests with the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 .venv-minimum/bin/python $(PYTEST)

mutation: .venv/installed  ## Change the code in small ways and see whether tests notice; fails below 85 %
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2
	$(BIN)/python tests/mutation_score.py

coverage: .venv/installed  ## Run the tests and print what they cover; fails below 95 % of lines and branches
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) --cov=hf_causal_clf --cov-branch --cov-report=term-missing --cov-fail-under=95

quality: .venv/installed  ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dist: .venv/installed  ## Build the sdist and the wheel in dist/, and check them
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:  ## Remove the environment; cached models, data and runs stay
	rm -rf .venv .venv-minimum

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[quickstart,test,quality]'
	touch $@

.venv-minimum/installed: pyproject.toml tests/minimum_versions.py
	$(PYTHON) -m venv .venv-minimum
	$(PYTHON) tests/minimum_versions.py > .venv-minimum/constraints.txt
	.venv-minimum/bin/python -m pip install --quiet --constraint .venv-minimum/constraints.txt --editable '.[test]'
	touch $@
