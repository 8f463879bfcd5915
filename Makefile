# make demo: prune a network and see the report.   make test: all checks.   make quick: while working.
# They create their own environment in .venv and change nothing else. They need Python ≥ 3.11, pip and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The versions that CI ran, where it runs (other platforms are free); empty for the newest.
CONSTRAINTS ?= constraints.txt
INSTALL := -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
# Two workers, each from its long tests to its short ones; an idle worker takes the other's.
WORKERS := -n 2 --dist worksteal
# Idle OpenMP threads must sleep, not spin: otherwise two processes on two cores are 4× slower.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo quick test lint types layers unit crash damage durations hooks constraints picture clean

demo: $(VENV)/.core
	$(BIN)/prunus prune --model lenet5 --data digits --budget params=10% --out runs/demo --resume
	@echo "Open runs/demo/report.html in a browser."

test: lint types layers unit

# What to run while working, in 90 seconds on two cores: no test or fixture that takes long.
quick: lint types layers
	$(BIN)/pytest $(WORKERS) --quick

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/pytest $(WORKERS) --durations=25

# Kill every command before and after each of its writes, and resume it: takes a while.
crash: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.crash

# Damaged run folders: every file, every way, every command and call. Some minutes.
damage: $(VENV)/.dev
	$(BIN)/pytest tests/damage --whole -s

# How long every test takes, which orders them (tests/order.py): on a quiet machine, now and then.
durations: $(VENV)/.dev
	$(BIN)/pytest $(WORKERS) --durations-file

# What the hook of `pre-commit install` runs before a commit: the linters of `make test`.
hooks: $(VENV)/.dev
	$(BIN)/pre-commit run --all-files

# The versions that are installed now, for others to install, once `make CONSTRAINTS= test` passes.
constraints: $(VENV)/.dev
	$(BIN)/python .ci/pin.py > constraints.new
	mv constraints.new constraints.txt
	touch $(VENV)/.core $(VENV)/.dev

# The README's picture: a screenshot of the demo's report.
picture: demo $(VENV)/.dev
	$(BIN)/python docs/picture.py runs/demo/report.html docs/report.png

$(VENV)/.core: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Prunus needs Python 3.11 or newer, this is ' + sys.version.split()[0])"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python $(INSTALL) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs/demo
