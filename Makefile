# Longshore. `make` alone lists what there is.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# An installed uv that works, else one of the project's own, installed on first use.
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .cache/uv/bin/uv)
VENV := .venv
PYTHON := $(VENV)/bin/python
SYNCED := $(VENV)/.synced
CLUSTER_TOOL := $(PYTHON) -m e2e.cluster

# local, kind or current (the kubectl context in use); by default kind where it works, else local.
export CLUSTER

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# --- the Python environment

# Debian's Python may come without venv, and its pip refuses to install for the whole system.
.cache/uv/bin/uv:
	@e2e/bootstrap-uv.sh .cache/uv

$(SYNCED): uv.lock pyproject.toml $(wildcard operator/pyproject.toml images/*/pyproject.toml) | $(UV)
	@$(UV) sync --quiet --frozen --all-packages --all-extras
	@touch $@

.PHONY: setup
setup: $(SYNCED) ## Make the Python environment in .venv

# --- checks

.PHONY: lint
lint: $(SYNCED) ## Check style, types and the direction of imports
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

.PHONY: format
format: $(SYNCED) ## Format the code
	$(VENV)/bin/ruff check --fix-only --quiet
	$(VENV)/bin/ruff format

# --- what is generated

.PHONY: generate
generate: $(SYNCED) ## Write what is made from the API types: crds/, the chart's copy of it, docs/reference/
	@mkdir -p .cache
	$(PYTHON) -m longshore.api.crd > .cache/crd.yaml
	$(PYTHON) -m longshore.api.reference > .cache/reference.md
	mv .cache/crd.yaml crds/longshore.dev_modeldeployments.yaml
	cp crds/longshore.dev_modeldeployments.yaml charts/longshore/files/
	mv .cache/reference.md docs/reference/modeldeployment.md

.PHONY: test-fast
test-fast: $(SYNCED) ## Run the tests that need no cluster (some start a real API server)
	$(VENV)/bin/pytest -m "not cluster and not node"

PYTHONS ?= 3.12 3.13 3.14

.PHONY: test-pythons
test-pythons: $(SYNCED) ## Run the tests of pure code on the other Pythons: make test-pythons PYTHONS="3.13 /usr/bin/python3.14"
	@for version in $(PYTHONS); do \
	  echo "Python $$version" >&2; \
	  export UV_PROJECT_ENVIRONMENT=.cache/python-$$(basename $$version); \
	  $(UV) sync --quiet --frozen --all-packages --all-extras --python $$version; \
	  $$UV_PROJECT_ENVIRONMENT/bin/python -m pytest -q -m "not cluster and not node and not apiserver" \
	    tests/api tests/operator tests/activator; \
	done

OPENVINO := .cache/openvino

.PHONY: test-openvino
test-openvino: $(SYNCED) ## Test the server on OpenVINO's execution provider, in an environment of its own
	@UV_PROJECT_ENVIRONMENT=$(OPENVINO) $(UV) sync --quiet --frozen --no-dev --package longshore-server --all-extras
	@$(UV) pip uninstall --quiet --python $(OPENVINO) onnxruntime
	@$(UV) pip install --quiet --no-deps --require-hashes --python $(OPENVINO) -r images/server/variants/openvino.txt
	LONGSHORE_TEST_SERVER_PYTHON=$(OPENVINO)/bin/python $(VENV)/bin/pytest -q tests/server/openvino

.PHONY: test
test: lint ## Run everything, from nothing: checks, fast tests, the cluster itself, then what runs on it
	@$(CLUSTER_TOOL) host
	@$(CLUSTER_TOOL) build >/dev/null
	$(VENV)/bin/pytest -q -n 3 --dist loadfile -m "not cluster and not node"
	$(VENV)/bin/pytest -q -m node tests/cluster_tool
	@$(CLUSTER_TOOL) up
	@$(CLUSTER_TOOL) images
	@$(CLUSTER_TOOL) images triton traefik
	LONGSHORE_E2E_AS_IT_IS=1 $(VENV)/bin/pytest -q -n 3 --dist loadfile -m "cluster and not node" tests/cluster_tool e2e/scenarios

# --- the demo

.PHONY: demo
demo: $(SYNCED) ## From nothing to a model that answers: cluster, images, chart, optimization, predictions
	@$(PYTHON) -m e2e.demo

# --- benches

.PHONY: bench-rollout
bench-rollout: $(SYNCED) ## Measure rollouts: error probabilities, times to a decision, cost, safety
	$(PYTHON) -m bench.rollout

# --- a real cluster

.PHONY: cluster-build
cluster-build: $(SYNCED) ## Build the local cluster's programs into the cache
	@$(CLUSTER_TOOL) build

.PHONY: cluster
cluster: $(SYNCED) ## Start a real Kubernetes and print its `export KUBECONFIG=` line
	@$(CLUSTER_TOOL) up

.PHONY: cluster-status
cluster-status: $(SYNCED) ## Show what of the cluster runs
	@$(CLUSTER_TOOL) status

.PHONY: cluster-down
cluster-down: $(SYNCED) ## Stop the cluster and remove all of it
	@$(CLUSTER_TOOL) down

.PHONY: images
images: $(SYNCED) ## Build the container images and load them into the cluster
	@$(CLUSTER_TOOL) images

# --- benches: results go to bench/results

.PHONY: bench-triton
bench-triton: $(SYNCED) ## Measure Triton: start, batching against a grid search, scenarios on both runtimes
	$(PYTHON) -m bench.triton

.PHONY: bench-server
bench-server: $(SYNCED) ## Measure the server against Triton, MLServer, KServe and LitServe; 1 h soak, 10 min fuzzing
	$(PYTHON) -m bench.server

.PHONY: bench-optimizer
bench-optimizer: $(SYNCED) ## Measure the optimizer on real models: speed, size, proven drop, time
	$(PYTHON) -m bench.optimizer

.PHONY: bench-conversion
bench-conversion: $(SYNCED) ## Convert networks and estimators of every usual kind, and compare their answers
	$(PYTHON) -m bench.conversion

.PHONY: bench-reconcile
bench-reconcile: $(SYNCED) ## Measure the operator with 200 and 1,000 ModelDeployments
	$(PYTHON) -m bench.reconcile

.PHONY: bench-scaling
bench-scaling: $(SYNCED) ## Measure scaling: the planner on traces, the activator, a tick of 1,000 models
	$(PYTHON) -m bench.scaling
