# Two commands need nothing but python3.11+ and make: `make demo` and `make test`.
PYTHON_ENV := .venv/bin
MODEL ?= pocket
export PYTHON

.PHONY: help setup triton demo test test-long faults soak check lint types imports format bench bench-engine bench-gpu eval-pocket lock clean

help:
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: ## create .venv with what everything else needs
	@sh tools/setup.sh

triton: setup ## Triton for the kernels' tests; Linux only
	@sh tools/triton.sh

demo: setup ## three image questions through queue, worker and store; MODEL=microsoft/Phi-3.5-vision-instruct for real weights
	@$(PYTHON_ENV)/python examples/demo.py --model "$(MODEL)"

test: triton ## the whole quick suite, real servers included
	@sh tools/test.sh $(PYTHON_ENV)/python

test-long: setup ## the tests that the quick suite leaves out, minutes
	@$(PYTHON_ENV)/python -m pytest -m long

faults: setup ## the fault matrix at full size and its control, about an hour; FLAGS=--stock: the control alone
	@$(PYTHON_ENV)/python -m tests.faults --full $(FLAGS)

soak: setup ## 60,000 tasks while memory and keys are followed, ten minutes; FLAGS=--count=100000
	@$(PYTHON_ENV)/python -m tests.faults.soak $(FLAGS)

check: lint types imports ## everything that reads the code without running it

lint: setup
	@$(PYTHON_ENV)/ruff check
	@$(PYTHON_ENV)/ruff format --check

types: setup
	@$(PYTHON_ENV)/mypy

imports: setup
	@$(PYTHON_ENV)/lint-imports

format: setup ## let ruff rewrite what it can
	@$(PYTHON_ENV)/ruff check --fix
	@$(PYTHON_ENV)/ruff format

bench: setup ## what the queue and the store cost, as ratios within one run
	@$(PYTHON_ENV)/python -m tests.bench

bench-engine: setup ## the engine beside generate, the queue and the store, as ratios within one run
	@$(PYTHON_ENV)/python -m tests.bench_engine

bench-gpu: setup ## the engine at the published size on a CUDA device, beside its floors and generate
	@$(PYTHON_ENV)/python -m tests.bench_engine.gpu

eval-pocket: setup ## 200 fresh pictures of each sort for the pocket model, through the whole service; FLAGS=--verbose: what it misread
	@$(PYTHON_ENV)/python -m tests.eval_pocket $(FLAGS)

lock: ## rewrite requirements.txt from the ranges in the project files (needs uv)
	@sh tools/lock.sh

clean: ## remove what the commands above created in this folder
	rm -rf .venv .state .mypy_cache .ruff_cache .import_linter_cache .hypothesis
