# Two commands: `make run` runs the whole job, `make test` checks it. Both install what they need into .venv first.

PYTHON ?= python3
# Which TensorFlow: cpu, or gpu on Linux with an NVIDIA driver, which brings CUDA. Each has an environment of its own.
SET    ?= cpu
VENV   := $(if $(filter gpu,$(SET)),.venv-gpu,.venv)
LOCK   := $(if $(filter gpu,$(SET)),requirements-gpu.lock,requirements.lock)
# Where everything is kept, and where MNIST comes from (https://, file:// or s3://). Empty: what RETRAIN_STORE,
# RETRAIN_MIRROR or retrain.toml say; else ./store, and the public mirrors or scikit-learn's digits.
STORE  ?=
MIRROR ?=
# More options of `retrain run`.
ARGS   ?=

.PHONY: run install test test-page test-faults test-e2e test-nightly test-fuzz lint bench bench-seeds bench-gpu lock clean

run: $(VENV)/run.ok
	@$(VENV)/bin/retrain run --or-digits $(if $(STORE),--store '$(STORE)') $(if $(MIRROR),--mirror '$(MIRROR)') $(ARGS)

# For CI, which needs the exit code of `retrain run`: make turns any into 2.
install: $(VENV)/run.ok

# What has targets of its own.
E2E  := tests/workers $(filter-out %/test_job.py,$(wildcard tests/end_to_end/test_*.py)) tests/deployments/test_ci.py
SLOW := tests/benchmarks tests/browser tests/faults $(E2E)

# Two at a time, which is what a small CI machine has cores for; a file's tests stay together, as they share what is slow
# to make: a store that a first run has filled, a server, TensorFlow's import. In the order of their names, which has the
# longest ones near its beginning: pytest-xdist's own puts files of few tests last, and one of them then runs alone.
test: lint
	$(VENV)/bin/python -m pytest -m "not nightly" -n 2 --dist loadfile --no-loadscope-reorder $(addprefix --ignore ,$(SLOW))

# The report in a real browser; fails where there is no Chromium and no Chrome. Takes two minutes.
test-page: $(VENV)/dev.ok
	$(VENV)/bin/python -m pytest -n 2 tests/browser

# Servers that fail, publishers and trainings that are killed, writers and runs that race; takes about ten minutes.
test-faults: $(VENV)/dev.ok
	$(VENV)/bin/python -m pytest -m "not nightly" -n 2 --dist loadfile tests/faults

# A server, two workers and killed processes, gate and cache in the whole job, the CI workflows' own lines; half an hour.
test-e2e: $(VENV)/dev.ok
	$(VENV)/bin/python -m pytest -m "not nightly" -n 2 --dist loadfile $(E2E)

# Scheduled runs for a quarter of an hour, while servers and workers die, what waits for minutes of silence, and the
# benchmarks' own code; the gate's, the registry's and the keys' properties with 1,000 cases instead of 40. Not part of
# .ci/run.
test-nightly: $(VENV)/dev.ok
	$(VENV)/bin/python -m pytest -m nightly tests
	$(VENV)/bin/python -m pytest tests/benchmarks
	$(VENV)/bin/python -m pytest --hypothesis-profile thorough tests/tasks/gate tests/tasks/registry tests/tasks/caching

# Each parser of what a store or a mirror holds, with 10,000 mutated files instead of 30; not part of .ci/run.
test-fuzz: $(VENV)/dev.ok
	$(VENV)/bin/python -m pytest tests/fuzz --every-case

lint: $(VENV)/dev.ok
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Times the job against the plain script that does none of the rest, and the training against PyTorch, JAX and what the
# machine multiplies at best, up to 6,000,000 images; takes about half an hour and 7 GB of memory.
bench: $(VENV)/dev.ok .venv-peers/peers.ok
	$(VENV)/bin/python -m tests.benchmarks.bench --peers .venv-peers/bin/python $(if $(MIRROR),--mirror '$(MIRROR)') $(ARGS)

# Several seeds, one after the other and over a work pool with one and two workers; takes about five minutes.
bench-seeds: $(VENV)/dev.ok
	$(VENV)/bin/python -m tests.benchmarks.seeds $(if $(MIRROR),--mirror '$(MIRROR)') $(ARGS)

# The training on this machine's GPU, or its CPU where there is none: make bench-gpu SET=gpu
bench-gpu: $(VENV)/dev.ok
	$(VENV)/bin/python -m tests.benchmarks.gpu $(if $(MIRROR),'$(MIRROR:file://%=%)') $(ARGS)

# What the job is compared with, apart from what it is made of. What cannot be installed is left out, and bench says so.
.venv-peers/peers.ok: tests/benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement $< && touch $@ || echo 'PyTorch and JAX cannot be installed'

# The lock files name every package, so pip has nothing to resolve; an old one could not.
$(VENV)/run.ok: $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("retrain needs Python 3.11 to 3.13, for which there is TensorFlow; $(PYTHON) is " + sys.version.split()[0] + ". Choose another: make $(or $(MAKECMDGOALS),run) PYTHON=python3.12" if not (3, 11) <= sys.version_info < (3, 14) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $(LOCK)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.ok: requirements-dev.lock $(VENV)/run.ok
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements-dev.lock
	@touch $@

# Versions and hashes, no addresses. Needs uv. The later ones agree with the first; the last one goes on top of either.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header
lock:
	$(COMPILE) --extra cpu pyproject.toml --output-file requirements.lock
	$(COMPILE) --extra gpu --constraint requirements.lock pyproject.toml --output-file requirements-gpu.lock
	$(COMPILE) --group dev --constraint requirements.lock --output-file requirements-dev.lock

clean:
	rm -rf .venv .venv-gpu .venv-peers build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
