# Every command but the maintainers' is also `python -m fer_core …`. Variables: DATA NAME DEVICE JOBS OUT SET PYTHON,
# ENGINE ADDRESS GPUS_PER_RUN (many machines), PRICE (plan).
.DEFAULT_GOAL := help
SHELL := /bin/sh

export FER_DATA := $(or $(DATA),$(FER_DATA))
# WSL has a NAME in its environment, the machine's.
export FER_NAME := $(or $(if $(filter command,$(firstword $(origin NAME))),$(NAME)),$(FER_NAME))
export FER_DEVICE := $(or $(DEVICE),$(FER_DEVICE))
export FER_JOBS := $(or $(JOBS),$(FER_JOBS))
export FER_OUT := $(or $(OUT),$(FER_OUT))
export FER_SET := $(or $(SET),$(FER_SET))
export FER_ENGINE := $(or $(ENGINE),$(FER_ENGINE))
export FER_ADDRESS := $(or $(ADDRESS),$(FER_ADDRESS))
export FER_GPUS_PER_RUN := $(or $(GPUS_PER_RUN),$(FER_GPUS_PER_RUN))
export FER_PRICE := $(or $(PRICE),$(FER_PRICE))
export FER_IMAGES := $(value IMAGES)
export FER_MODEL := $(or $(MODEL),$(FER_MODEL))
export FER_NO_DETECT := $(or $(NO_DETECT),$(FER_NO_DETECT))

# The environment is known by its lock's content, not by time stamps. PYTHON= takes an interpreter as it is.
LOCK := $(firstword $(shell cksum requirements.lock))
ifdef PYTHON
  RUN := $(PYTHON)
  ENVIRONMENT :=
else
  RUN := .venv/bin/python
  ENVIRONMENT := .venv/lock-$(LOCK)
endif
# `make report PAGE=…`; RUN= on the command line means the page too.
ifeq ($(origin RUN),command line)
  PAGE := $(RUN)
  override RUN := $(or $(PYTHON),.venv/bin/python)
endif

.PHONY: help all-reports report plan predict compare reproduce publish import sweep wandb-sync test test-slow data lab clean \
  bench lint lock FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  DATA= your FER2013 (any form; unset: the drawn sample)  NAME= folder under reports/  SET=\"epochs=2\""
	@echo "  DEVICE= auto|cpu|cuda  JOBS= side by side  OUT= where reports and runs go  PYTHON= an interpreter as it is"
	@echo "  ENGINE= ray|slurm  ADDRESS= its head  GPUS_PER_RUN= 0.25  PRICE= of a core's or GPU's hour, for plan"

all-reports: $(ENVIRONMENT) ## make every page that is not current, and the index
	@$(RUN) -m fer_core all-reports

report: $(ENVIRONMENT) ## make one page: PAGE=04_complex_cnn/default
	@$(RUN) -m fer_core report $(PAGE)

# A page by its file: make reports/sample/04_complex_cnn/default.html
reports/%.html: FORCE $(ENVIRONMENT)
	@FER_NAME=$(firstword $(subst /, ,$*)) $(RUN) -m fer_core $(if $(filter %/index,$*),all-reports,report $(*:$(firstword $(subst /, ,$*))/%=%))

plan: $(ENVIRONMENT) ## what is current, what would run and why; runs nothing
	@$(RUN) -m fer_core plan $(PAGE)

compare: $(ENVIRONMENT) ## a page that sets runs side by side: PAGES="02_batch_norm/default 03_dropout/default"
	@$(RUN) -m fer_core compare $(PAGES)

sweep: $(ENVIRONMENT) ## try ranges of parameters, deciding on validation: SWEEP=complex_cnn_rate_dropout
	@$(RUN) -m fer_core sweep $(SWEEP)

wandb-sync: $(ENVIRONMENT) ## send what was logged offline to your wandb server (DRY_RUN=1: only list it)
	@$(RUN) -m fer_core wandb-sync $(if $(DRY_RUN),--dry-run)

data: $(ENVIRONMENT) ## download FER2013 from Kaggle (a public data set, no account)
	@$(RUN) -m fer_core data

reproduce: $(ENVIRONMENT) ## train a page afresh and compare with what stands: PAGE=04_complex_cnn/default
	@$(RUN) -m fer_core reproduce $(PAGE)

publish: $(ENVIRONMENT) ## the study on real data for others to read, into reports/published/: single faces withheld
	@$(RUN) -m fer_core publish

import: $(ENVIRONMENT) ## take in finished runs from another machine: FROM=folder
	@$(RUN) -m fer_core import "$(FROM)"

predict: $(ENVIRONMENT) ## the network's answer for your pictures: IMAGES=photo.jpg, a folder or Kaggle's test.csv
	@$(RUN) -m fer_core predict

lab: $(ENVIRONMENT) ## open the notebooks in JupyterLab
	@$(RUN) -m fer_core lab

clean: $(ENVIRONMENT) ## remove reports and runs, naming their size first
	@$(RUN) -m fer_core clean

test: $(ENVIRONMENT) ## run the tests (some minutes)
	@$(RUN) -m pytest

# ---- for maintainers
test-slow: $(ENVIRONMENT) ## the slow tests: kills, browser, clones
	@$(RUN) -m pytest -m slow

bench: $(ENVIRONMENT) ## this engine against the loop people write today; reading FER2013 against torchvision's
	@$(RUN) -m benchmarks.engine
	@$(RUN) -m benchmarks.data_reading $(if $(FER_DATA),"$(FER_DATA)")

lint: $(ENVIRONMENT) ## style and types
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m mypy

lock: $(ENVIRONMENT) ## resolve requirements.lock anew from pyproject.toml
	@$(RUN) -m uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header -q -o requirements.lock

.venv/lock-$(LOCK):
	@echo "making .venv from requirements.lock (a few minutes, once)"
	@test -x .venv/bin/python || python3 -m venv .venv
	@.venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { rm -r .venv; echo "python3 is older than 3.11 here: put a newer one first in PATH" >&2; exit 1; }
	@.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@.venv/bin/python -c "import pathlib, site; pathlib.Path(site.getsitepackages()[0], 'fer_core.pth').write_text(str(pathlib.Path.cwd()))"
	@rm -f .venv/lock-* && touch $@
