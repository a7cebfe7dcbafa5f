# make demo    find, repair and prove, on the shipped example (the first run installs into .venv)
# make test    all tests
# make check   format, lint, types, import layers, generated docs, and that the site builds
# make docs    writes what the documentation takes from the code, and builds it into build/site
# make bench   the benchmarks
# make score   how often the rules are right on the labelled subjects of the zoo; on those that no
#              limit was set by: make score SCORE_ARGS='--half held-out'
# make repair  how often 'fix' repairs the faulty ones (an hour): make repair REPAIR_ARGS='--only "mlp*"'
# make clean   removes everything made here
# Needs Python 3.11 or newer (PYTHON=python3.12 to choose), make, and a package index.

PYTHON ?= python3
BIN := .venv/bin
RUN_INSTALLED := .venv/installed-run
DEV_INSTALLED := .venv/installed-dev
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Not --quiet: it would also silence what makes a build strict. The variable silences an advertisement.
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: demo test check docs bench score repair links clean

demo: $(RUN_INSTALLED)
	$(BIN)/gradscope demo

test: $(DEV_INSTALLED)
	$(BIN)/python -m pytest -q --numprocesses auto --dist loadfile $(PYTEST_ARGS)

check: $(DEV_INSTALLED) links
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy build/links/gradscope
	cd build/links && ../../$(BIN)/lint-imports --no-logo --config ../../pyproject.toml
	$(BIN)/python docs/generate.py --check
	$(SITE)

# The pages of docs/rules, remedies, derivatives and reference are made from the code, those of
# docs/experiments from runs. Any warning about the site is an error.
docs: $(DEV_INSTALLED) links
	$(BIN)/python docs/generate.py
	$(SITE)
	@echo 'The documentation is in build/site/index.html.'

bench: $(DEV_INSTALLED)
	set -e; for file in tests/benchmarks/bench_*.py; do $(BIN)/python "$$file"; done

score: $(DEV_INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.zoo.score $(SCORE_ARGS)

repair: $(DEV_INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.zoo.repair $(REPAIR_ARGS)

# What the repository's folders are called once installed, for mypy and import-linter.
links:
	rm -rf build/links
	mkdir -p build/links/gradscope
	cd build/links/gradscope && ln -s ../../../gradscope/* ../../../cli ../../../reports ../../../examples .

clean:
	rm -rf .venv build dist gradscope-demo *.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find cli docs examples gradscope reports tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# The editable install has to stay setuptools' default, lenient one: strict hides gradscope.cli
# from `python -m pytest` at the root, and compat makes `import cli` work, which it must not.
$(RUN_INSTALLED): pyproject.toml constraints.txt gradscope/__init__.py | $(BIN)/python
	@echo 'Installing into .venv; the first time this downloads torch and takes minutes.'
	$(INSTALL) -e .
	@touch $@

# Installing for development also installs for running.
$(DEV_INSTALLED): pyproject.toml constraints.txt gradscope/__init__.py | $(BIN)/python
	@echo 'Installing into .venv; the first time this downloads torch and takes minutes.'
	$(INSTALL) -e '.[dev]'
	@touch $@ $(RUN_INSTALLED)
