# Every target installs what it needs; on a fresh machine, start with `make demo`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs/demo
SOURCES := msbreg pretrain transfer tools benchmarks tests

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Create .venv and install the suite with its test tools

# Depends only on pyproject.toml, so that code changes do not trigger an installation.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is required, but %s is %d.%d; choose another: make PYTHON=python3.12" % (sys.executable, *sys.version_info[:2]) if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing PyTorch and the rest into $(VENV) (several GB, a few minutes)"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# One untrained twin: with more, transfer/suite.py --random-seeds 3 shows the spread over seeds.
demo: install ## Pre-train on the embedded digits, convert, evaluate against the untrained twin, report
	@echo "1/3 Pre-training on the embedded digits; completed runs in $(RUNS) are skipped"
	$(BIN)/python pretrain/run.py --config configs/digits_msbreg.yaml --output $(RUNS)/pretrain --finished skip
	@echo "2/3 Converting the backbone to Detectron2's layout, with a certificate"
	$(BIN)/python tools/convert_to_d2.py $(RUNS)/pretrain/checkpoint.pth --overwrite
	@echo "3/3 Evaluating it against its untrained twin; look at $(RUNS)/report/report.html meanwhile"
	$(BIN)/python transfer/suite.py --checkpoint $(RUNS)/pretrain/checkpoint.pth --output $(RUNS) --data digits \
		--random-seeds 1

# Bytecode is kept even where the environment says otherwise: several processes import the same files.
test: install ## Run the tests (what CI runs)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder --numprocesses $$(( $$(nproc 2> /dev/null || echo 1) + 1 ))

lint: install ## Check style and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: install ## Format the code
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean: ## Remove .venv, runs and tool caches
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .mypy_cache *.egg-info
