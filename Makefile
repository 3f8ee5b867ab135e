# make train    set up once, then train; ARGS="model=mlp seed=1" are passed on to scripts/train.py
# make test     set up once, then run the tests that need nothing but the environment
# make setup    make .venv with everything for use, tests and development
# make check    what has to pass before a commit: format, lint, types, imports, tests
# make results  run the recorded experiments that fit this machine again, and write docs/results.md (hours);
#               ARGS="cnn mlp" runs these, ARGS=--collect takes what was run, ARGS=--render only writes
# make tensorboard   show runs and sweeps at http://localhost:6006, to this machine only

SHELL := /bin/sh
export PYTHON
VENV := .venv
PY := $(VENV)/bin/python
DONE := $(VENV)/.installed
SPECIAL := realdata or slow or kill or browser or slurm or fuzz or gpu

.PHONY: train test setup check results tensorboard

train: $(DONE)
	@$(PY) scripts/train.py $(or $(ARGS),trainer.max_epochs=10)

test: $(DONE)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 -m "not ($(SPECIAL))" $(ARGS)

setup: $(DONE)

check: $(DONE)
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports
	@$(MAKE) --no-print-directory test

results: $(DONE)
	@$(PY) scripts/results.py $(ARGS)

tensorboard: $(DONE)
	@$(PY) scripts/board.py $(ARGS)

# Made again when the dependencies change; an interrupted set-up is repeated.
$(DONE): pyproject.toml constraints.txt
	@sh scripts/make_venv.sh $(VENV)
	@if [ -t 1 ]; then quiet=; else quiet=-q; fi; \
	$(PY) -m pip install $$quiet --disable-pip-version-check -c constraints.txt -e ".[optuna,export,test,browser,dev]"
	@touch $@
