# Every target brings up what it needs; see `make help`.

CONFIG ?= ipu_configs/digits.yml
SET ?=
OUT ?=
REPRODUCE ?=
BENCHMARK ?=
BACKEND ?=
INSTANCES ?= 1
TESTS ?=
PYTHON ?= python3
# modules are compiled when first imported: compiling all of torch takes half a minute
PIP_FLAGS ?= --quiet --no-compile --disable-pip-version-check
# and kept, even where an image of a container has switched that off: else each process compiles torch
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
SDK_VENV := .venv-sdk
RUN := $(VENV)/bin/python

# With the Poplar SDK enabled, its own PopTorch wheel and the torch that belongs to it are installed.
SDK_WHEEL := $(if $(POPLAR_SDK_ENABLED),$(firstword $(wildcard $(POPLAR_SDK_ENABLED)/../poptorch-*.whl)))
SDK_MISSING := $(if $(POPLAR_SDK_ENABLED),$(if $(SDK_WHEEL),,yes))
CONSTRAINTS := $(if $(SDK_WHEEL),-c constraints-sdk.txt)

# The stamp's name says what was installed, so that enabling the SDK or changing PYTHON builds anew.
BUILT := $(VENV)/.built-$(notdir $(PYTHON))$(if $(SDK_WHEEL),-sdk)

OVERRIDES := $(foreach item,$(SET),--set '$(item)')
FLAGS := $(OVERRIDES) $(if $(OUT),--out '$(OUT)') $(if $(BACKEND),--backend $(BACKEND))

# Several instances need Horovod, which is built when it is first needed.
HOROVOD := $(BUILT)-horovod
SEVERAL := $(filter-out 1,$(INSTANCES))

.PHONY: help train horovod simulate plan test test-sdk lint benchmark benchmark-check reproduce clean

help:
	@echo "make train      train CONFIG (default $(CONFIG)); SET='a.b=v ...', OUT=DIR, BACKEND=ipu, INSTANCES=N"
	@echo "make horovod    build what INSTANCES=2 and more need, against the torch that is there (minutes, once)"
	@echo "make simulate   cost, memory and fit of CONFIG on its system; OUT=DIR for a page"
	@echo "make plan       splits, batching and use of memory for CONFIG on its system; OUT=FILE to train"
	@echo "make test       run the test suite with $(PYTHON); TESTS='-m \"not long\"', TESTS=tests/planner"
	@echo "make test-sdk   run it on the Poplar SDK's versions (Python 3.8, torch 2.0.1)"
	@echo "make lint       ruff and mypy"
	@echo "make benchmark  every figure of the articles on one page (under 20 minutes); OUT=DIR, BENCHMARK='--only training'"
	@echo "make benchmark-check   hold simulated figures to benchmarks/figures.json (minutes)"
	@echo "make reproduce  the paper's comparisons in miniature (under an hour); OUT=DIR, REPRODUCE='--quick'"
	@echo "make clean      remove the virtual environments"

train: $(BUILT) $(if $(SEVERAL),$(HOROVOD))
	$(RUN) -m app train --config '$(CONFIG)' $(FLAGS) $(if $(SEVERAL),--instances $(INSTANCES))

horovod: $(HOROVOD)

simulate: $(BUILT)
	$(RUN) -m app simulate --config '$(CONFIG)' $(OVERRIDES) $(if $(OUT),--report '$(OUT)')

plan: $(BUILT)
	$(RUN) -m app plan --config '$(CONFIG)' $(OVERRIDES) $(if $(OUT),--write '$(OUT)')

test: $(BUILT)-test
	$(RUN) -m pytest -n 2 --dist worksteal $(TESTS)

test-sdk: $(SDK_VENV)/.test
	$(SDK_VENV)/bin/python -m pytest -n 2 --dist worksteal $(TESTS)

lint: $(BUILT)-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# timm, which the CPU training step is compared with, comes with the test requirements
benchmark: $(BUILT)-test
	$(RUN) -m app benchmark $(if $(OUT),--out '$(OUT)') $(BENCHMARK)

benchmark-check: $(BUILT)
	$(RUN) -m app benchmark --fast --check --out $(or $(OUT),runs/benchmark-fast) $(BENCHMARK)

reproduce: $(BUILT)
	$(RUN) -m benchmarks.reproduce $(if $(OUT),--out '$(OUT)') $(REPRODUCE)

$(BUILT): requirements.txt constraints-sdk.txt
	$(if $(SDK_MISSING),$(error POPLAR_SDK_ENABLED is set, but no poptorch wheel lies beside it; unset it to use the IPU Model))
	@echo "building $(VENV) (torch's default wheel brings several GB; this takes minutes once)"
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install $(PIP_FLAGS) $(SDK_WHEEL) -r requirements.txt $(CONSTRAINTS)
	@touch $@

$(BUILT)-test: $(BUILT) requirements-test.txt
	$(RUN) -m pip install $(PIP_FLAGS) -r requirements-test.txt $(CONSTRAINTS)
	@touch $@

# Where several Pythons are managed by pyenv, 3.8 may be there without a command of that name.
$(SDK_VENV)/.test: requirements.txt requirements-test.txt requirements-sdk.txt constraints-sdk.txt
	@python38=$$(PYENV_VERSION=$$(pyenv latest 3.8 2>/dev/null) command -v python3.8); \
	PYENV_VERSION=$$(pyenv latest 3.8 2>/dev/null) "$${python38:-python3.8}" -m venv $(SDK_VENV) \
	  || { echo "make test-sdk: Python 3.8 is not installed; install it (pyenv install 3.8)"; exit 2; }
	$(SDK_VENV)/bin/python -m pip install $(PIP_FLAGS) -r requirements-sdk.txt
	@touch $@

$(HOROVOD): $(BUILT) requirements-horovod.txt tools/build-horovod tools/horovod-cmake
	tools/build-horovod $(RUN)
	@touch $@

clean:
	rm -rf $(VENV) $(SDK_VENV)
