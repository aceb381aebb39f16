PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Ray starts some processes for each trial, and each would compile mdssl anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install sweep test test-fast test-long test-cluster chaos soak mutants lint bench

# The environment is made once, and again when what it should hold has changed.
install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

sweep: install
	$(BIN)/python sweeps/lambda_grid.py

test: install
# Tests that share what is slow to set up stay in one process. Which do, and what comes first: tests/conftest.py. On two
# cores a third process works while others wait for Ray.
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 25

# What takes no Ray, no further processes and less than a second, in a minute and a half: for use after a change.
test-fast: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not (process or ddp or slow or seconds or long or cluster)"

# Two nodes on loopback, with sshd and rsync: brings one up, trains over both, kills a worker, takes it down.
test-cluster: install
	$(BIN)/python -m pytest -m cluster -rs tests/clusters

# What would make the tests too slow for every change: a worker that hangs, a spot machine that says when it goes, ...
test-long: install
	$(BIN)/python -m pytest -m long

# Kills workers, trials, the probe, the sweep and nodes; `python tests/chaos.py --help` has other numbers.
chaos: install
	$(BIN)/python tests/chaos.py --kills 20 --seed 0

# A sweep of 300 short trials, and what its processes hold on the way.
soak: install
	$(BIN)/python tests/soak.py --trials 300

# Changes one place of the source at a time and lists the changes that no test notices; half an hour.
mutants: install
	$(BIN)/python tests/mutants.py --minutes 25

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

# The peers that the benches compare with are of no use to anything else.
bench: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --group bench-search
	$(BIN)/python bench/all.py
