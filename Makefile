# Everything runs in .venv, which is made from requirements.lock by the first command that needs it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Any Python from 3.11 to 3.13: make test PYTHON=/path/to/python3.11
PYTHON ?= $(shell command -v python3.11 || echo python3)
# Processes that run tests: one more than the cores, since some tests wait, and at most 8, since each holds TensorFlow,
# Beam and JAX in memory.
JOBS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 8 ? cores + 1 : 8)))
# More arguments for the tool behind a target: make test ARGS='-k selection', make lock ARGS=--upgrade
ARGS ?=
# Real web text, half of what the demo's models are trained on where it is there.
SHARED ?= ../shared/data

BIN := .venv/bin
INSTALLED := .venv/installed
# Engines that the tests run beside Beam's own local runner: Prism and the workers' boot program of the Beam that is
# locked, and Flink, of a version that Beam's job servers know.
ENGINES := .engines
BEAM = $(shell sed -n 's/^apache-beam==\([0-9.]*\).*/\1/p' requirements.lock)
FLINK := 2.2.1
# The published schemas of Kubernetes and of its operator for Flink, which manifests are compared with.
KUBERNETES_SCHEMAS := kubernetes-validate==1.37.0
FLINK_SCHEMAS := @kubernetes-models/flink@1.0.1
PEERS := .venv-peers/installed
# A file's tests share what they make, so that one worker runs them all; in the order that tests/conftest.py gives.
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
CHECKED := curation pipelines pretraining dataflow_templates tests setup.py benchmarks $(wildcard docs/*.py)

# Behind a company's proxy the certificates are the system's, and not among those that uv brings.
export UV_SYSTEM_CERTS ?= true
# Where it is set, every test process compiles TensorFlow's and Beam's modules again, which takes longer than the tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-rater demo-embedder test test-all test-prism test-flink faults cluster-up cluster-down lint format \
  check-install bench bench-peers data-efficiency lock clean help

demo: $(INSTALLED) ## Run everything once, on documents that this machine has
	$(BIN)/winnow demo $(ARGS)

test: $(INSTALLED) ## Run the tests, but for the long ones
	$(PYTEST) -m 'not long' $(ARGS)

test-all: $(INSTALLED) $(ENGINES)/prism $(ENGINES)/schemas ## Run all tests, on engines, on real data and under faults too
	$(PYTEST) $(ARGS)

test-prism: $(INSTALLED) $(ENGINES)/prism ## Run the pipelines of the tests on Beam's Prism runner
	WINNOW_TEST_FLAGS='--runner=PrismRunner --prism_location=$(abspath $(ENGINES)/prism)' \
	  $(PYTEST) -m 'not local_runner' tests/pipelines tests/commands tests/runs $(ARGS)

test-flink: $(INSTALLED) $(ENGINES)/flink ## Run pipelines on a Flink cluster, and kill a part of it
	$(BIN)/python -m pytest tests/engines -k flink -rs $(ARGS)

faults: $(INSTALLED) ## Kill, starve and damage every command at length, into the table of docs/reliability.md (half an hour)
	PYTHONPATH=.:tests/support $(BIN)/python tests/support/at_length.py --write $(ARGS)

cluster-up: $(INSTALLED) $(ENGINES)/flink ## Start a Flink cluster on this machine's loopback, and say how to use it
	PYTHONPATH=tests/support $(BIN)/python tests/support/flink_cluster.py up

cluster-down: $(INSTALLED) ## End that cluster
	PYTHONPATH=tests/support $(BIN)/python tests/support/flink_cluster.py down

lint: $(INSTALLED) ## Check style, formatting and types
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy curation pipelines pretraining tests/support

check-install: $(INSTALLED) ## Install the wheel by its metadata alone into bare environments, and run commands there
	$(BIN)/python tests/check_install.py $(ARGS)

format: $(INSTALLED) ## Format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

bench: $(INSTALLED) ## Run the benchmarks, benchmarks/bench_*.py
	@shopt -s nullglob; scripts=(benchmarks/bench_*.py); \
	[ "$${#scripts[@]}" -gt 0 ] || { echo "there is no benchmarks/bench_*.py to run" >&2; exit 1; }; \
	for script in "$${scripts[@]}"; do echo "$$script"; $(BIN)/python "$$script" $(ARGS); done

bench-peers: $(INSTALLED) $(PEERS) ## Score beside nano-askllm, transformers and CTranslate2 (a 2.5 GB download)
	cd benchmarks && $(abspath $(BIN))/python -m peers.compare $(ARGS)

data-efficiency: $(INSTALLED) ## Compare samplers by the tiny T5s that their samples train (over an hour) into ./data-efficiency
	PYTHONPATH=.:benchmarks $(BIN)/python -m data_efficiency.experiment $(ARGS)

# On this machine's documents, and on C4 where it is there.
define train_demo_model
@corpus=$$(mktemp -d); trap 'rm -rf "$$corpus"' EXIT; \
shared=$$( [ ! -d "$(SHARED)" ] || echo --shared="$(SHARED)" ); \
$(BIN)/python -c 'import sys; from curation.demo import corpus; corpus.write_demo_corpus(sys.argv[1])' "$$corpus"; \
$(BIN)/python -m curation.demo.$(1).train --input "$$corpus" $$shared --output demo-$(1) $(ARGS); \
$(BIN)/python -m curation.demo.$(1).evaluate --input "$$corpus" $$shared --model demo-$(1)
endef

demo-rater: $(INSTALLED) ## Train the demo rater anew (half an hour) into ./demo-rater, and measure it
	$(call train_demo_model,rater)

demo-embedder: $(INSTALLED) ## Train the demo embedder anew (10 minutes) into ./demo-embedder, and measure it
	$(call train_demo_model,embedder)

COMPILE = $(BIN)/uv pip compile --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
  --no-emit-index-url --custom-compile-command 'make lock' --quiet

# The images' locks are of the versions of requirements.lock, without what only tests and training jobs need.
lock: $(INSTALLED) ## Resolve pyproject.toml into requirements.lock; ARGS=--upgrade takes the newest versions
	$(COMPILE) pyproject.toml --extra dev --extra t5 --group span-corruption --output-file requirements.lock $(ARGS)
	printf 'setuptools\nuv\n' | $(COMPILE) pyproject.toml - --constraint requirements.lock \
	  --output-file dataflow_templates/requirements-cpu.lock
	for accelerator in gpu tpu; do printf 'setuptools\nuv\n' | $(COMPILE) pyproject.toml - --extra $$accelerator \
	  --constraint requirements.lock --output-file dataflow_templates/requirements-$$accelerator.lock; done

clean: ## Remove .venv, .venv-peers, caches, builds and the demo's output
	rm -rf .venv .venv-peers $(ENGINES) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	  demo-output demo-rater demo-embedder
	find curation pipelines pretraining tests -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## Say what the commands are
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

# Without the stamp, .venv is missing or a command was interrupted while it installed: it is made anew. pip brings uv,
# which installs the rest in a fraction of pip's time, and setuptools, with which the few packages without a wheel are
# built. `sync` also removes what the lock does not name.
$(INSTALLED): requirements.lock pyproject.toml setup.py
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { echo "$(PYTHON) is \
	not a Python from 3.11 to 3.13 with venv and pip: install one (Debian, Ubuntu: python3.11-venv) or name it with \
	make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@[ -e $@ ] || { echo 'Installing requirements.lock into .venv: 4.5 GB, which takes minutes'; $(PYTHON) -m venv --clear .venv; }
	@rm -f $@
	@awk '/^[a-z]/ { wanted = /^(setuptools|uv)==/ } wanted' requirements.lock > .venv/bootstrap.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/bootstrap.txt
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --no-build-isolation requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# Without Go the tests on Prism say that they need it, which only CI takes for a failure.
$(ENGINES)/prism: requirements.lock
	@mkdir -p $(ENGINES)
	@if command -v go > /dev/null; then \
	  echo 'Building Prism and the boot program of Beam $(BEAM) into $(ENGINES)'; \
	  export GOBIN=$(abspath $(ENGINES)); module=github.com/apache/beam/sdks/v2; \
	  go install $$module/python/container@v$(BEAM) && mv $(ENGINES)/container $(ENGINES)/boot && \
	  go install $$module/go/cmd/prism@v$(BEAM) && touch $@ || echo 'Prism could not be built: see above' >&2; \
	else echo 'There is no Go on this machine: no test runs on Prism' >&2; fi

# --no-deps: of Flink only the jars are wanted, not its Python.
$(ENGINES)/flink: Makefile
	@echo 'Installing Flink $(FLINK) into $(ENGINES)'
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target $@ apache-flink-libraries==$(FLINK)
	@touch $@

# Of both packages only the schemas are wanted, not what validates with them. Node.js runs that of Flink, which is code.
$(ENGINES)/schemas: Makefile
	@rm -rf $@ $@.new && mkdir -p $@.new
	@if command -v npm > /dev/null; then echo 'Installing the schemas of Kubernetes into $(ENGINES)'; \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target $@.new $(KUBERNETES_SCHEMAS) && \
	  npm install --silent --no-audit --no-fund --ignore-scripts --prefix $@.new $(FLINK_SCHEMAS) && mv $@.new $@ || \
	  echo 'The schemas could not be installed: see above' >&2; \
	else echo 'There is no npm on this machine: no test looks at the schemas of Kubernetes' >&2; fi

# Without the stamp it is tried again. A peer that cannot be had does not keep the others from being compared.
$(PEERS): benchmarks/peers/requirements.txt | $(INSTALLED)
	@echo 'Installing benchmarks/peers/requirements.txt into .venv-peers'
	@rm -f $@
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers
	@if $(BIN)/uv pip sync --quiet --python .venv-peers/bin/python benchmarks/peers/requirements.txt; then touch $@; \
	else echo 'The peers could not be installed: see above' >&2; fi
