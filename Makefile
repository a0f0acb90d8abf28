# Every target does its own set-up: `make test` and `make book` work on a fresh clone.
#
#   PYTHON=python3.12        the interpreter that .venv is made with (3.11 or newer)
#   PIP_ARGS=...             more arguments for pip, say an index that has CPU-only builds of torch
#   PYTEST_ARGS="--slow"     more arguments for pytest
#   COMPUTE=missing          compute what the book shows and has no record (or fresh: all of it)
#   PROFILE=open             at another scale than each notebook's own; the studies of another one
#   BOOK_ARGS=--force        more arguments for book/build.py

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=
BOOK_ARGS ?=
# Parameters of the notebooks.
PARAMETERS = $(if $(COMPUTE),-p compute $(COMPUTE)) $(if $(PROFILE),-p profile $(PROFILE))

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# In a terminal pip shows how far it is; a log needs no progress bars.
PIP_QUIET := $(if $(CI),--quiet --progress-bar off)

.PHONY: help setup test book single-page pdf browser lab study verify check lint format-check imports types notebooks format clean distclean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) \
	  | while IFS='|' read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## Create .venv and install the locked requirements and this package

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is missing or older than Python 3.11: name a newer one, as in" \
	            "make PYTHON=python3.12" >&2; exit 1; }
	@# Where Python lacks ensurepip (Debian without python3-venv) a first try leaves one without pip.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 \
	  || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the locked requirements into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install $(PIP_QUIET) --disable-pip-version-check $(PIP_ARGS) -r requirements.lock
	@# The lock brings setuptools, so building the package in place needs nothing else.
	@$(BIN)/python -m pip install $(PIP_QUIET) --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m ipykernel install --sys-prefix --name python3 >/dev/null
	@touch $@

# Tests run side by side, a core each (PYTEST_ARGS="-n 0" runs them one after the other).
test: $(STAMP) ## Run the tests
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} \
	  $(BIN)/python -m pytest -q -n logical --maxprocesses 4 $(PYTEST_ARGS)

book: $(STAMP) ## Execute the notebooks and build the book in _build/html
	$(BIN)/python book/build.py $(PARAMETERS) $(BOOK_ARGS)

single-page: $(STAMP) ## Build the book as one page, _build/singlehtml/index.html
	$(BIN)/python book/build.py --single-page $(BOOK_ARGS)

pdf: $(STAMP) ## Print that page to _build/book.pdf, with a Chromium or Chrome of this machine
	$(BIN)/python book/build.py --pdf $(BOOK_ARGS)

# What is built is tested as it is, so that a look at it costs no build.
browser: $(STAMP) ## Test the built book in Chromium (builds it first if there is none)
	@test -n "$${UNLEARN_BOOK:-}" -o -f _build/html/index.html || $(MAKE) book
	$(BIN)/python -m pytest -q tests/test_browser.py --browser $(PYTEST_ARGS)

lab: $(STAMP) ## Train the lab's models again, from scratch
	$(BIN)/unlearn pretrain --profile lab
	$(BIN)/unlearn pretrain --profile stream --missing

# What is recorded is left; models of other seeds, which do not come with the project, are made first.
study: $(STAMP) ## Compute every study that has no record and publish it (hours; goes on where it stopped)
	$(BIN)/unlearn pretrain --profile $(or $(PROFILE),stream) --missing
	OMP_NUM_THREADS=1 $(BIN)/unlearn study --all --profile $(or $(PROFILE),stream) \
	  --workers $$(nproc 2>/dev/null || echo 1) --publish

verify: $(STAMP) ## Repeat ten published runs and compare every number (a few minutes)
	$(BIN)/unlearn verify --profile lab --sample 10 --seed 0

check: lint format-check imports types notebooks ## Check style, formatting, imports, types and notebooks

lint: $(STAMP)
	$(BIN)/ruff check .

format-check: $(STAMP)
	$(BIN)/ruff format --check .

imports: $(STAMP)
	$(BIN)/lint-imports --no-logo

types: $(STAMP)
	$(BIN)/mypy

notebooks: $(STAMP)
	$(BIN)/python tools/check_notebooks.py

format: $(STAMP) ## Format the code and sort its imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what was built, but not .venv
	rm -rf _build book/_run build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find unlearnlib tests book tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## Remove .venv as well
	rm -rf $(VENV)
