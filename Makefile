# Everything happens in .venv, made on first use. Without make, see README.md.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test model lint stub bench sanitize fuzz clean
.DEFAULT_GOAL := demo

$(BIN)/.installed: pyproject.toml setup.py MANIFEST.in $(wildcard proto/*.proto src/mxfast/*.p*x* src/mxfast/*.pxd)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(BIN)/.installed
	$(BIN)/mxfast demo

test: $(BIN)/.installed
	$(BIN)/python -m pytest

# Random commands from 20 clients against the simulated gateway and a model of it, for a minute.
model: $(BIN)/.installed
	MXFAST_MODEL_EXAMPLES=30 $(BIN)/python -m pytest tests/test_simulator_model.py

lint: $(BIN)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The types of mxfast.blocking, after a change of an asynchronous class.
stub: $(BIN)/.installed
	$(BIN)/python tools/blocking_stub.py

bench: $(BIN)/.installed
	$(BIN)/python -m pytest benchmarks --benchmark-only
	$(BIN)/python benchmarks/end_to_end.py

# The codec's tests on a build with gcc's AddressSanitizer and UBSan, which end the run at the
# first error. Python's own allocator would hide from them where an object ends. MXF_BASELINE
# leaves out the functions for newer processors, so that the others are tested somewhere.
SANITIZE := -fsanitize=address,undefined
sanitize: $(BIN)/.installed
	CC=gcc MXFAST_CFLAGS='-O1 -g -DMXF_BASELINE $(SANITIZE) -fno-sanitize-recover=undefined' LDFLAGS='$(SANITIZE)' \
		$(BIN)/python setup.py --quiet build \
		--build-lib build/sanitize/lib --build-temp build/sanitize/temp
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
		PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/sanitize/lib \
		$(BIN)/python -m pytest --capture=sys -p no:cacheprovider tests/test_codec_*.py

# Every decoder for so many seconds; needs clang, and says so.
FUZZ_SECONDS ?= 60
fuzz: $(BIN)/.installed
	PYTHON=$(BIN)/python fuzz/run $(FUZZ_SECONDS)

clean:
	rm -rf .venv build dist src/*.egg-info src/mxfast/_generated src/mxfast/_contract* src/mxfast/*.so
