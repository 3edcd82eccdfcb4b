# Every target sets up what it needs: .venv is built once, and again when the requirements change.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
DEMO_OUT ?= results/demo/raw_data
RUN ?= $(DEMO_OUT)
# uv does not read pip's configuration; a folder of wheels configured there is handed over when it exists.
FIND_LINKS = $(shell d="$${PIP_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null)}"; [ -d "$$d" ] && echo --find-links "$$d")

.PHONY: help setup demo report test check e2e slurm-test image-test schema requirements clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(STAMP): requirements.txt pyproject.toml
	@echo "setting up .venv (python packages as pinned in requirements.txt) ..."
	@$(PYTHON) -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,13))' || { echo "dlmbench needs Python 3.11 to 3.13; set PYTHON=/path/to/python3.12, for example" >&2; exit 2; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode $(FIND_LINKS) -r requirements.txt
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

setup: $(STAMP) ## build .venv with the pinned packages and the dlmbench command (. .venv/bin/activate puts it on the path)

demo: $(STAMP) ## compare the embedded tiny pair on this CPU: measure, score, draw, answer (about 3 minutes)
	@$(BIN)/dlmbench demo --output_dir $(DEMO_OUT)

report: $(STAMP) ## write report.html and report.md of a finished run again: make report RUN=results/demo/raw_data
	@$(BIN)/dlmbench report $(RUN)

test: $(STAMP) ## all tests that need no GPU
	@$(BIN)/python -m pytest tests -m "not e2e and not browser and not gpu and not slurm" -n auto

e2e: $(STAMP) ## the slower proofs: whole runs, kills, resumes, the page in a browser
	@$(BIN)/python -m pytest tests -m "(e2e or browser) and not gpu and not slurm"

slurm-test: $(STAMP) ## a run through a real SLURM on this machine: time limits, cancelled tasks, full disks (needs root)
	@tests/system_packages.sh slurm-wlm munge
	@$(BIN)/python -m pytest tests/slurm -m slurm -rs

image-test: ## build the container image on a Debian base and measure in it (needs root; many minutes)
	@tests/system_packages.sh buildah debootstrap
	@tests/image/build.sh

check: $(STAMP) ## lint, types, import rules, generated files up to date
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m dlmbench.experiment | diff -u config/experiments.schema.json - || { echo "the schema is stale: run make schema" >&2; exit 1; }

schema: $(STAMP) ## write config/experiments.schema.json from the code
	@$(BIN)/python -m dlmbench.experiment > config/experiments.schema.json

# torch pins its own CUDA libraries exactly, so they are left to it; the local label of a CPU build is dropped.
requirements: $(STAMP) ## resolve and pin requirements.txt again
	@$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 $(FIND_LINKS) --no-header --no-annotate --no-emit-find-links --quiet \
	  | grep -vE '^(cuda-|triton=|nvidia-(cu|nccl|nvj|nvs|nvtx))' | sed -E 's/^torch==([0-9.]+).*/torch==\1/; s/ ; sys_platform != .emscripten.$$//' | grep -v emscripten | sort -u > requirements.txt

clean: ## remove the environment and the demo's results
	@rm -rf .venv results/demo .pytest_cache .ruff_cache .mypy_cache .hypothesis
