# Everything happens in .venv, made on first use. Without make, see README.md.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench clean
.DEFAULT_GOAL := demo

$(BIN)/.installed: pyproject.toml setup.py MANIFEST.in $(wildcard proto/*.proto src/mxfast/*.p*x* src/mxfast/*.pxd)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(BIN)/.installed
	$(BIN)/mxfast demo

test: $(BIN)/.installed
	$(BIN)/python -m pytest

lint: $(BIN)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(BIN)/.installed
	$(BIN)/python -m pytest benchmarks --benchmark-only
	$(BIN)/python benchmarks/end_to_end.py

clean:
	rm -rf .venv build dist src/*.egg-info src/mxfast/_generated src/mxfast/_contract* src/mxfast/*.so
