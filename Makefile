# Two commands do everything on a machine with Python 3.11+ and make:
#   make quickstart   write a small recipe into quickstart/, and build it with a fresh .venv
#   make test         lint, types, schemas, documentation and tests, in ten minutes on two cores
# and for those who change it:
#   make test-all     the same with all tests, in about 40 minutes
#   make test-python  the tests of core and cli with another Python: make test-python PYTHON=python3.13
#   make docs         the documentation as a site, in build/site
# and on a machine with a GPU:
#   make gpu-check    what finery does on GPUs, in at most 10 minutes, without a network
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Some containers set it; every command would then compile finery's modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test test-all test-python checks lint types types-here definitions schemas docs pytest pytest-all pytest-all-real format bench quality gpu-check gpu-wheels clean

quickstart:
	@test -e $(VENV)/.installed-baseline,gguf || echo "installing finery into $(VENV): 1.5 GB, about a minute"
	@$(MAKE) --no-print-directory $(VENV)/.installed-baseline,gguf
	test -e quickstart/recipe.yaml || $(BIN)/finery init quickstart --task classification
	$(BIN)/finery build quickstart
	@echo "talk to it:  $(BIN)/finery chat quickstart gguf"

test: checks pytest

test-all: checks pytest-all pytest-all-real

# With another Python than .venv's, in an environment of its own without torch, in about three minutes:
#   make test-python PYTHON=python3.13
LIGHT_VENV = .venv-$(patsubst python%,%,$(notdir $(PYTHON)))
LIGHT_EXTRAS := data,environments,remote,tests
test-python:
	@$(MAKE) --no-print-directory VENV=$(LIGHT_VENV) $(LIGHT_VENV)/.installed-$(LIGHT_EXTRAS)
	LIGHT=true $(LIGHT_VENV)/bin/pytest -n 2 --dist worksteal -m "quick or not (slow or real)" tests/core tests/cli tests/test_definitions.py

# All checks but the tests, two at a time, the longest first.
checks: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory -j2 types-here lint definitions schemas docs

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# The types of libraries vary with their versions, which must not keep anybody from the tests.
types-here:
	@$(MAKE) --no-print-directory types \
		|| { echo "make types fails with these versions of libraries; the tests go on"; test "$(CI)" != true; }

schemas: $(VENV)/.installed-dev
	$(BIN)/finery schema --all schemas --check

# What finery's own steps reach, which is in their keys.
definitions: $(VENV)/.installed-dev
	$(BIN)/python -m tools.definitions --check

# The site as build/site/index.html. A broken link or an undocumented name is an error.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "its search needs a server:  $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site"

# With worksteal, few fixtures of modules are made twice.
pytest: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2 --dist worksteal -m "quick or not (slow or real)" --durations 40

# Many of these tests wait for clusters and servers, so there is work for a third process.
pytest-all: $(VENV)/.installed-dev
	$(BIN)/pytest -n 3 --dist worksteal -m "not real" --thorough --durations 30

# Two trainings with one thread each finish in half the time of one after the other with two.
pytest-all-real: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2 --dist worksteal -m real --durations 10

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/finery schema --all schemas
	$(BIN)/python docs/generate.py
	$(BIN)/python -m tools.definitions

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/core.py

# Hours on two cores. QUALITY="--task banking77" takes one task, --folder keeps what is trained.
QUALITY ?=
quality: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/quality.py $(QUALITY)

# With .venv if it is there. On a machine that has only torch: make gpu-check WHEELS=build/gpu-wheels
GPU_PYTHON ?= $(firstword $(wildcard $(BIN)/python) $(PYTHON))
WHEELS ?=
gpu-check:
	@$(GPU_PYTHON) benchmarks/gpu $(if $(WHEELS),--wheels $(WHEELS))

# The wheels for it, made on a machine with a network. For example GPU_WHEELS="--cuda 130".
GPU_WHEELS ?=
gpu-wheels: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/gpu/wheels.py build/gpu-wheels $(GPU_WHEELS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Without --no-compile, pip compiles 20,000 files, most of which are never imported.
$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -e '.[$*]'
	$(BIN)/python -m compileall -q core plugins
	$(if $(filter dev,$*),@$(call optional,retention))
	touch $@

# An extra that not every machine can install. Its tests are skipped without it, except in CI.
optional = $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(1)]' \
	|| { echo "the extra $(1) can't be installed here"; test "$(CI)" != true; }

clean:
	rm -rf $(VENV) build .finery
