# One verb a job. Each installs what it needs into the venv of its interpreter: PYTHON=python3.14 make test
PYTHON ?= python3
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
RUN := $(VENV)/bin/python

.PHONY: demo test test-slow style format types check coverage fuzz sanitize stress mutants crash soak model bench bench-plots \
	arm64 race docs docs-serve docs-test dist-check clean

demo: $(VENV)/.cli
	$(RUN) examples/count_tokens.py

# Each promise once, in two processes. Some of the tests: make test TESTS="tests/test_port.py -k timeout"
JOBS ?= 2
test: $(VENV)/.test
	$(RUN) -m pytest -n $(JOBS) -m "not slow" $(TESTS)

# The tests that are long, or repeat a promise with other values or on other sides.
test-slow: $(VENV)/.test
	$(RUN) -m pytest -n $(JOBS) -m slow $(TESTS)

style: $(VENV)/.check
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

format: $(VENV)/.check
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

types: $(VENV)/.check
	$(RUN) -m mypy
	$(RUN) -m pyright

check: style types

coverage: $(VENV)/.test
	$(RUN) -m coverage run -m pytest $(TESTS)
	$(RUN) -m coverage report

# Mutated bytes against the decoder.
SECONDS ?= 60
fuzz: $(VENV)/.test $(VENV)/.fuzz
	$(RUN) tests/programs/fuzz/decode.py -max_total_time=$(SECONDS)

# The C core under sanitizers; needs gcc with their libraries.
sanitize: $(VENV)/.test
	tests/programs/native/sanitize.sh $(RUN)

# Threads at once under ThreadSanitizer: PYTHON is a CPython made with --disable-gil --with-thread-sanitizer. What starts
# an interpreter or another process is left out: the first makes CPython race with itself, the second has one thread.
RACE_TESTS = -m "not slow" -k "not (interpreter or spawn or program or fork or million or 200000 or 64_mib)" \
  $(patsubst %,tests/test_%.py,races port events multiplex streams asyncio batches lent port_buffer transfer pool waiting)
race: $(VENV)/.test
	tests/programs/native/race.sh $(RUN) $(or $(TESTS),$(RACE_TESTS))

# Tests on arm64, by qemu, for some minutes. ARM64: a CPython 3.14 for arm64 that runs here, under one prefix with its headers.
ARM64 ?= /opt/python-3.14-arm64/usr/bin/python3.14
ARM64_TESTS = -m "not slow" -k "not million" tests/test_batches.py tests/test_native.py tests/test_ring.py
arm64: $(VENV)/.test
	tests/programs/native/arm64.sh $(RUN) $(ARM64) $(VENV)-arm64 $(or $(TESTS),$(ARM64_TESTS))

# Interpreters that come and go, for a minute or two: PYTHON=python3.14 make stress
stress: $(VENV)/.test
	$(RUN) tests/programs/stress.py

# The code broken in one place at a time: whether the tests notice. Some: make mutants MUTANTS=native/
mutants: $(VENV)/.test
	$(RUN) tests/programs/mutants.py $(MUTANTS)

# One side killed or stopped at each step, then at random moments; takes hours. CRASH_EVERY=16: at each 16th step.
# In C with gdb and gcc, in interpreters with 3.14: PYTHON=python3.14 make crash CRASH="--write docs/reliability.md"
CRASH_EVERY ?= 1
CRASH_ROUNDS ?= 2000
crash: $(VENV)/.test
	PYTHONPATH=tests $(RUN) -m programs.crash --every $(CRASH_EVERY) --rounds $(CRASH_ROUNDS) $(CRASH)

# Hundreds of channels at once, and processes that are killed. SOAK="--seed N" draws the same channels again.
MINUTES ?= 10
soak: $(VENV)/.test
	PYTHONPATH=tests $(RUN) -m programs.soak --minutes $(MINUTES) $(SOAK)

# The protocol in every interleaving, and on arm64; needs spin and gcc, and herd7 (docs/model/install-herd7).
# SHORT=1: smaller rings, about a minute.
model:
	$(PYTHON) docs/model/check.py $(if $(SHORT),--short)

# Beside its rivals, with the bench's own options: make bench BENCH="--where process --workload echo"
bench: $(VENV)/.bench
	$(RUN) -m shmchannel bench $(BENCH)

# The figures of the documentation; between interpreters too, where the Python has them (3.14).
PLOTS ?= docs/plots
PLACES = process thread $(shell $(RUN) -c 'import concurrent.interpreters; print("interpreter")' 2>/dev/null)
bench-plots: $(VENV)/.bench
	mkdir -p $(PLOTS)
	set -e; for where in $(PLACES); do \
	$(RUN) -m shmchannel bench --where $$where --plot $(PLOTS)/$$where.svg --json $(PLOTS)/$$where.json $(BENCH); \
	done
	set -e; for group in growth pool; do \
	$(RUN) -m shmchannel bench --workload $$group --plot $(PLOTS)/$$group.svg --json $(PLOTS)/$$group.json $(BENCH); \
	done

# The site, in build/site. docs-test looks at it in a browser: Debian's chromium and chromium-driver.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/python -m mkdocs
docs: $(VENV)-docs/.docs
	$(MKDOCS) build --quiet --strict -f docs/mkdocs.yml

docs-serve: $(VENV)-docs/.docs
	$(MKDOCS) serve -f docs/mkdocs.yml --watch src --watch CHANGELOG.md

docs-test: $(VENV)-docs/.docs $(VENV)-docs/.test
	$(VENV)-docs/bin/python -m pytest tests/test_site.py

# An sdist and a wheel, in dist: what is in them, and how they install and run elsewhere. Needs git.
# SHORT=1: installs only the wheel, in a quarter of a minute.
dist-check: $(VENV)/.dist
	$(RUN) tests/programs/dist_check.py $(if $(SHORT),--short)

clean:
	rm -rf .venv .venv-* build dist src/*.egg-info .coverage .coverage.* src/shmchannel/_native*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A file VENV/.EXTRA says that this extra of the package is installed there. `make venv venv-fuzz` installs before use.
# A Python that few build for, as one without a GIL, gets the last version with a wheel rather than a newer source.
EXTRAS := $(addprefix $(VENV)/.,cli test check fuzz bench dist) $(VENV)-docs/.docs $(VENV)-docs/.test
.PHONY: venv
venv: $(VENV)/.test
venv-%: $(VENV)/.% ;

$(EXTRAS): pyproject.toml
$(filter-out %.check %.dist,$(EXTRAS)): setup.py $(wildcard src/shmchannel/native/*)  # the C core, built anew
$(EXTRAS):
	test -x $(@D)/bin/python || $(call new_venv,$(@D))
	$(@D)/bin/python -m pip install -q --prefer-binary --disable-pip-version-check -e '.[$(patsubst .%,%,$(@F))]'
	touch $@

# By the interpreter's own means or, where it has no ensurepip (Debian), by a borrowed virtualenv.
new_venv = $(PYTHON) -m venv $1 || { rm -rf $1 && python3 -m venv $1-maker && \
	$1-maker/bin/pip install -q --disable-pip-version-check virtualenv && \
	$1-maker/bin/virtualenv -q -p $(PYTHON) $1 && rm -rf $1-maker; }
