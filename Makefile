# Every target brings up what it needs; see `make help`.

CONFIG ?= ipu_configs/digits.yml
SET ?=
OUT ?=
PYTHON ?= python3
# PyPI's wheels are compiled on first import only: compiling all of torch costs half a minute
PIP_FLAGS ?= --quiet --no-compile --disable-pip-version-check

VENV := .venv
SDK_VENV := .venv-sdk
RUN := $(VENV)/bin/python

# With the Poplar SDK enabled, its own PopTorch wheel and the torch that belongs to it come first.
SDK_WHEEL := $(if $(POPLAR_SDK_ENABLED),$(firstword $(wildcard $(POPLAR_SDK_ENABLED)/../poptorch-*.whl)))

OVERRIDES := $(foreach item,$(SET),--set '$(item)')
OUT_FLAG := $(if $(OUT),--out '$(OUT)')

.PHONY: help train test test-sdk lint benchmark-step clean

help:
	@echo "make train      train CONFIG (default $(CONFIG)); SET='a.b=v ...' overrides, OUT=DIR"
	@echo "make test       run the test suite with $(PYTHON)"
	@echo "make test-sdk   run it on the Poplar SDK's versions (Python 3.8, torch 2.0.1)"
	@echo "make lint       ruff and mypy"
	@echo "make benchmark-step   measure the CPU training step against timm"
	@echo "make clean      remove the virtual environments"

train: $(VENV)/.train
	$(RUN) -m app train --config $(CONFIG) $(OVERRIDES) $(OUT_FLAG)

test: $(VENV)/.test
	$(RUN) -m pytest -n 2 --dist worksteal

test-sdk: $(SDK_VENV)/.test
	$(SDK_VENV)/bin/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

benchmark-step: $(VENV)/.test
	$(RUN) -m benchmarks.training_step

$(VENV)/.train: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(if $(SDK_WHEEL),$(RUN) -m pip install $(PIP_FLAGS) $(SDK_WHEEL))
	$(RUN) -m pip install $(PIP_FLAGS) -r requirements.txt
	@touch $@

$(VENV)/.test: $(VENV)/.train requirements-test.txt
	$(RUN) -m pip install $(PIP_FLAGS) -r requirements-test.txt
	@touch $@

# Where several Pythons are managed by pyenv, 3.8 may be there without a command of that name.
$(SDK_VENV)/.test: requirements.txt requirements-test.txt requirements-sdk.txt
	@python38=$$(PYENV_VERSION=$$(pyenv latest 3.8 2>/dev/null) command -v python3.8); \
	PYENV_VERSION=$$(pyenv latest 3.8 2>/dev/null) "$${python38:-python3.8}" -m venv $(SDK_VENV) \
	  || { echo "make test-sdk: Python 3.8 is not installed; install it (pyenv install 3.8)"; exit 2; }
	$(SDK_VENV)/bin/python -m pip install $(PIP_FLAGS) -r requirements-sdk.txt
	@touch $@

clean:
	rm -rf $(VENV) $(SDK_VENV)
