# The same few commands on a fresh machine, on a developer's and in CI. Each installs what it needs first.
BOOTSTRAP := plugin-images/bootstrap
BIN := .venv/bin
SCRIPTS := $(BOOTSTRAP)/python-env $(BOOTSTRAP)/engine $(BOOTSTRAP)/engine-start $(BOOTSTRAP)/engine-stop \
	$(BOOTSTRAP)/base-image $(BOOTSTRAP)/test-tools $(BOOTSTRAP)/page-tools $(BOOTSTRAP)/down $(BOOTSTRAP)/audit-deps $(BOOTSTRAP)/common.sh $(BOOTSTRAP)/engine.sh .ci/run tests/bare_machine/run tests/platforms/podman-native tests/platforms/uml/tree tests/platforms/uml/boot tests/platforms/uml/guest/agent $(wildcard tests/platforms/uml/engines/*) $(wildcard findings/*.sh)

# The whole suite runs in several processes, what ARGS names in one.
SIDE_BY_SIDE = $(if $(filter-out -%,$(ARGS)),,--side-by-side)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help up down test test-quick check lint types imports plugins scripts page bench bench-peers test-packages test-platforms audit-deps bare-trial orchestrator-image python-env page-tools test-tools engine base-image

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: python-env engine base-image ## install what is missing, start the orchestrator with the shipped plugins, run one tool
	@$(BIN)/orchestrator up

down: ## stop the orchestrator, remove its containers, stop the engine if make started it
	@$(BOOTSTRAP)/down

test: python-env page-tools test-tools engine base-image ## run all tests (ARGS= goes to pytest); the engine keeps running, make down stops it
	$(BIN)/pytest $(SIDE_BY_SIDE) $(ARGS)

test-quick: python-env page-tools test-tools ## run the tests that need no engine (ARGS= goes to pytest)
	$(BIN)/pytest -m "not engine" $(ARGS)

test-packages: python-env engine base-image ## run five real packages from the package index as plugins (ARGS= goes to pytest); minutes, some hundred MB
	$(BIN)/pytest tests/real_packages/calls.py $(ARGS)

test-platforms: python-env engine base-image ## run the engine tests on other engines (ARGS= names rows, see tests/platforms/README.md); minutes to an hour
	PYTHONPATH=tests $(BIN)/python -m platforms $(ARGS)

check: lint types imports plugins scripts page ## check lint, format, types, import rules, the plugins (audit), shell scripts, the page's scripts

lint: python-env
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: python-env
	$(BIN)/mypy

imports: python-env
	PYTHONPATH=plugin-images/runtime/src $(BIN)/lint-imports

plugins: python-env
	ORCHESTRATOR_PLUGINS_DIRS=plugins $(BIN)/python -m orchestrator.audit_plugins

scripts: python-env
	$(BIN)/shellcheck --external-sources --source-path=SCRIPTDIR $(SCRIPTS)

page: page-tools
	@PATH=$(CURDIR)/$(BIN):$$PATH npm --prefix orchestrator/dashboard run --silent type-check
	@PATH=$(CURDIR)/$(BIN):$$PATH npm --prefix orchestrator/dashboard run --silent lint

audit-deps: python-env ## look up known vulnerabilities in the lock and in the plugins' pinned packages (at PyPI)
	@$(BOOTSTRAP)/audit-deps

bench: python-env test-tools engine base-image ## measure what calls, starts and idle plugins cost (ARGS= names rows, see tests/benchmarks/README.md)
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

bench-peers: python-env test-tools engine base-image ## measure other servers of tools beside this one (ARGS= names them, see tests/benchmarks/README.md); some hundred MB, half an hour
	PYTHONPATH=tests $(BIN)/python -m benchmarks.peers $(ARGS)

bare-trial: engine base-image ## test these targets on a bare machine, in a container (ARGS= names cases)
	@tests/bare_machine/run $(ARGS)

orchestrator-image: python-env engine base-image ## build the orchestrator's own image, which compose.yaml starts
	@$(BIN)/orchestrator image

python-env page-tools test-tools engine base-image:
	@$(BOOTSTRAP)/$@
