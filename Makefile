# Two commands: `make demo` (data to pairs to a trained flow, with a report) and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV   ?= .venv
STAMP  := $(VENV)/.installed

.PHONY: demo test test-all fuzz kernels kills docs gpu lint setup clean
demo: $(STAMP)
	$(VENV)/bin/flowpairs demo

# One process per core, two at the least; ARGS= for pytest, as in `make test ARGS=tests/pipeline/ot`.
PYTEST = $(VENV)/bin/python -m pytest --numprocesses $$(n=$$(nproc); [ $$n -gt 2 ] && echo $$n || echo 2) --dist loadscope --no-loadscope-reorder $(ARGS)

test: $(STAMP)
	$(PYTEST)

# And what `make test` leaves out: repeats of a property, more examples of each, shapes checked in every call.
test-all: $(STAMP)
	FLOWPAIRS_TESTS=all $(PYTEST) --jaxtyping-packages=flowpairs,beartype.beartype

# 10,000 malformed and extreme configurations, then damaged files of every format.
fuzz: $(STAMP)
	$(VENV)/bin/python tests/safety/config_fuzz.py
	FLOWPAIRS_TESTS=fuzz $(PYTEST) tests/safety

# The fused kernels, compiled for GPUs that need not be here, held to their limits; the table goes into docs/gpu.md.
kernels: $(STAMP)
	$(VENV)/bin/python benchmarks/kernels.py --write

# 100 processes of running jobs, killed at random moments; KILLS= for options, as in `make kills KILLS="--kills 10"`.
kills: $(STAMP)
	$(VENV)/bin/python tests/safety/kills.py $(KILLS)

# On a machine with a CUDA device: its tests, solves beside peers, a training minute; writes docs/gpu-results.json.
gpu: $(STAMP)
	$(VENV)/bin/python benchmarks/gpu.py

# The documentation site, into build/site; what cannot be made, and dead links, are errors.
docs: $(STAMP)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml

# mypy cannot follow the mapping of pyproject.toml, so it gets a folder of links that looks as what is installed.
TYPES := build/types/flowpairs
lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -rf $(TYPES) && mkdir -p $(TYPES)
	ln -s $(foreach file,$(wildcard jobs/public/*),$(CURDIR)/$(file)) $(foreach folder,configs jobs pipeline training,$(CURDIR)/$(folder)) $(TYPES)
	cd build/types && $(abspath $(VENV))/bin/mypy --config-file $(CURDIR)/pyproject.toml --package flowpairs

setup: $(STAMP)
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "flowpairs needs Python 3.11 or newer; call make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) out runs
