# make demo   one command from a fresh clone to a report
# make help   the others
#
# Variables: PYTHON (3.11 or newer), OUT (where the demo writes), TORCH_INDEX (a package index for torch,
# such as https://download.pytorch.org/whl/cpu: the usual Linux wheel brings CUDA, which is large).

# The first that runs and is new enough; that a name is on the PATH does not say that it works.
NEW_ENOUGH := 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	$$name -c $(NEW_ENOUGH) 2>/dev/null && { echo $$name; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
TORCH_INDEX ?=
TORCH := torch==2.13.0

# Compiling every installed module to bytecode takes twice as long as the whole rest of the
# installation; Python compiles the few modules that are used when it first imports them.
PIP_INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check --prefer-binary \
	--no-compile -c constraints.txt

# For the same reason that bytecode must be kept, whatever the caller's environment says.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH

BASE := $(VENV)/.base
DEV := $(VENV)/.dev
DOCS := $(VENV)/.docs

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types format docs docs-table clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamps: what is installed stays installed until the requirements change.
$(BASE): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c $(NEW_ENOUGH) || \
		{ echo "arra needs Python 3.11 or newer; name one: make demo PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "installing into $(VENV): about a minute where the packages are near" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
	@$(PIP_INSTALL) -e .
	@touch $@

$(DEV): $(BASE)
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@

$(DOCS): $(BASE)
	@$(PIP_INSTALL) -e '.[docs]'
	@touch $@

install: $(BASE)  ## make .venv with what arra needs to run

demo: $(BASE)  ## train a model to draw, with and without alignment, and write a report
	@$(BIN)/arra demo --out $(OUT)

test: $(DEV)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(DEV)  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)  ## check types
	$(BIN)/mypy

format: $(DEV)  ## rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The variable silences a note on the theme's successor, which would look like a warning of ours.
docs: $(DOCS)  ## write the site of the documentation to site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-table: $(BASE)  ## write the tables of docs/ from the committed results
	$(BIN)/python -m arra.systems.table --write docs/systems.md
	$(BIN)/python -m arra.experiments.corpora.page docs/corpora.md
	$(BIN)/python -m arra.experiments.speed.page docs/speed.md
	$(BIN)/python -m arra.systems.arra.ablation

clean:  ## remove the environment, caches and builds; runs/ stays
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
