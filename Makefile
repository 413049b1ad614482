# Two commands on a fresh machine: `make chat` and `make test`. Both create .venv when it is missing or outdated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The library asks for little (pyproject.toml); what was tested together is installed here.
INSTALL := $(PIP) install --quiet --constraint constraints.txt
PHOTO ?= fourfold/samples/table.jpg
QUESTION ?= What colour is the ball?

.PHONY: chat ui test test-mini test-browser test-vllm test-standalone vllm-env peers bench soak chaos fuzz install constraints dist sbom audit clean

# Goes on as a conversation where there is a terminal.
chat: $(VENV)/.installed
	@if [ -t 0 ] && [ -t 1 ]; then $(BIN)/fourfold chat $(PHOTO) "$(QUESTION)" --interactive; \
	else $(BIN)/fourfold chat $(PHOTO) "$(QUESTION)"; fi

# The page in a browser.
ui: $(VENV)/.installed-ui
	$(BIN)/fourfold ui

# Two at once, each on one thread.
test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# With the default model's weights, which are fetched once.
test-mini: $(VENV)/.installed-test
	$(BIN)/pytest -m mini

# In headless Chromium, which the system brings (Debian: apt-get install chromium).
test-browser: $(VENV)/.installed-test
	$(BIN)/pytest -m browser

# In an environment of its own: vLLM's CPU build and its exact versions.
test-vllm: vllm-env
	.venv-vllm/bin/python -m pytest -m vllm tests/serving/vllm

# Where fourfold is not installed: other people's programs on checkpoints that it wrote, and transformers' own tests.
test-standalone: $(VENV)/.installed-test .venv-standalone/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.standalone.write_reference --mini
	.venv-standalone/bin/pytest tests/standalone

vllm-env:
	PYTHON=$(PYTHON) serving/vllm/env/make.sh .venv-vllm

# Whom `bench` and `python -m benchmarks.probe` ask beside us: vLLM, llama.cpp, which is compiled for this very
# processor (some minutes), and `transformers serve`, which the tests' environment has.
peers: vllm-env .peers/.installed

.peers/.installed: | $(VENV)/.installed-test
	$(INSTALL) 'transformers[serving]'
	rm -rf .peers && mkdir .peers
	$(PIP) install --quiet --target .peers/llama-cpp llama-cpp-python==0.3.36
	@touch $@

# Speed beside the peers that are installed (`make peers`), kept by kind of processor; on a quiet machine, 15 minutes.
bench: $(VENV)/.installed-test
	mkdir -p out
	$(BIN)/python -m benchmarks --json out/bench.json --document

# The server under load for hours, with the default model; `--document` writes the figures of docs/trust.md, below too.
HOURS ?= 1
soak: $(VENV)/.installed-test
	$(BIN)/python -m tests.serving.soak --hours $(HOURS) --out out/soak

# Processes killed at random, and other faults; what a seed draws is drawn again by the same seed.
MINUTES ?= 30
SEED ?= 0
chaos: $(VENV)/.installed-test
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED) --out out/chaos

# Hostile input, made by what it reaches in the code, at every door that strangers' bytes come through; with TARGET at
# that one alone. What it finds lies in out/fuzz, as does what it tried (Linux and macOS).
fuzz: $(VENV)/.installed-fuzz
	nice -n 10 $(BIN)/python -m tests.fuzz --minutes $(MINUTES) --seed $(SEED) $(if $(TARGET),--target $(TARGET))

install: $(VENV)/.installed

# What is put on the index: of the last commit alone, and a wheel of the same bytes wherever and whenever it is built from it.
dist: $(VENV)/.installed-test
	rm -rf dist && mkdir -p dist/source
	umask 022 && git archive HEAD | tar -x -C dist/source
	umask 022 && cd dist/source && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) ../../$(BIN)/python -m build --no-isolation --outdir ..
	rm -rf dist/source
	$(BIN)/twine check --strict dist/*
	cd dist && sha256sum *

# Everything that is installed with all extras and the tests' tools, with versions and licences.
sbom: $(VENV)/.installed-test .venv-release/.installed
	.venv-release/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file sbom.json $(BIN)/python

# Every installed file held against the digest that its package brought, every version against constraints.txt; and, where
# the index can be asked, known weaknesses of these versions.
audit: $(VENV)/.installed-test .venv-release/.installed
	$(BIN)/python deploy/audit.py "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" constraints.txt
	.venv-release/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

# After an upgrade in .venv that passes all tests.
constraints: $(VENV)/.installed-test
	{ sed '/^[^#]/,$$d' constraints.txt; $(PIP) freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.new
	mv constraints.new constraints.txt

# torch first and by exact version: asked for together with others, a resolver may look for a newer one.
# setuptools leaves a description of the package in the folder, which would be read in place of the installed one.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch==2.13.0
	$(INSTALL) --editable .
	@rm -rf fourfold.egg-info && touch $@

$(VENV)/.installed-ui: $(VENV)/.installed
	$(INSTALL) --editable '.[ui,train]'
	@rm -rf fourfold.egg-info && touch $@

# lmms-eval is not installed: one file of it serves as an independent scorer in tests.
# llm-compressor asks for a transformers below 5.18; it works with the one that is tested here.
$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) --editable '.[test]'
	$(PIP) download --quiet --no-deps --dest .whl lmms-eval==0.7.3 ms-vlmeval==0.0.20
	$(PIP) install --quiet --no-deps llmcompressor==0.14.0.1 compressed-tensors==0.19.0 loguru==0.7.3
	@rm -rf fourfold.egg-info && touch $@

$(VENV)/.installed-fuzz: $(VENV)/.installed-test
	$(PIP) install --quiet atheris==3.0.0
	@touch $@

# transformers' tests come in its source archive alone, whose metadata pip reads by running its setup.py.
.venv-standalone/.installed: constraints.txt Makefile $(VENV)/.installed-test
	$(PYTHON) -m venv .venv-standalone
	.venv-standalone/bin/python -m pip install --quiet torch==2.13.0
	.venv-standalone/bin/python -m pip install --quiet --constraint constraints.txt \
	    transformers pillow accelerate peft trl datasets bitsandbytes pytest parameterized==0.9.0
	$(PIP) download --quiet --no-deps --no-build-isolation --no-binary transformers --dest .whl \
	    "transformers==$$(sed -n 's/^transformers==//p' constraints.txt)"
	@touch $@

.venv-release/.installed: Makefile
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet cyclonedx-bom==7.5.0 pip-audit==2.10.1
	@touch $@

clean:
	rm -rf $(VENV) .venv-vllm .venv-release .venv-standalone .peers .whl .pytest_cache .mypy_cache .ruff_cache build dist sbom.json *.egg-info
