# Every target sets up what it needs: on a bare machine `make demo` and `make test` just work.
.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/bash
BIN := .venv/bin

# The models here are small: more threads than this only wait for each other.
export OMP_NUM_THREADS ?= 2

.PHONY: help
help: ## Show this text
	@echo 'make TARGET, where TARGET is one of'
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' \
	  | while IFS=$$'\t' read -r name text; do printf '  %-14s%s\n' "$$name" "$$text"; done

.PHONY: setup
setup: ## Make .venv (PYTHON=... chooses the interpreter); every other target does it too
	@PYTHON='$(PYTHON)' tools/setup.sh

.PHONY: demo
demo: native ## Train a small vision-language model, export it, and run it without PyTorch
	@PYTHONPATH=examples $(BIN)/python -m digits_vlm.demo --out demo-output

.PHONY: native
native: setup ## Build the native library into moe_export/native; `demo` and `unit` do it too
	@tools/native.sh library

.PHONY: runtime
runtime: setup ## Build libmoe_export for C and C++ programs into build/embed-install
	@tools/native.sh runtime

.PHONY: gpu
gpu: native ## Build GPU kernels and TensorRT plugins, without a GPU; `unit` does it too
	@tools/gpu/build.sh

.PHONY: test
test: lint layers types test-native unit ## All checks, the cheap ones first; stops at the first that fails

.PHONY: lint
lint: setup ## Style and formatting (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: layers
layers: setup ## Who may import whom (import-linter)
	$(BIN)/lint-imports --no-logo --no-cache

.PHONY: types
types: setup ## Types (mypy --strict)
	$(BIN)/mypy

.PHONY: test-native
test-native: setup ## Native tests, plain and built with the address, undefined-behaviour and thread sanitizers
	@tools/native.sh tests
	@tools/native.sh sanitized-tests
	@tools/native.sh thread-tests

.PHONY: fuzz
fuzz: native ## What chance finds in native readers (SECONDS=60 each), in bundles and in what the tests draw
	@tools/native-fuzz.sh $(or $(SECONDS),60)
	$(BIN)/python -m tools.fuzz.bundles $(BUNDLE)
	HYPOTHESIS_PROFILE=search OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m hypothesis

.PHONY: unit
unit: native ## Tests (pytest); ARGS='-k name' runs some
	@tools/gpu/build.sh tests
	@tools/browser.sh
	@tools/runtime-packages
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile $(ARGS)

.PHONY: wheel
wheel: setup ## Build the wheel into dist/, and check what it holds and needs
	@tools/wheel.sh

.PHONY: runtime-only
runtime-only: wheel ## Run a bundle in an environment that was never given PyTorch or ONNX
	tools/runtime-only.sh

.PHONY: old-ort
old-ort: native ## Run the native kernels in the oldest ONNX Runtime that they are made for
	tools/old-ort.sh

.PHONY: format
format: setup ## Rewrite the sources as `make lint` wants them
	$(BIN)/ruff check --fix-only --exit-zero .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## Remove what `make` made, .venv and demo-output included
	rm -rf .venv demo-output build dist moe_export/native .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
