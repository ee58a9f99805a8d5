# Everything happens in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/pytest -q -p no:cacheprovider

.PHONY: serve test test-adversarial test-knot-a test-knot-i test-others test-reports test-loadtest test-fast test-docker format bench-tame bench-knot loadtest loadtest-distributed loadtest-watch simulate simulate-mutants soak attack fuzz clean

serve: .venv/made
	$(BIN)/knot serve ./www

# Hundreds of servers are started: none of them shall have to compile its modules.
test test-%: export PYTHONDONTWRITEBYTECODE =

# In parts, two at once; the slowest come first.
test: .venv/made
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target \
		test-adversarial test-knot-a test-knot-i test-others test-reports test-loadtest

test-adversarial test-loadtest test-reports: test-%: .venv/made
	$(PYTEST) tests/$*

test-knot-a: .venv/made
	$(PYTEST) tests/knot/test_[a-h]*.py

test-knot-i: .venv/made
	$(PYTEST) tests/knot/test_[i-z]*.py

test-others: .venv/made
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST) tests/tame tests/examples tests/test_*.py

# For the daily loop: the language, the core, each model, and the command line once for each.
test-fast: .venv/made
	$(PYTEST) --ignore tests/tame/test_types.py tests/tame tests/test_layers.py $(CORE) \
		tests/knot/test_server.py tests/knot/test_cli.py::test_curl_gets_the_site

CORE := $(patsubst %,tests/knot/test_%.py,accept conditions config core encodings http2_errors listing \
	media_types networks paths proxy ranges rates request respond site)

# Builds the image and uses it; as root, with the Debian packages buildah and debootstrap.
test-docker: .venv/made
	$(BIN)/pytest -q -s docker

format: .venv/made
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench-tame: .venv/made
	$(BIN)/python -P -m loadtest.micro.bench_tame

# A short run: make bench-knot ARGS="--rounds 1 --seconds 1 --only 304"
bench-knot: .venv/made
	$(BIN)/python -P -m loadtest.micro.bench_knot $(ARGS)

# The experiment, about 5 minutes; the long one: make loadtest LOAD=full
# Single parts: make loadtest ARGS="--only figure7 --only memory"
loadtest: .venv/made
	$(BIN)/python -P -m loadtest run $(if $(filter full,$(LOAD)),--full) $(ARGS)

# Knot for ten minutes while all that can happen to it happens: make soak ARGS="--minutes 60"
soak: .venv/made
	$(BIN)/python -P -m loadtest.robust.soak $(ARGS)

# A whole server in virtual time, on a network and a disk in memory, once for each seed.
# One again: make simulate ARGS="--seed 7"
simulate: .venv/made
	$(BIN)/python -P -m loadtest.robust.simulate --seeds $(or $(SEEDS),1000) $(ARGS)

# Does the simulation find bugs that were planted?
simulate-mutants: .venv/made
	$(BIN)/python -P -m loadtest.robust.simulate --mutants --seeds $(or $(SEEDS),1000)

# Looks for bytes that break the core: make fuzz SECONDS=600 TARGET=requests
fuzz: .venv/made
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(BIN)/python -P -m loadtest.robust.fuzz $(TARGET) --seconds $(or $(SECONDS),60)

# What live traffic keeps beside each attack: make attack ARGS="--only slow"
attack: .venv/made
	$(BIN)/python -P -m loadtest.robust.attack $(ARGS)

# locust, a master and two workers against Knot: make loadtest-distributed ARGS="--workers 4"
loadtest-distributed: .venv/made
	$(BIN)/python -P -m loadtest.experiment.distributed run $(ARGS)

# Knot, and locust's page to put loads on it and watch them.
loadtest-watch: .venv/made
	$(BIN)/python -P -m loadtest.experiment.distributed watch $(ARGS)

.venv/made: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,loadtest]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
