# Each target does its own set-up in .venv. Python 3.11 or newer and pip are all it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help quickstart test quality clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: .venv/installed  ## Fine-tune a real model both ways on real articles and print one table
	$(BIN)/python recipes/quickstart.py

test: .venv/installed  ## Run the tests
	$(BIN)/python -m pytest

quality: .venv/installed  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## Remove the environment; cached models, data and runs stay
	rm -rf .venv

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[quickstart,test,quality]'
	touch $@
