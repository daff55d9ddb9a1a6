# Every target does the set-up that it needs, in .venv; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RENDER_READY := .venv-render/.ready

# Threads that wait by spinning slow each other down many times over on a machine that does something else besides.
export OMP_WAIT_POLICY ?= passive
export GOMP_SPINCOUNT ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup demo reproduce test test-slow cases bench bench-gpu bench-solvers leaderboard app check format render-env clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Create .venv with the pinned versions and install the package

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing: install it (Debian and Ubuntu: apt-get install python3-venv)."; exit 1; }
	$(BIN)/python -m pip install --upgrade --quiet pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)  ## Interpolate four shipped pairs with every method; opens nothing, prints where the report is
	$(BIN)/python run.py experiment=demo

reproduce: $(READY)  ## Run the experiment ID=<id> and hold it against experiments/<id>/expected.json
	@test -n "$(ID)" || { echo "Say which: make reproduce ID=<id>, one of: $$(ls experiments | tr '\n' ' ')"; exit 2; }
	$(BIN)/python run.py experiment=$(ID) expected=experiments/$(ID)/expected.json

test: $(READY)  ## Run the tests (under ten minutes)
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(READY)  ## Run the slow tests as well
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'slow or not slow' --ignore tests/bench

cases: $(READY)  ## Run every */run.sh below CASES=<folder>, which exits non-zero where a fault is there; name those that do
	@test -d "$(CASES)" || { echo "Say where the cases are: make cases CASES=<folder>"; exit 2; }
	@failed=; for case in $(CASES)/*/run.sh; do bash $$case > /dev/null 2>&1 && echo "passed $$case" || { echo "FAILED $$case"; failed=1; }; done; test -z "$$failed"

bench: $(READY)  ## Measure speed on this machine, keep it in benchmarks/ and compare with the last
	$(BIN)/python run.py experiment=bench

bench-gpu: $(READY)  ## The same on a GPU, with a network of Stable Diffusion 2.1's size
	$(BIN)/python run.py experiment=bench_gpu

bench-solvers: $(READY)  ## Measure the solvers against closed forms and on the shipped model
	$(BIN)/python -m pytest tests/bench -m slow -s

leaderboard: $(READY)  ## One page of all rows of SUITE (benchmarks/clevr-morph-1); benchmarks/README.md says how to add one
	$(BIN)/python run.py task=leaderboard task.suite=$(or $(SUITE),benchmarks/clevr-morph-1) output_dir=runs/leaderboard/$$(date +%Y-%m-%d_%H-%M-%S) logger.mode=disabled

app: $(VENV)/.app-ready  ## Open a page in the browser for your own images
	$(BIN)/python -m latent_geodesics.run.app

$(VENV)/.app-ready: $(READY)
	# Gradio asks for pillow below 13 and works with 13, which reads more: it is put back.
	grep -v '^pillow==' constraints.txt > $(VENV)/app-constraints.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/app-constraints.txt --editable '.[app]'
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt pillow
	touch $@

check: $(READY)  ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Format the code and sort its imports
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

render-env: $(RENDER_READY)  ## Create .venv-render with Blender's Cycles (Python 3.11 only), to render new scenes

$(RENDER_READY):
	$(PYTHON) -m venv .venv-render
	.venv-render/bin/python -m pip install --quiet --upgrade pip
	.venv-render/bin/python -m pip install 'bpy==5.0.1'
	touch $@

clean:  ## Delete the environments and every cache; runs/ and work/ stay
	rm -rf $(VENV) .venv-render .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
