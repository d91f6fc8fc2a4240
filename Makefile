# Set-up, training and checks. `make` alone lists the targets. Settings, given as `make TARGET NAME=value`:
#
#   PYTHON           the interpreter that makes .venv: Python 3.11 or newer (default: python3)
#   TORCH_INDEX_URL  the package index of another torch build, CPU or CUDA, as listed on
#                    https://pytorch.org/get-started/locally/ (default: empty, pip's own index)
#   ARGS             options for the training command, for example ARGS="--max_epochs 2"; of `label`, for the server
#   STUDIES          folder of images, or address of a DICOMweb service, that `label` serves (default: data/studies)

PYTHON ?= python3
TORCH_INDEX_URL ?=
ARGS ?=
STUDIES ?= data/studies

BIN := .venv/bin
export MLFLOW_DISABLE_TELEMETRY := true

READY := .venv/.ready
# MONAI Label has an environment of its own, see bundle/monailabel/requirements.txt.
LABEL_BIN := .venv-label/bin
LABEL_READY := .venv-label/.ready
LABEL_INSTALL := $(LABEL_BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
VOLUMES ?= ../shared/data/volumes
SERIES ?= ../shared/data/dicom/ibsi_nsclc_phantom_CT_RTSTRUCT/image
# Bytecode is written at first import instead: half the time of the installation goes into files that nobody imports.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help train test check bundle-check bundle label label-check clean

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

bundle: $(READY)  ## pack the bundle as a zip in dist/ and verify it there
	$(BIN)/python -m scripts.pack_bundle

label: $(LABEL_READY)  ## serve the images in STUDIES to 3D Slicer, on this machine only
	$(if $(filter http%,$(STUDIES)),,mkdir -p $(STUDIES))
	$(LABEL_BIN)/python -m bundle.monailabel --studies $(STUDIES) $(ARGS)

label-check: $(LABEL_READY)  ## play Slicer, attacks and load against a real server; VOLUMES and SERIES name the test images
	$(LABEL_BIN)/python -m scripts.play_slicer $(VOLUMES)
	$(LABEL_BIN)/python -m scripts.play_dicom --series $(SERIES)
	$(LABEL_BIN)/python -m scripts.attack_label $(VOLUMES)/abdomen_ct_image.nii.gz
	$(LABEL_BIN)/python -m scripts.load_label $(VOLUMES)/nsclc_ct_image.nii.gz

clean:  ## remove .venv and every cache; runs/ and data/ stay
	rm -rf .venv .venv-label build dist .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment for all targets, made again only when its recipe or the dependencies change. Another torch build goes
# in first and alone: its index does not carry the pinned versions of torch's own requirements.
$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv; on a new machine this takes some minutes."
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX_URL),$(INSTALL) --no-deps --index-url $(TORCH_INDEX_URL) torch)
	$(INSTALL) --editable ".[test]"
	@touch $@

$(LABEL_READY): pyproject.toml constraints.txt bundle/monailabel/requirements.txt
	@echo "Setting up .venv-label; on a new machine this takes some minutes."
	$(PYTHON) -m venv .venv-label
	$(if $(TORCH_INDEX_URL),$(LABEL_INSTALL) --no-deps --index-url $(TORCH_INDEX_URL) torch)
	$(LABEL_INSTALL) --editable . --requirement bundle/monailabel/requirements.txt
	$(LABEL_INSTALL) --no-deps monailabel==0.8.5
	@touch $@
