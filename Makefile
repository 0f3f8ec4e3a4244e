# Every command of the project; `make help` lists them.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo python3 -m uv)

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/:.*## /\t/' | expand -t 20

.PHONY: uv
uv:
	@command -v uv >/dev/null 2>&1 || python3 -m uv --version >/dev/null 2>&1 || python3 -m pip install --quiet uv

$(BIN)/mnt: pyproject.toml uv.lock | uv
	$(UV) sync --frozen --quiet --compile-bytecode
	@echo "compiling the numeric kernels, once"
	@$(BIN)/mnt compile
	@touch $(BIN)/mnt

.PHONY: install
install: $(BIN)/mnt ## Make .venv with the `mnt` command from the lock file

.PHONY: check
check: install ## Format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: install ## Format and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: test
test: install ## Run every test that takes seconds, the short chaos run included
	$(BIN)/pytest

SEED ?= 1
N ?= 1000

SIMULATE = $(BIN)/pytest tests/simulation -k "no_seed or no_pair" --timeout=0

.PHONY: sim
sim: install ## Simulate the worlds of one seed: make sim SEED=7
	SIM_FIRST=$(SEED) SIM_SEEDS=1 SIM_FLEET_SEEDS=1 SIM_LEG_SEEDS=1 $(SIMULATE)

# A world of the whole fleet takes as long as two of the executor, and fewer show as much.
.PHONY: sim-many
sim-many: install ## Simulate many worlds from a seed on: make sim-many N=5000 SEED=1
	SIM_FIRST=$(SEED) SIM_SEEDS=$(N) SIM_FLEET_SEEDS=$$(($(N) / 10 + 1)) SIM_LEG_SEEDS=$(N) $(SIMULATE)

K ?=

.PHONY: chaos
chaos: install ## Kill, cut off, stop and starve a fleet for an hour or two, then simulate: make chaos SEED=7 K=flush
	CHAOS_SEED=$(SEED) $(BIN)/pytest -m chaos --timeout=0 -k '$(K)'
	$(if $(K),,SIM_FIRST=$(SEED) SIM_SUBMITS=10000 $(BIN)/pytest tests/simulation/test_submits.py --timeout=0)
	$(if $(K),,$(MAKE) sim-many N=$(if $(filter file,$(origin N)),5000,$(N)))

.PHONY: honesty
honesty: install ## Run the pipeline on hundreds of markets with known truth, for an hour: make honesty K=shuffled
	$(BIN)/pytest tests/honesty -m honesty --timeout=0 -k '$(K)'

.PHONY: audit
audit: install ## Look the locked dependencies up among known vulnerabilities (needs a network)
	$(BIN)/python deploy/audit/audit.py $(UV)

.PHONY: up
up: install ## Run the whole fleet on this machine until Ctrl-C; no Docker needed
	@$(BIN)/mnt up

.PHONY: bench-references
bench-references: | uv ## Install the engines that the backtest is measured against
	@$(UV) sync --frozen --quiet --project benchmarks/references

.PHONY: bench
bench: install ## Measure speed and exactness beside references
	@$(BIN)/mnt bench

.PHONY: secrets
secrets: ## Make the secrets of the containers that are missing
	@deploy/make-secrets.sh

.PHONY: compose-up
compose-up: secrets ## Run the whole fleet in containers
	docker compose up --detach --build --wait

.PHONY: compose-down
compose-down: ## Stop the containers; their volumes stay
	docker compose --profile grafana --profile store down

.PHONY: compose-check
compose-check: ## Check the containers' files with the tools that are installed
	@export PATH="$(CURDIR)/$(BIN):$$PATH"; set -e; \
	has() { "$$@" >/dev/null 2>&1 || { echo "not checked: '$$*' does not run here" >&2; return 1; }; }; \
	if has docker compose version; then docker compose --profile grafana --profile store --profile upload config --quiet; fi; \
	if has hadolint --version; then hadolint deploy/Dockerfile; fi; \
	if has promtool --version; then \
	    promtool check config deploy/prometheus/prometheus.yml; \
	    promtool test rules deploy/prometheus/rules_test.yml; \
	fi

.PHONY: schemas
schemas: install ## Write the JSON Schemas of the events anew
	$(BIN)/python -m shared.events.schemas

.PHONY: clean
clean: ## Remove the environment, caches and the default home
	rm -rf $(VENV) .mnt .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
