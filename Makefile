# make demo: train a small Reformer on real text.   make test: the whole suite.   make check: format, lint, types, docs.
PYTHON ?= python3
BIN := .venv/bin
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/.cache/torch_extensions

.PHONY: setup demo test check docs bench

setup: .venv/.ready .venv/.native

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .[dev]
	touch $@

.venv/.native: .venv/.ready $(wildcard reformer_dist/model/backends/native/*)
	$(BIN)/python -m reformer_dist.model.backends.native
	touch $@

demo: setup
	$(BIN)/python jobs/train.py --config jobs/configs/demo.yaml $(ARGS)

# Two processes, each with whole groups of tests (tests/conftest.py); ARGS="-n 0" runs all in one.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy docs/hooks
	$(BIN)/python -m pytest tests/test_imports.py tests/test_docs.py
	$(MAKE) --no-print-directory docs

# The theme's notice that it has a successor is not a warning of the site's: mkdocs.yml says what was decided.
docs: export NO_MKDOCS_2_WARNING = 1
docs: setup
	$(BIN)/python -m mkdocs build --strict

bench: setup
	$(BIN)/python jobs/benchmark.py $(ARGS)
