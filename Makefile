# Two commands set everything up: `make demo` and `make test`. Both need the network once, and never again.
VENV ?= .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check --quiet

# The first Python on the PATH that is new enough; `make PYTHON=/path/to/python3.12 test` takes another.
ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	"$$python" -c '$(ENOUGH)' >/dev/null 2>&1 && { echo "$$python"; break; }; done)

NO_NETWORK := echo "make: pip could not install what is needed, see above; the first run needs a package index" >&2; exit 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-full lint types check bench picture generated lock clean

help:
	@echo "make demo       install into $(VENV) and run the exporter on a made-up estate"
	@echo "make test       install what the tests need and run them"
	@echo "make test-full  the same with every test at its full size (long)"
	@echo "make check      lint, types and tests"
	@echo "make bench      the benchmarks, as ratios against peers"
	@echo "make picture    the picture of the landing page in docs/ (needs chromium)"
	@echo "make generated  dashboards, the table of metrics, the JSON Schema: what is made from the code"
	@echo "make lock       requirements.lock, from which the container image is built"
	@echo "make clean      remove what was installed and built"

# A stamp says what was installed from these files, so that a second run needs no network.
$(VENV)/made:
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or later is missing; install it, or say PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c '$(ENOUGH)' 2>/dev/null || { echo "make: $(PYTHON) is missing or older than 3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON) ..."
	@# Whoever ends it by Ctrl-C need not read where Python was just then.
	@told=$$("$(PYTHON)" -m venv "$(VENV)" 2>&1) || { printf '%s\n' "$$told" >&2; exit 1; }
	@touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml
	@echo "Installing into $(VENV) (a minute at most where the network is quick) ..."
	@$(PIP) install --editable . || { $(NO_NETWORK); }
	@touch $@

$(VENV)/dev-installed: $(VENV)/installed tests/requirements.txt
	@echo "Installing what the tests need ..."
	@$(PIP) install --editable '.[fast,auth,catalog]' --requirement tests/requirements.txt || { $(NO_NETWORK); }
	@touch $@

demo: $(VENV)/installed
	@$(BIN)/ssis-exporter demo $(ARGS) || { code=$$?; \
	test $$code -ne 3 || echo "make: another port is taken by: make demo ARGS=--web.listen-address=127.0.0.1:20058" >&2; \
	exit $$code; }

test: $(VENV)/dev-installed
	@$(BIN)/python -m pytest $(ARGS)

test-full: $(VENV)/dev-installed
	@SSIS_EXPORTER_FULL=1 $(BIN)/python -m pytest --timeout=3600 $(ARGS)

lint: $(VENV)/dev-installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/dev-installed
	@$(BIN)/mypy

check: lint types test

bench: $(VENV)/dev-installed
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

picture: $(VENV)/installed
	@$(BIN)/python docs/make_picture.py

generated: $(VENV)/installed
	@$(BIN)/python -m dashboards.generate
	@$(BIN)/python docs/make_metrics.py
	@$(BIN)/python -m ssis_exporter.configschema > build.schema.json && mv build.schema.json docs/config.schema.json

# Resolved by the Python of the image (see Dockerfile), with the hash of every file: another file under the same version
# is refused.
LOCK_PYTHON ?= python3.13
LOCK := build/lock/bin/python -m piptools compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-header \
	--no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --upgrade

lock:
	$(LOCK_PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet pip-tools
	$(LOCK) --extra fast --extra auth --extra catalog --output-file requirements.lock pyproject.toml
	$(LOCK) --all-build-deps --only-build-deps --output-file requirements-build.lock pyproject.toml

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
