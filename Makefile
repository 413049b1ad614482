# Two commands on a fresh machine: `make chat` and `make test`. Both create .venv when it is missing or outdated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PHOTO ?= fourfold/samples/table.jpg
QUESTION ?= What colour is the ball?

.PHONY: chat ui test test-mini test-browser test-vllm vllm-env bench install clean

# Goes on as a conversation where there is a terminal.
chat: $(VENV)/.installed
	@if [ -t 0 ] && [ -t 1 ]; then $(BIN)/fourfold chat $(PHOTO) "$(QUESTION)" --interactive; \
	else $(BIN)/fourfold chat $(PHOTO) "$(QUESTION)"; fi

# The page in a browser.
ui: $(VENV)/.installed
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

vllm-env:
	PYTHON=$(PYTHON) serving/vllm/env/make.sh .venv-vllm

# Speed beside the peers that are installed; the table is written from the JSON.
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks --json out/bench.json

install: $(VENV)/.installed

# torch first and by exact version: asked for together with others, a resolver may look for a newer one.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch==2.13.0
	$(PIP) install --quiet --editable .
	@touch $@

# lmms-eval is not installed: one file of it serves as an independent scorer in tests.
$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --editable '.[test,ocr]'
	$(PIP) download --quiet --no-deps --dest .whl lmms-eval==0.7.3 ms-vlmeval==0.0.20
	@touch $@

clean:
	rm -rf $(VENV) .venv-vllm .whl .pytest_cache .mypy_cache .ruff_cache build *.egg-info
