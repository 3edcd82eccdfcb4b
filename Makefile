# Every target sets up what it needs: .venv is built once and rebuilt when the requirements change.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
DEMO_OUT ?= results/demo/raw_data
RUN ?= $(DEMO_OUT)
# uv does not read pip's configuration, so a folder of wheels configured there is passed on if it exists.
FIND_LINKS = $(shell d="$${PIP_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null)}"; [ -d "$$d" ] && echo --find-links "$$d")

.PHONY: help setup demo report test coverage simulate study study-run faults fuzz wheel-test advisories check e2e slurm-test image-test schema requirements clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(STAMP): requirements.txt pyproject.toml
	@echo "installing the packages of requirements.txt into .venv ..."
	@$(PYTHON) -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,13))' || { echo "dlmbench needs Python 3.11 to 3.13; set PYTHON=/path/to/python3.12, for example" >&2; exit 2; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode $(FIND_LINKS) -r requirements.txt
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

setup: $(STAMP) ## build .venv with the pinned packages and the dlmbench command (. .venv/bin/activate puts it on the path)

demo: $(STAMP) ## compare the embedded pair of tiny models on this CPU: measure, score, report (about 3 minutes)
	@$(BIN)/dlmbench demo --output_dir $(DEMO_OUT)

report: $(STAMP) ## write the report of a finished run again: make report RUN=results/demo/raw_data
	@$(BIN)/dlmbench report $(RUN)

test: $(STAMP) ## unit tests, without a GPU
	@$(BIN)/python -m pytest tests -m "not e2e and not browser and not gpu and not slurm" -n auto

coverage: $(STAMP) ## unit tests with the branches that they take; writes docs/reliability.md, fails under 90% of a measuring package
	@rm -rf build/coverage && mkdir -p build/coverage
	@$(BIN)/coverage run -m pytest tests -m "not e2e and not browser and not gpu and not slurm" -n auto
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage json --quiet -o build/coverage/branches.json
	@$(BIN)/python benchmarks/branches.py build/coverage/branches.json

simulate: $(STAMP) ## try every rule behind a verdict on data of known truth; writes the tables of docs/reliability.md (CHECK=1: only checks)
	@$(BIN)/python -m benchmarks.simulate $(if $(CHECK),--check)

e2e: $(STAMP) ## slow tests: whole runs, killing and resuming them, the report in a browser
	@$(BIN)/python -m pytest tests -m "(e2e or browser) and not gpu and not slurm"

faults: $(STAMP) ## kills, full disks, broken records, other faults, and what is lost; writes docs/reliability.md (PART=1: fewer of each; CHECK=1: only checks; both write nothing)
	@$(BIN)/python tests/faults/campaign.py $(if $(PART),--part) $(if $(CHECK),--check)

fuzz: $(STAMP) ## thousands of broken files of each kind; writes docs/reliability.md
	@$(BIN)/python tests/fuzz/campaign.py

slurm-test: $(STAMP) ## tests with a real SLURM on this machine: time limits, cancelled tasks, full disks (needs root)
	@tests/system_packages.sh slurm-wlm munge
	@$(BIN)/python -m pytest tests/slurm -m slurm -rs

wheel-test: $(STAMP) ## build the wheel and the sdist, install the wheel into a clean environment, run the demo there
	@BIN=$(abspath $(BIN)) tests/packaging/wheel.sh $(FIND_LINKS)

advisories: $(STAMP) ## check the pinned packages for known weaknesses (asks pypi.org or osv.dev)
	@$(BIN)/uv tool run --quiet pip-audit --strict --no-deps --disable-pip -r requirements.txt || { echo "not checked, or something was found: see above (no answer means that the service could not be reached)" >&2; exit 1; }

image-test: ## build the container image on a Debian base and run a benchmark in it (needs root, takes long)
	@tests/system_packages.sh buildah debootstrap
	@tests/image/build.sh

check: $(STAMP) ## lint, types, import rules, schema up to date
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m dlmbench.experiment | diff -u config/experiments.schema.json - || { echo "the schema is stale: run make schema" >&2; exit 1; }

study: $(STAMP) ## join published quality with the times of the study: who is faster at equal quality?
	@$(BIN)/python benchmarks/study.py

study-run: $(STAMP) ## measure the times of the study on all GPUs of this machine, into docs/study/tasks and tasks-hf
	@$(BIN)/python -m dlmbench run --config config/experiments_study_times.yaml --gpus all --output-dir docs/study/tasks
	@$(BIN)/python -m dlmbench run --config config/experiments_study_hf.yaml --gpus all --output-dir docs/study/tasks-hf
	@$(BIN)/python benchmarks/study.py

schema: $(STAMP) ## generate config/experiments.schema.json from the code
	@$(BIN)/python -m dlmbench.experiment > config/experiments.schema.json

# torch pins its own CUDA libraries, so they are not listed; the local version label of a CPU build is removed.
requirements: $(STAMP) ## resolve the dependencies again and pin them in requirements.txt
	@$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 $(FIND_LINKS) --no-header --no-annotate --no-emit-find-links --quiet \
	  | grep -vE '^(cuda-|triton=|nvidia-(cu|nccl|nvj|nvs|nvtx))' | sed -E 's/^torch==([0-9.]+).*/torch==\1/; s/ ; sys_platform != .emscripten.$$//' | grep -v emscripten | sort -u > requirements.txt

clean: ## remove .venv, caches and the demo's results
	@rm -rf .venv results/demo .pytest_cache .ruff_cache .mypy_cache .hypothesis build/coverage
