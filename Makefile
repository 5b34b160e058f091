# Everything below sets itself up in .venv; a second call finds it there and is instant.
#   make PYTHON=python3.12    another Python (3.10 or newer) for a new .venv
#   make test ARGS="-k news"  further arguments for pytest, the demo or the bench

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
BESIDE := $(PIP) install --no-deps --target $(VENV)/servers

.DELETE_ON_ERROR:
.PHONY: demo test test-fast lint format bench bench-detect bench-record bench-recycle bench-broken bench-memmon servers clean

demo: $(VENV)/.demo
	@$(BIN)/memwatch demo $(ARGS)

test: $(VENV)/.test $(VENV)/.servers
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -n auto -m "not slow" $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test
	$(BIN)/python bench/tick.py $(ARGS)

bench-detect: $(VENV)/.test
	$(BIN)/python bench/detect.py --closed-loop $(ARGS)

bench-record: $(VENV)/.test
	$(BIN)/python bench/record.py $(ARGS)

bench-recycle: $(VENV)/.test $(VENV)/.servers
	$(BIN)/python bench/recycle.py $(ARGS)

bench-broken: $(VENV)/.test
	$(BIN)/python bench/broken.py $(ARGS)

bench-memmon: $(VENV)/.test
	$(BIN)/python bench/memmon.py $(ARGS)

# The versions of gunicorn and supervisor that are tested beside the installed ones.
servers: $(VENV)/.servers

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "$(PYTHON) is not Python 3.10 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "no virtual environment: on Debian, apt install python3-venv" >&2; exit 1; }

$(VENV)/.demo: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[demo]'
	@touch $@

$(VENV)/.test: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[demo,test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.servers: Makefile | $(BIN)/python
	@rm -rf $(VENV)/servers
	$(BESIDE)/gunicorn-20.1.0 gunicorn==20.1.0 'setuptools<81'
	$(BESIDE)/gunicorn-23.0.0 gunicorn==23.0.0 packaging
	$(BESIDE)/gunicorn-25.3.0 gunicorn==25.3.0 packaging
	$(BESIDE)/supervisor-4.2.5 supervisor==4.2.5 'setuptools<81'
	@touch $@
