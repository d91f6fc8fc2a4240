# Set-up, training and checks. `make` alone lists the targets. Settings, given as `make TARGET NAME=value`:
#
#   PYTHON           the interpreter that makes .venv: Python 3.11 or newer (default: python3)
#   TORCH_INDEX_URL  the package index of another torch build, CPU or CUDA, as listed on
#                    https://pytorch.org/get-started/locally/ (default: empty, pip's own index)
#   ARGS             options for the training command, for example ARGS="--max_epochs 2"

PYTHON ?= python3
TORCH_INDEX_URL ?=
ARGS ?=

BIN := .venv/bin
export MLFLOW_DISABLE_TELEMETRY := true

READY := .venv/.ready
# Bytecode is written at first import instead: half the time of the installation goes into files that nobody imports.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help train test check bundle-check clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

train: $(READY)  ## train the tiny model on generated phantoms (options in ARGS)
	$(BIN)/python -m monai.bundle run training --config_file configs/train.json $(ARGS)

test: $(READY)  ## run every test that needs no GPU and no large weights
	$(BIN)/python -m pytest -q tests

check: $(READY)  ## formatting, lint, types and the repository's own rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy prsmed
	$(BIN)/python -m pytest -q tests/rules

bundle-check: $(READY)  ## verify metadata.json and the configs against the MONAI bundle specification, offline
	$(BIN)/python scripts/check_bundle.py

clean:  ## remove .venv and every cache; runs/ and data/ stay
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment for all targets, made again only when its recipe or the dependencies change. Another torch build goes
# in first and alone: its index does not carry the pinned versions of torch's own requirements.
$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv; on a new machine this takes some minutes."
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX_URL),$(INSTALL) --no-deps --index-url $(TORCH_INDEX_URL) torch)
	$(INSTALL) --editable ".[test]"
	@touch $@
