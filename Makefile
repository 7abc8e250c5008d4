# Two commands are enough: `make run` and `make test`. Each makes .venv on first use and installs nothing the second time.

SUITE ?= suites/quickstart.yaml
ARGS ?=
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
INSTALLED := $(VENV)/.installed
RECORD := env OMP_NUM_THREADS=1 $(VENV)/bin/python -m harness.gate.quality.recorder

.DEFAULT_GOAL := help
.PHONY: help run test lint compile gpu tables traces trials quality clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed and neither was found on PATH; say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: $(INSTALLED)  ## run a suite: make run [SUITE=suites/longctx.yaml] [ARGS='--limit 20']
	$(VENV)/bin/harness run $(SUITE) $(ARGS)

test: $(INSTALLED) lint  ## linters, types and all tests
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(INSTALLED)  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

compile: $(INSTALLED)  ## compile all kernels for every target and hold the facts against the accepted ones
	rm -rf build/compile
	$(VENV)/bin/harness run suites/kernels_compile.yaml --out build/compile
	$(VENV)/bin/harness gate suites/kernels_compile.yaml --run build/compile/kernels_compile-*

# Uses the Python that is there and installs nothing: a machine with a GPU often has no way to a package index.
gpu:  ## tests and suites for a GPU, in nine minutes: make gpu RESULTS=DIR [PYTHON=python3]
	PYTHONPATH=.:plugins:$(PYTHONPATH) $(if $(filter command environment,$(firstword $(origin PYTHON))),$(PYTHON),python3) -m harness.gpu $(or $(RESULTS),results/gpu) $(ARGS)

tables: $(INSTALLED)  ## put the tables of results/cpu into the documents
	$(VENV)/bin/python docs/tables.py

BESIDE := --beside "gates of a suite on the other processor"

traces: $(INSTALLED)  ## record the timings behind docs/gate_quality.md, and try the gate beside: 120 minutes, resumable
	$(RECORD) results/traces/quiet.jsonl.gz --minutes 40
	taskset -c 0 $(RECORD) results/traces/shared.jsonl.gz --minutes 40 $(BESIDE) & \
	taskset -c 1 $(VENV)/bin/python -m harness.gate.quality.trials --only aa --count 10; wait
	taskset -c 0 $(RECORD) results/traces/busy.jsonl.gz --minutes 40 $(BESIDE) --neighbours 1 & \
	taskset -c 1 $(VENV)/bin/python -m harness.gate.quality.trials --only aa --count 20; wait

trials: $(INSTALLED)  ## try the whole gate 26 times in fresh clones: hours, resumable; ARGS='--only aa --count 5' for a part
	$(VENV)/bin/python -m harness.gate.quality.trials $(ARGS)

quality: $(INSTALLED)  ## write docs/gate_quality.md from the recorded traces
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m harness.gate.quality.document

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
