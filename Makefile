# All that a fresh machine needs is Python 3.11 or newer, make and git: the first target that wants the environment makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help run test test-system test-faults test-rest check cover browser compliance fuzz bench bench-broadcast bench-handover soak pictures clean
.DEFAULT_GOAL := help

help:
	@echo "make run     start the hello example on ws://127.0.0.1:2346, Ctrl+C stops it"
	@echo "make test    run all tests; make -j3 test-system test-faults test-rest runs its parts at once"
	@echo "make check   ruff (format and lint) and mypy --strict"
	@echo "make cover   every branch of the pure files is covered by their own tests"
	@echo "make browser  a headless Chromium against a running daemon; make test has it too where chromium is installed"
	@echo "make compliance  the Autobahn test suite against a running daemon, a minute the first time; needs CPython 2.7"
	@echo "make fuzz    what no client would send, for two minutes; make fuzz SECONDS=300 for five"
	@echo "make soak    twenty minutes of random faults under load"
	@echo "make bench   echo benchmark against other servers, about three minutes"
	@echo "make bench-broadcast  messages to 1,000 clients, against other servers and over brokers, about three minutes"
	@echo "make bench-handover  5,500 connections moved by a reload: CPU for it, and how long clients wait, half a minute"
	@echo "make pictures  take the pictures of docs/img anew, with a headless Chromium; make pictures ARGS=status for one"

# the groups are read with tomllib and not by `pip install --group`, which needs a newer pip than Python 3.11 brings
$(BIN)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wsworker needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' > $(VENV)/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(VENV)/dev.txt
	@touch $@

run: $(BIN)/.ready
	$(BIN)/wsworker start -c examples/hello/config.yaml

test: $(BIN)/.ready
	$(BIN)/python -m pytest $(ARGS)

# the same in parts, for `make -j3 test-system test-faults test-rest`: the tests mostly wait. No pytest-xdist: it has a
# thread in each of its processes, and what is tested here forks, which a process of several threads must not
FAULTS := tests/system/faults tests/system/handover tests/system/upgrade

test-system: $(BIN)/.ready
	$(BIN)/python -m pytest tests/system $(FAULTS:%=--ignore=%) $(ARGS)

test-faults: $(BIN)/.ready
	$(BIN)/python -m pytest $(FAULTS) $(ARGS)

test-rest: $(BIN)/.ready
	$(BIN)/python -m pytest --ignore=tests/system $(ARGS)

check: $(BIN)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

cover: $(BIN)/.ready
	$(BIN)/python -m tests.pure

# Playwright comes from PyPI without a browser; chromium is Debian's, or what $WSWORKER_TEST_CHROMIUM names
browser: $(BIN)/.ready
	WSWORKER_TEST_REQUIRE=all $(BIN)/python -m pytest tests/browser $(ARGS)

# what it installs stays in .abts, also after make clean: its versions are pinned
compliance: $(BIN)/.ready
	$(BIN)/python -m tests.compliance $(ARGS)

# one at a time: python -m tests.fuzz streams
SECONDS ?= 120
fuzz: $(BIN)/.ready
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

$(BIN)/.bench: $(BIN)/.ready
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["bench"], sep="\n")' > $(VENV)/bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(VENV)/bench.txt
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["bench-optional"], sep="\n")' > $(VENV)/bench.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $(VENV)/bench.txt || echo "make bench goes on without these"
	@touch $@

bench: $(BIN)/.bench
	$(BIN)/python -m benchmarks.echo $(ARGS)

bench-broadcast: $(BIN)/.bench
	$(BIN)/python -m benchmarks.broadcast $(ARGS)
	$(BIN)/python -m benchmarks.hop $(ARGS)

bench-handover: $(BIN)/.ready
	$(BIN)/python -m benchmarks.handover $(ARGS)

soak: $(BIN)/.ready
	WSWORKER_CHAOS_SECONDS=1200 $(BIN)/python -m pytest -s tests/system/test_chaos.py $(ARGS)

pictures: $(BIN)/.ready
	$(BIN)/python -m tests.pictures $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
