# Everything below happens in .venv, from pinned and hashed packages. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
SECONDS ?= 60

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade --no-annotate \
	--custom-compile-command "make lock"

PROTO := $(shell find proto -name '*.proto')

.PHONY: help run test test-spdk lint graph bench chaos lock sbom clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

run: $(VENV)/installed ## install, and serve on port 50051 with an emulated SPDK target
	$(BIN)/opi-spdk-bridge serve

test: $(VENV)/installed-dev ## install, and run all tests
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-spdk: $(VENV)/installed-dev ## run the tests that can on real targets: SPDK=/var/tmp/spdk.sock SPDK_FAR=...
	@test -n "$(SPDK)" || { echo "give the target's socket: make test-spdk SPDK=/var/tmp/spdk.sock"; exit 2; }
	SPDK=$(SPDK) SPDK_FAR=$(SPDK_FAR) $(BIN)/python -m pytest tests/kinds tests/integration tests/clients $(ARGS)

lint: $(VENV)/installed-dev ## ruff, mypy --strict, import-linter, no circles of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.graph

graph: $(VENV)/installed-dev ## print what imports what, and circles: ARGS=opi_spdk_bridge.emulator for a package
	$(BIN)/python -m tools.graph $(ARGS)

bench: $(VENV)/installed-dev ## measure, and print the tables of docs/performance.md
	$(BIN)/python -m benchmarks $(ARGS)

chaos: $(VENV)/installed-dev ## kill bridge and target under load for SECONDS, and look for what got lost
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(ARGS)

lock: $(VENV)/installed-dev ## pin the newest packages that pyproject.toml allows, for every Python and platform
	$(BIN)/pip install --quiet uv
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" \
		> $(VENV)/build.in
	$(COMPILE) --extra uvloop --extra redis --extra qemu --extra otel --output-file requirements.lock pyproject.toml $(VENV)/build.in
	$(COMPILE) --all-extras --output-file requirements-dev.lock pyproject.toml $(VENV)/build.in

sbom: requirements.lock pyproject.toml ## list what the bridge is made of: dist/sbom.cdx.json (CycloneDX)
	mkdir -p dist
	$(PYTHON) -m venv $(VENV)/sbom
	$(VENV)/sbom/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	$(VENV)/sbom/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON \
		--output-file dist/sbom.cdx.json requirements.lock

clean: ## remove what was made
	rm -rf $(VENV) build dist opi_spdk_bridge/pb .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

# The package itself is installed in place: its build generates opi_spdk_bridge/pb from proto/.
$(VENV)/installed: requirements.lock pyproject.toml hatch_build.py $(PROTO) | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/installed-dev: requirements-dev.lock pyproject.toml hatch_build.py $(PROTO) | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@ $(VENV)/installed
