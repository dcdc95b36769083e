# One verb a job. Each sets up what it needs in a venv of this interpreter: PYTHON=python3.14 make test
PYTHON ?= python3
ifeq ($(PYTHON),python3)
VENV := .venv
else
VENV := .venv-$(notdir $(PYTHON))
endif
RUN := $(VENV)/bin/python
TESTS ?= tests

.PHONY: demo test style format types check coverage fuzz sanitize stress crash soak model bench bench-plots clean

demo: $(VENV)/.demo
	$(RUN) examples/count_tokens.py

test: $(VENV)/.test
	$(RUN) -m pytest $(TESTS)

style: $(VENV)/.check
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

format: $(VENV)/.check
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

types: $(VENV)/.check
	$(RUN) -m mypy

check: style types

coverage: $(VENV)/.test
	$(RUN) -m coverage run -m pytest $(TESTS)
	$(RUN) -m coverage report

# Bytes against the decoder, for so many seconds.
SECONDS ?= 60
fuzz: $(VENV)/.fuzz
	$(RUN) tests/programs/fuzz/decode.py -max_total_time=$(SECONDS)

# The C under sanitizers; takes a C compiler with their libraries (gcc has them).
sanitize: $(VENV)/.test
	tests/programs/native/sanitize.sh $(RUN)

# Interpreters that come and go, for a minute or two. Needs 3.13 or newer: PYTHON=python3.14 make stress
stress: $(VENV)/.test
	$(RUN) tests/programs/stress.py

# One side killed or stopped at each step, then so many at random; takes hours. CRASH_EVERY=16: each 16th step.
# In C with gdb and gcc, in interpreters with 3.14: PYTHON=python3.14 make crash CRASH="--write docs/reliability.md"
CRASH_EVERY ?= 1
CRASH_ROUNDS ?= 2000
crash: $(VENV)/.test
	PYTHONPATH=tests $(RUN) -m programs.crash --every $(CRASH_EVERY) --rounds $(CRASH_ROUNDS) $(CRASH)

# Hundreds of channels at once, and processes that are killed; with interpreters: PYTHON=python3.14 make soak
# SOAK="--seed N" draws the same channels again.
MINUTES ?= 10
soak: $(VENV)/.test
	PYTHONPATH=tests $(RUN) -m programs.soak --minutes $(MINUTES) $(SOAK)

# The protocol of the ring, every interleaving of it: docs/model. SHORT=1: smaller rings, about a minute.
model:
	$(PYTHON) docs/model/check.py $(if $(SHORT),--short)

# Beside every peer, with its own options: make bench BENCH="--where process --workload echo"
bench: $(VENV)/.bench
	$(RUN) -m shmchannel bench $(BENCH)

# The figures and numbers of the documentation; between interpreters too where the Python has them (3.14).
PLOTS ?= docs/plots
bench-plots: $(VENV)/.bench
	mkdir -p $(PLOTS)
	places="process thread"; ! $(RUN) -c 'import concurrent.interpreters' 2>/dev/null || \
	places="$$places interpreter"; set -e; for where in $$places; do \
	$(RUN) -m shmchannel bench --where $$where --plot $(PLOTS)/$$where.svg --json $(PLOTS)/$$where.json $(BENCH); \
	done
	$(RUN) -m shmchannel bench --workload growth --plot $(PLOTS)/growth.svg --json $(PLOTS)/growth.json $(BENCH)

# The site, into build/site; docs-test looks at it in a browser, and takes Debian's chromium and chromium-driver.
.PHONY: docs docs-serve docs-test
MKDOCS := NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/python -m mkdocs
docs: $(VENV)-docs/.docs
	$(MKDOCS) build --quiet --strict -f docs/mkdocs.yml

docs-serve: $(VENV)-docs/.docs
	$(MKDOCS) serve -f docs/mkdocs.yml --watch src --watch CHANGELOG.md

docs-test: $(VENV)-docs/.test
	$(VENV)-docs/bin/python -m pytest tests/test_site.py

# An sdist and a wheel, into dist: what is in them, and how they install and run where nothing else is. Needs git.
# SHORT=1: of the two only the wheel is installed, a quarter of a minute.
.PHONY: dist-check
dist-check: $(VENV)/.dist
	$(RUN) tests/programs/dist_check.py $(if $(SHORT),--short)

clean:
	rm -rf .venv .venv-* build dist src/*.egg-info .coverage .coverage.* src/shmchannel/_native*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A venv by the interpreter's own means or, where it has no ensurepip (Debian), by a borrowed virtualenv.
$(VENV)/bin/python $(VENV)-docs/bin/python: %/bin/python:
	$(PYTHON) -m venv $* || { rm -rf $* && python3 -m venv $*-maker && \
	$*-maker/bin/pip install -q --disable-pip-version-check virtualenv && \
	$*-maker/bin/virtualenv -q -p $(PYTHON) $* && rm -rf $*-maker; }

# The C core is built with the package, and anew when it has changed.
BUILT_FROM := pyproject.toml setup.py $(wildcard src/shmchannel/native/*)

# What others need, for when several are to run at the same time.
.PHONY: venv venv-check venv-fuzz
venv: $(VENV)/.test
venv-check: $(VENV)/.check
venv-fuzz: $(VENV)/.fuzz

$(VENV)/.demo: $(BUILT_FROM) | $(RUN)
	$(RUN) -m pip install -q --disable-pip-version-check -e '.[cli]'
	touch $@

$(VENV)/.test: $(BUILT_FROM) | $(RUN)
	$(RUN) -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $@

$(VENV)/.bench: $(BUILT_FROM) | $(RUN)
	$(RUN) -m pip install -q --disable-pip-version-check -e '.[bench]'
	touch $@

$(VENV)/.fuzz: $(VENV)/.test | $(RUN)
	$(RUN) -m pip install -q --disable-pip-version-check -e '.[fuzz]'
	touch $@

$(VENV)/.dist: pyproject.toml | $(RUN)
	$(RUN) -m pip install -q --disable-pip-version-check -e '.[dist]'
	touch $@

$(VENV)/.check: pyproject.toml | $(RUN)
	$(RUN) -m pip install -q --disable-pip-version-check -e '.[check]'
	touch $@

$(VENV)-docs/.docs: $(BUILT_FROM) | $(VENV)-docs/bin/python
	$(VENV)-docs/bin/python -m pip install -q --disable-pip-version-check -e '.[docs]'
	touch $@

$(VENV)-docs/.test: $(VENV)-docs/.docs
	$(VENV)-docs/bin/python -m pip install -q --disable-pip-version-check -e '.[docs,test]'
	touch $@
