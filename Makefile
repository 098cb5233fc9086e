# Two commands on a fresh machine with Python >= 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install demo smoke test test-slow lint pins clean

install: $(VENV)/.installed

# Every version and hash comes from constraints.txt; only the package itself is installed without pins.
$(VENV)/.installed: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

demo: install
	$(BIN)/surgr1 run recipes/demo.yaml

smoke: install
	$(BIN)/surgr1 run recipes/smoke.yaml

test: install
	$(BIN)/pytest -n 2

test-slow: install
	$(BIN)/pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Renew the pins after changing pyproject.toml (needs uv on the PATH).
pins:
	uv export --quiet --all-groups --no-emit-project --no-header --output-file constraints.txt

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache
