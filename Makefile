# Everything happens in .venv. A target installs what it needs there, the first time it runs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
PYTEST := $(BIN)/pytest -q -p no:cacheprovider

.DEFAULT_GOAL := help
.PHONY: help serve test test-adversarial test-knot-a test-knot-i test-others test-reports test-loadtest test-fast test-docker format bench-tame bench-knot loadtest loadtest-distributed loadtest-watch simulate simulate-mutants soak attack fuzz clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-21s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

serve: .venv/serve ## Serve ./www at http://127.0.0.1:8000
	$(BIN)/knot serve ./www

# Hundreds of servers are started: none of them shall have to compile its modules.
test test-%: export PYTHONDONTWRITEBYTECODE =

# In parts, two at once; the slowest come first.
test: .venv/test ## Run all tests, ruff and mypy
	$(MAKE) --no-print-directory --keep-going --jobs 2 --output-sync=target \
		test-adversarial test-knot-a test-knot-i test-others test-reports test-loadtest

test-adversarial test-loadtest test-reports: test-%: .venv/test
	$(PYTEST) tests/$*

test-knot-a: .venv/test
	$(PYTEST) tests/knot/test_[a-h]*.py

test-knot-i: .venv/test
	$(PYTEST) tests/knot/test_[i-z]*.py

test-others: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST) tests/tame tests/examples tests/packaging tests/test_*.py

# For the daily loop: the language, the core, each model, and the command line once for each.
test-fast: .venv/test ## Run a part of the tests, in under a minute
	$(PYTEST) --ignore tests/tame/test_types.py tests/tame tests/test_layers.py $(CORE) \
		tests/knot/test_server.py tests/knot/test_cli.py::test_curl_gets_the_site

CORE := $(patsubst %,tests/knot/test_%.py,accept compression conditions config core forwarded http2_errors listing \
	media_types networks paths ranges rates request responder site)

test-docker: .venv/test ## Build and try the image (as root, with buildah and debootstrap)
	$(BIN)/pytest -q -s docker

format: .venv/test ## Format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench-tame: .venv/loadtest ## Compare Tame with asyncio
	$(BIN)/python -P -m loadtest.micro.bench_tame

# A short run: make bench-knot ARGS="--rounds 1 --seconds 1 --only 304"
bench-knot: .venv/loadtest ## Compare Knot with nginx (needs nginx-light and wrk)
	$(BIN)/python -P -m loadtest.micro.bench_knot $(ARGS)

# A part: make loadtest ARGS="--only figure7 --only memory"
loadtest: .venv/loadtest ## Run the experiment: 5 minutes, or LOAD=full for half an hour
	$(BIN)/python -P -m loadtest run $(if $(filter full,$(LOAD)),--full) $(ARGS)

loadtest-distributed: .venv/loadtest ## Load Knot with locust, ARGS="--workers 4"
	$(BIN)/python -P -m loadtest.experiment.distributed run $(ARGS)

loadtest-watch: .venv/loadtest ## Load Knot from locust's web page
	$(BIN)/python -P -m loadtest.experiment.distributed watch $(ARGS)

# One seed: make simulate ARGS="--seed 7"
simulate: .venv/loadtest ## Run a whole server in virtual time, for SEEDS=1000 seeds
	$(BIN)/python -P -m loadtest.robust.simulate --seeds $(or $(SEEDS),1000) $(ARGS)

simulate-mutants: .venv/loadtest ## Check that the simulation finds planted bugs
	$(BIN)/python -P -m loadtest.robust.simulate --mutants --seeds $(or $(SEEDS),1000)

soak: .venv/loadtest ## Serve for ten minutes under faults and reloads, ARGS="--minutes 60"
	$(BIN)/python -P -m loadtest.robust.soak $(ARGS)

attack: .venv/loadtest ## Measure throughput during each attack, ARGS="--only slow"
	$(BIN)/python -P -m loadtest.robust.attack $(ARGS)

fuzz: .venv/fuzz ## Look for input that breaks the core, SECONDS=600 TARGET=requests
	$(BIN)/python -P -m loadtest.robust.fuzz $(TARGET) --seconds $(or $(SECONDS),60)

clean: ## Remove .venv and all caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A file for each set of packages that is installed.
$(BIN)/python:
	@echo 'Creating a virtual environment in .venv with $(PYTHON)'
	@$(PYTHON) -m venv .venv

.venv/serve: pyproject.toml | $(BIN)/python
	@echo 'Installing Knot with click, httptools and uvloop'
	@$(PIP) install --editable .
	@touch $@

.venv/loadtest: .venv/serve
	@echo 'Installing the packages for measuring: gevent, locust, matplotlib, ... (half a minute)'
	@$(PIP) install --editable '.[loadtest]'
	@touch $@

.venv/test: .venv/loadtest
	@echo 'Installing the packages for testing: hypothesis, mypy, pytest, ruff, ...'
	@$(PIP) install --editable '.[test]'
	@touch $@

.venv/fuzz: .venv/loadtest
	@echo 'Installing atheris'
	@$(PIP) install --editable '.[fuzz]'
	@touch $@
