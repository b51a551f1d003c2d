# make demo | quick | test | test-all | check | bench | gpu | faults | study   VENV=... shares an environment between clones (it takes 6.6 GB)
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.biomass-installed
# Two workers with two threads each crawl on two cores: the thread pools of numpy and torch stay at one per process.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo quick test test-all check format bench bench-speed gpu faults study clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar off --constraint constraints.txt --editable '.[demo,dashboard,dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m orchestration demo demo

# Three tiers, each on two cores: what a change needs at once (a minute), what CI runs (12 minutes), and the long roads,
# clusters and kills as well (45 minutes). Tests with real Ray run one at a time, in one of the two processes.
TESTS := $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder

quick: $(STAMP)
	$(TESTS) -m "not slow and not ray and not long" --durations 3

test: $(STAMP)
	$(TESTS) -m "not long"

test-all: $(STAMP)
	$(TESTS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# an hour or two: speed, the blending study, the rest
bench: bench-speed
	$(BIN)/python tests/benchmarks/bench_ensembles.py
	$(BIN)/python tests/benchmarks/simulate_blending.py
	$(BIN)/python tests/benchmarks/simulate_errors.py
	$(BIN)/python tests/benchmarks/simulate_intervals.py
	$(BIN)/python tests/benchmarks/simulate_pruning.py --replicates 1000
	$(BIN)/python tests/benchmarks/simulate_search.py
	$(BIN)/python tests/benchmarks/bench_scheduling.py
	$(BIN)/python tests/benchmarks/bench_scheduling.py 1000 2 --seconds 0.02
	$(BIN)/python tests/benchmarks/bench_stack.py
	$(BIN)/python tests/benchmarks/bench_store.py runs/bench-store
	$(BIN)/python tests/benchmarks/bench_store.py runs/bench-store --index 1000000
	$(BIN)/python tests/benchmarks/bench_predict.py runs/bench-predict
	$(BIN)/python tests/benchmarks/bench_precision.py runs/bench-precision
	$(BIN)/python tests/benchmarks/bench_folds.py runs/bench-folds
	$(BIN)/python tests/benchmarks/bench_ledger.py --proposals
	$(BIN)/python tests/benchmarks/bench_ledger.py --s3 5
	$(BIN)/python tests/benchmarks/bench_scaling.py
	$(BIN)/python tests/benchmarks/bench_coordinators.py
	$(BIN)/python tests/benchmarks/bench_serve.py runs/bench-serve

# the first part of `make bench`, three quarters of an hour: what the table of speed in docs/measured.md shows;
# AGAINST=WORKTREE: an earlier version, whose start is measured beside this one's; REPEATS: of start and speed
REPEATS ?= 3
bench-speed: $(STAMP)
	$(BIN)/python tests/benchmarks/bench_start.py runs/bench-start --repeats $(REPEATS) $(AGAINST:%=--against %)
	$(BIN)/python tests/benchmarks/bench_speed.py runs/bench-speed --repeats $(REPEATS)
	$(BIN)/python tests/benchmarks/bench_prefix.py runs/bench-prefix
	$(BIN)/python tests/benchmarks/bench_heads.py
	$(BIN)/python tests/benchmarks/bench_ledger.py

# 8 minutes at most on a machine with an NVIDIA GPU; writes runs/gpu/gpu.md and gpu.json
gpu: $(STAMP)
	$(BIN)/python tests/benchmarks/check_gpu.py runs/gpu

# searches whose driver, worker or raylet is killed 20 times at random moments, then an audit
faults: $(STAMP)
	$(BIN)/python tests/faults/campaign.py

# every family and option, on drawn pasture and on PHOTOGRAPHS=folder with table.csv (photo, item, total_g); resumable
study: $(STAMP)
	$(BIN)/biomass weights get dinov2_vits14
	$(BIN)/python tests/benchmarks/study_families.py runs/families $(if $(PHOTOGRAPHS),--photographs $(PHOTOGRAPHS))

clean:
	rm -rf demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
