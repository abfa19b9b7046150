# make reproduce and make test each set up what they need. Setting up takes minutes once, nothing afterwards.
#
#   make test
#   make reproduce SCALE=small ONLY=00,01
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu     (the small CPU build: PyPI's Linux build carries CUDA)

SCALE ?= smoke
SCALES := $(basename $(notdir $(wildcard dbyte/scales/*.toml)))
ONLY ?=
SEED ?= 0
# Small models gain little from two threads: at smoke two notebooks run at a time, a thread each.
JOBS ?= $(if $(filter smoke,$(SCALE)),2,1)
PYTHON ?= python3
TORCH_INDEX ?=
PROCESSES ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The pin lives in pyproject.toml alone; 'torch==' opens one line there.
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

.PHONY: help setup reproduce test test-all test-slow lint notebooks clean
.DEFAULT_GOAL := help

help:
	@echo "make reproduce [SCALE=$(SCALE)] [ONLY=01,02] [SEED=0] [JOBS=1]   run the notebooks: results/, figures/"
	@echo "make test        run the tests but the slow ones"
	@echo "make test-all    run all tests, those marked \`exhaustive\` too"
	@echo "make test-slow   run those marked \`exhaustive\` alone"
	@echo "make lint        check the style"
	@echo "make notebooks   write the .ipynb next to each percent script; unchanged cells keep their outputs"
	@echo "make setup       only make the virtual environment $(VENV)"
	@echo "make clean       remove $(VENV) and caches; runs/ (trained models), results/ and figures/ stay"
	@echo "Scales: $(SCALES), or a file of your own: SCALE=my_run.toml"
	@echo "Variables: PYTHON=$(PYTHON)  TORCH_INDEX=<index of another torch build>  PROCESSES=$(PROCESSES) of the tests"

# Written last, removed first: a setup that was interrupted is made again from nothing, one that is outdated is updated.
# pip compiles nothing: of 19,000 files, 310 MB of source, Python compiles those that it imports when it first does.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
	  echo "dbyte needs Python 3.11 or 3.12; '$(PYTHON)' is not: name one, for example 'make setup PYTHON=python3.12'." >&2; \
	  exit 1; }
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed: install the venv module (Debian, Ubuntu: apt-get install python3-venv)," >&2; \
	  echo "or install into an environment of your own: pip install $(TORCH) && pip install -e '.[dev]'." >&2; \
	  rm -rf $(VENV); exit 1; }
	@rm -f $@
	$(BIN)/python -m pip install --no-compile $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP)

reproduce: $(STAMP)
	$(BIN)/python -m dbyte reproduce --scale $(SCALE) --seed $(SEED) --jobs $(JOBS) $(if $(ONLY),--only $(ONLY))

# Two processes of one thread each are faster than one of two threads: most tensors of the tests are small.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile

test: $(STAMP)
	$(PYTEST)

test-all: $(STAMP)
	$(PYTEST) -m ""

test-slow: $(STAMP)
	$(PYTEST) -m exhaustive

lint: $(STAMP)
	$(BIN)/python -m ruff check .

notebooks: $(STAMP)
	$(BIN)/python -m dbyte notebooks --write

clean:
	rm -rf $(VENV) build dist dbyte.egg-info .pytest_cache .ruff_cache
	find dbyte dbyte_paper dbyte_tasks tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
