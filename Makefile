# Two commands do all the set-up on a fresh machine: make demo, make test. Running them again is quick.
# Variables: PYTHON (the interpreter to start from), VENV, DEMO (output folder), DIST,
# ARGS (further pytest arguments), WORKERS (test processes).

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo_output
DIST ?= dist
ARGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml $(shell find headclip_med workflows napari_plugin -type f -not -name '*.pyc')

# After `make test` the environment runs the working tree itself; before that, the demo runs an installed copy.
DEMO_INSTALLED := $(VENV)/$(if $(wildcard $(VENV)/test.stamp),test,demo).stamp

.PHONY: help demo test check wheel clean

help: ## show these lines
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1: \2/p' Makefile

demo: $(DEMO_INSTALLED) ## install, and find the lesion in an embedded volume with the embedded model (no network but for the install)
	$(BIN)/headclip-med demo --out $(DEMO)

test: $(VENV)/test.stamp ## install everything that the tests need, and run all tests
	@.ci/system-packages.sh
	@qt=; $(BIN)/python -c 'import PySide6.QtWidgets' 2>/dev/null || \
		{ echo 'Qt does not load here: the viewer tests will be skipped.'; qt='-p no:pytest-qt'; }; \
	set -x; OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $$qt $(ARGS)

check: $(VENV)/dev.stamp ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy napari_plugin workflows

wheel: $(VENV)/dev.stamp ## source archive, and the wheel built from it
	$(BIN)/python -m build --outdir $(DIST)

clean: ## remove everything that make made
	rm -rf $(VENV) $(DEMO) $(DIST) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/system-packages.sh python3-venv
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(SOURCES) | $(BIN)/python
	@rm -rf build # setuptools would install what an earlier build left there
	$(PIP) install .
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[test]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[dev]'
	@touch $@ $(VENV)/test.stamp
