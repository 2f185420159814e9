# Volley. `make run` needs Python 3.11 or later and make, nothing else; no target needs root.

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV ?= uv
ARGS ?=
# Processes that share the tests, each with engines of its own; engines from outside are for one.
WORKERS ?= $(if $(VOLLEY_REDIS_URL),0,2)

# With INSTALLED=1, $(VENV) is taken as it is: .ci/run puts the built wheel into it.
ifdef INSTALLED
READY_TO_RUN :=
READY_TO_TEST :=
else
READY_TO_RUN := $(VENV)/run.stamp
READY_TO_TEST := $(VENV)/test.stamp
endif

.DEFAULT_GOAL := help
.PHONY: help run test check bench soak wheel lock clean wipe

help:
	@echo 'make run     start everything here: engines, API, console, dispatcher, sandbox'
	@echo 'make test    all tests but the long ones       (ARGS="tests/cli -k up")'
	@echo 'make check   what CI checks before it tests: style, types, import rules'
	@echo 'make bench   messages a second, end to end     (ARGS="--messages 50000")'
	@echo 'make soak    the long tests'
	@echo 'make wheel   dist/*.whl'
	@echo 'make lock    pin the dependencies (needs uv; RELOCK=--upgrade takes newer ones)'
	@echo 'make clean   delete what was built; make wipe: delete the data in .volley, too'

# exec: signals reach Volley itself, not a shell in between
run: $(READY_TO_RUN)
	@exec $(BIN)/volley up $(ARGS)

test: $(READY_TO_TEST)
	$(BIN)/pytest -m 'not soak' -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY_TO_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY_TO_TEST)
	$(BIN)/python -m loadtests.bench $(ARGS)

soak: $(READY_TO_TEST)
	$(BIN)/pytest -m soak $(ARGS)

wheel: $(READY_TO_TEST)
	$(BIN)/python -m build --wheel --no-isolation

# -- the virtual environment: locked and hashed, made once, made again when a lock changes

$(VENV)/made.stamp:
	@for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	    if $$python -c 'import sys, ssl, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "making $(VENV) with $$($$python --version)"; \
	        $$python -m venv $(VENV) && touch $@; exit; \
	    fi; \
	done; \
	echo 'Python 3.11 or later is needed, with its venv module (Debian: apt install python3-venv)' >&2; exit 1

$(VENV)/run.stamp: requirements.lock requirements-build.lock pyproject.toml | $(VENV)/made.stamp
	@echo 'installing the locked dependencies (a minute, the first time)'
	@$(PIP) install --require-hashes -r requirements-build.lock -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp requirements-dev.lock
	@echo 'installing what the tests need'
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

# -- locks: for every platform, with hashes, without naming an index

COMPILE := $(UV) pip compile --universal --generate-hashes --no-emit-index-url --no-header --quiet
RELOCK ?=

lock:
	$(COMPILE) $(RELOCK) pyproject.toml -o requirements.lock
	$(COMPILE) $(RELOCK) pyproject.toml --extra dev -c requirements.lock -o requirements-dev.lock
	printf 'hatchling>=1.27\neditables\nbuild\n' | \
		$(COMPILE) $(RELOCK) --python-version 3.11 -c requirements-dev.lock - -o requirements-build.lock

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# the engines' data may lie elsewhere: see app/engines/home.py
wipe:
	@! { [ -L .volley/engines ] && ! rm -rf "$$(readlink .volley/engines)"; }
	rm -rf .volley
