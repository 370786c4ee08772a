# `make serve` and `make test` are all a fresh machine needs: Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# What decides about the installed package: its metadata, and the native kernels it builds.
BUILD := pyproject.toml setup.py $(wildcard vllm_jax/kernels/cpu/native/*)

.PHONY: help serve test check format demo clean

help:
	@echo "make serve   install into .venv and serve the bundled demo model on http://localhost:8000"
	@echo "             (more flags: make serve ARGS='--port 8001 --max-num-seqs 8')"
	@echo "make test    install the test extra and run the whole test suite"
	@echo "make check   ruff and mypy"
	@echo "make demo    train the bundled demo model anew"

serve: $(VENV)/.serve
	$(BIN)/vllm-jax serve $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(VENV)/.train
	$(BIN)/python -m examples.demo_model.train vllm_jax/demo/mpt-demo-en-it

# Python is asked first, so that an old one ends in one line instead of in pip's middle.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "vllm-jax needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "Could not make $(VENV). On Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.serve: $(VENV)/bin/python $(BUILD)
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.test: $(VENV)/bin/python $(BUILD)
	$(BIN)/python -m pip install --quiet -e '.[test,train]'
	@touch $@ $(VENV)/.serve

$(VENV)/.train: $(VENV)/bin/python $(BUILD)
	$(BIN)/python -m pip install --quiet -e '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python $(BUILD)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info vllm_jax/kernels/cpu/*.so
