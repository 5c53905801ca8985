# Each target works alone on a fresh clone: it makes .venv with PYTHON (3.11 or newer) and installs into it once.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
BENCHES := $(filter-out %/baselines.py %/devices.py %/films.py %/held_out.py %/measures.py %/reference.py,$(wildcard tests/bench/*.py))
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow test-oldest test-wheel lint bench clean

demo: $(INSTALLED)
	$(BIN)/python tests/tools/demo.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --timeout 3600

test-oldest:  # with the oldest versions that pyproject.toml admits
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

test-wheel: $(INSTALLED)  # in an environment that has what the wheel asks for, and nothing else
	rm -rf build/wheel
	$(BIN)/python -m build --no-isolation --outdir build/wheel .
	$(PYTHON) -m venv build/wheel/env
	build/wheel/env/bin/pip install --quiet --disable-pip-version-check -c constraints.txt build/wheel/*.whl
	cd build/wheel && env/bin/dsg stylize ../../tests/data/photos/astronaut.jpg --style toon:7 --offline

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	set -e; for script in $(BENCHES); do echo "== $$script"; $(BIN)/python $$script; done

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "dsg needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-oldest build *.egg-info demo
