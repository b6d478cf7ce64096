# make serve: a chat model answers on this machine. make test: everything is tested. README.md has the rest.

PYTHON ?=
ARGS   ?=
PY     := .venv/bin/python
# The environment is made anew when what goes into it changes.
LOCK   := $(shell cat requirements/dev.txt pyproject.toml build/environment.sh | cksum | tr ' ' '-')
STAMP  := .venv/made-$(LOCK)
# A test process that dies takes the run with it: whole files go to one process, and what a dead one had would be waited
# for without end.
PYTEST := $(PY) -m pytest -n auto --dist loadfile --max-worker-restart=0
# Without byte code every start compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup model templates serve test test-fast fuzz program-test clients-test clients-lock check bench peers bench-results bench-report freeze frozen-test lock clean

setup: $(STAMP)
	@$(PY) -m build.native

model: $(STAMP)
	@$(PY) -m build.model

# Chat templates of real models, for the tests. Prints where they are.
templates: $(STAMP)
	@$(PY) -m build.templates

serve: setup model
	@exec $(PY) -m shimmy serve --bind auto $(ARGS)

test: setup model templates
	@$(PYTEST) -m "not frozen and not clients" $(ARGS)

test-fast: $(STAMP)
	@$(PYTEST) -m "not model and not slow and not frozen and not clients" --hypothesis-profile fast $(ARGS)

# The property tests alone, with as many new examples as an hour allows.
fuzz: setup
	@$(PYTEST) -m "hypothesis and not model" --hypothesis-profile fuzz --timeout 3600 $(ARGS)

# What make test has in its own process where that is possible, as a user runs it: the installed command.
program-test: setup model
	@SHIMMY_EXE="$(CURDIR)/.venv/bin/shimmy" $(PYTEST) -m "program and not clients" $(ARGS)

# Other people's programs, fetched from PyPI and npm; docs/protocols.md is made of what they gave.
clients-test: setup model
	@$(PY) -m tests.clients $(ARGS)

# Choose their versions anew.
clients-lock: $(STAMP)
	@$(PY) -m pip install --quiet uv==0.13.8
	@sh tests/clients/lock.sh

check: $(STAMP)
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) -m pytest -q tests/test_imports.py

bench: setup model
	@$(PY) -m bench $(ARGS)

# The servers to compare with, from the source that ours is made of: llama-server, and Python's. Prints where they are.
peers: $(STAMP)
	@$(PY) -m build.peers

# All that bench-report reads, about 30 minutes on 2 cores on which nothing else may run.
bench-results: freeze model peers
	@SHIMMY_EXE=dist/shimmy sh bench/results.sh $(PY)

bench-report: $(STAMP)
	@$(PY) -m bench.summary

# One executable, dist/shimmy. BOOTLOADER=stock takes PyInstaller's own.
freeze: setup
	@$(PY) -m build.freeze $(if $(BOOTLOADER),--bootloader $(BOOTLOADER))

# First in one process, because start-up times are measured; then what program-test has, against the executable.
frozen-test: freeze model
	@SHIMMY_EXE="$(CURDIR)/dist/shimmy" $(PY) -m pytest -rP tests/frozen $(ARGS)
	@SHIMMY_EXE="$(CURDIR)/dist/shimmy" $(PYTEST) -m "program and not clients" $(ARGS)

# Choose versions anew, within the bounds of pyproject.toml, and pin them with their hashes.
lock: $(STAMP)
	@$(PY) -m pip install --quiet uv==0.13.8
	@sh requirements/lock.sh $(ARGS)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis shimmy/native dist build/out
	find . -name __pycache__ -prune -exec rm -rf {} +

$(STAMP):
	@PYTHON="$(PYTHON)" sh build/environment.sh $@ >&2
