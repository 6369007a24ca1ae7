# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-full lint types check bench clean

help:
	@echo "make demo    install into .venv and run the exporter on a made-up estate"
	@echo "make test    install what the tests need and run them"
	@echo "make check   lint, types and tests"
	@echo "make bench   the benchmarks, as ratios against peers (not part of the tests)"

$(VENV)/made:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or later, or say PYTHON=python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: say PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: on Debian install python3-venv"; exit 1; }
	@touch $@

# The stamps hold what was asked for, so that a second run needs no network.
$(VENV)/installed: $(VENV)/made pyproject.toml
	$(PIP) install --quiet --editable '.[fast,auth]'
	@touch $@

$(VENV)/dev-installed: $(VENV)/installed pyproject.toml tests/requirements.txt
	$(PIP) install --quiet --requirement tests/requirements.txt
	@touch $@

demo: $(VENV)/installed
	$(BIN)/ssis-exporter demo

test: $(VENV)/dev-installed
	$(BIN)/python -m pytest

lint: $(VENV)/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev-installed
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) build dist *.egg-info
