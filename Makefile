# Two commands on a fresh machine: `make chat` and `make test`. Both create .venv when it is missing or outdated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PHOTO ?= fourfold/samples/table.jpg

.PHONY: chat test install test-all lint bench clean

chat: $(VENV)/.installed
	@$(BIN)/fourfold chat $(PHOTO) "What is on the table?"
	@if [ -t 0 ] && [ -t 1 ]; then $(BIN)/fourfold chat $(PHOTO); fi

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

install: $(VENV)/.installed

# torch first and by exact version: asked for together with others, a resolver may look for a newer one.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test,ocr]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
