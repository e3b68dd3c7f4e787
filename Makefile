# Two commands matter: `make run` (train the headline experiment) and `make test` (check everything).
# Nothing is needed but Python >= 3.11 and make.

PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c 'import sys; sys.exit(not ((3,11) <= sys.version_info < (3,14)))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install run test test-slurm check format docs wheel clean
help:                ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Invalid PYTHON=: expected Python 3.11, 3.12 or 3.13 on the PATH. Hint: make PYTHON=/path/to/python3.12 …" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	@touch $@

install: $(VENV)/.installed ## create .venv and install brainlab with its tested versions

run: install ## train and report the headline experiment (simulated data unless yours are configured)
	$(BIN)/brainlab experiment=eeg_fmri_align

test: install check ## everything: static checks, doctests, unit to end-to-end tests
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal

test-slurm: install ## the tests on a real SLURM of one node, which they start themselves (Debian packages, root)
	$(BIN)/python -m pytest -m slurm --durations=12 tests/slurm

check: install ## ruff, mypy, import rules, doctests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q -p no:cacheprovider --doctest-modules --import-mode=importlib src/brainlab

format: install ## rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install ## build the documentation into site/
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/mkdocs build --strict

wheel: install ## build sdist and wheel into dist/
	$(BIN)/python -m build

clean:               ## remove what the targets above made
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache
