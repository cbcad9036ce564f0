# `make demo` and `make test` work in a fresh clone: each prepares .venv first, then runs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help install demo test test-other test-all lock wheel clean FORCE

# The environment that a target works in, and the Python that makes it (empty: the first one found).
VENV := .venv
PYTHON :=
BIN := $(VENV)/bin
# The stamp holds the folder it was made in: a .venv copied along with its checkout still runs the
# code of the original, so it counts as not installed.
STAMP := $(VENV)/.installed
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
STALE := FORCE
endif

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 \t\2/p' Makefile | expand -t 19

install: $(STAMP) ## prepare .venv and rendering (1 to 5 minutes the first time, 9 GB on disk)
	@backend=$$(bash scripts/ensure_gl.sh $(BIN)/python)
	echo "install: ready, MuJoCo renders with $$backend"

demo: $(STAMP) ## the whole loop on two cores in about 10 minutes: outputs/demo/report.html
	@MUJOCO_GL=$$(bash scripts/ensure_gl.sh $(BIN)/python); export MUJOCO_GL
	exec $(BIN)/robot-wm demo $(ARGS)

# One thread per worker: workers that each start a thread per core are slower than one alone.
test: $(STAMP) ## style, types, import rules, then the tests (ARGS="-k planner" narrows them)
	@MUJOCO_GL=$$(bash scripts/ensure_gl.sh $(BIN)/python); export MUJOCO_GL
	echo "test 1/7: ruff check"
	$(BIN)/ruff check .
	echo "test 2/7: ruff format"
	$(BIN)/ruff format --check .
	echo "test 3/7: docstrings"
	$(BIN)/pydoclint robot_wm sim_envs hardware plugins
	echo "test 4/7: import rules"
	$(BIN)/lint-imports
	echo "test 5/7: packages, declared and imported"
	$(BIN)/deptry .
	echo "test 6/7: types (pyright, about half a minute)"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --pythonpath $(BIN)/python
	echo "test 7/7: pytest (a few minutes)"
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8 --dist worksteal $(ARGS)

# LeRobot is 0.4.4 below Python 3.12 and another library from there on; huggingface-hub and
# transformers follow it. Only a second environment tries both.
test-other: $(STAMP) ## make test across the fork: on 3.12 where .venv is older, else on 3.11
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
	    versions="3.11 3.10"
	else
	    versions="3.12 3.13"
	fi
	if ! python=$$(bash scripts/find_python.sh $$versions); then
	    echo "test-other: no Python $${versions/ / or } is here: the other LeRobot was not tried"
	    exit 0
	fi
	version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	$(MAKE) --no-print-directory test VENV=".venv-$$version" PYTHON="$$python"

test-all: test ## make test, then make test-other
	@$(MAKE) --no-print-directory test-other

lock: $(STAMP) ## bring requirements.lock in line with pyproject.toml (ARGS=--upgrade: newest versions)
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-python-downloads \
	    --extra dev --extra lerobot --extra rerun --no-header --no-annotate $(ARGS) \
	    --output-file requirements.lock pyproject.toml
	echo "lock: $$(grep -c == requirements.lock) lines in requirements.lock"

wheel: $(STAMP) ## build dist/robot_wm-*.whl
	@$(BIN)/python -m build --no-isolation --wheel

clean: ## remove the environments, build output and caches; outputs/ stays
	@rm -rf .venv .venv-3.* build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find robot_wm sim_envs hardware plugins scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

FORCE:

$(STAMP): pyproject.toml requirements.lock $(STALE)
	@supported() { "$$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; }
	# 3.11 is what most of the work was tested on.
	python="$(PYTHON)"
	if [[ -z $$python ]] && ! python=$$(bash scripts/find_python.sh 3.11 3.12 3.10 3.13); then
	    echo "install: Python 3.10 to 3.13 is needed, found $$(python3 --version 2>/dev/null || echo none). On Debian 12 or Ubuntu 22.04 to 24.04 run: sudo apt-get install -y python3 python3-venv" >&2
	    exit 1
	fi

	# Debian and Ubuntu keep ensurepip, without which a new venv has no pip, in a package of its own.
	if ! "$$python" -c 'import venv; from ensurepip import version' 2>/dev/null; then
	    package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
	    if [[ $$(id -u) -eq 0 ]]; then as_root=(); else as_root=(sudo -n); fi
	    if command -v apt-get >/dev/null && { [[ $$(id -u) -eq 0 ]] || sudo -n true 2>/dev/null; }; then
	        echo "install: installing $$package (about half a minute)"
	        "$${as_root[@]}" apt-get -qq update || true
	        "$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "$$package"
	    else
	        echo "install: $$python cannot make a venv. Run: sudo apt-get install -y $$package" >&2
	        exit 1
	    fi
	fi

	if [[ "$$(cat $(STAMP) 2>/dev/null)" != "$(CURDIR)" ]] || ! supported $(BIN)/python; then
	    echo "install: making $(VENV) with $$("$$python" --version)"
	    "$$python" -m venv --clear $(VENV)
	fi
	rm -f $(STAMP)

	echo "install: the packages of requirements.lock into $(VENV) (3 GB to download: 1 to 5 minutes; seconds when cached)"
	export PIP_DISABLE_PIP_VERSION_CHECK=1 UV_HTTP_TIMEOUT=$${UV_HTTP_TIMEOUT:-120}
	# The lock is the whole closure, so nothing is resolved here: --no-deps. uv is much faster than
	# pip, but trusts its own certificates unless told and does not read pip's settings (mirrors).
	if [[ -t 2 ]]; then quiet=; else quiet=--quiet; fi # uv's progress bars need a terminal
	with_uv() { $(BIN)/uv pip install $$quiet --python $(BIN)/python --no-deps -r requirements.lock "$$@"; }
	if ! { $(BIN)/pip install --quiet "$$(grep -o '^uv==[^ ]*' requirements.lock)" &&
	       { with_uv || { echo "install: trying again with the system's certificates"; with_uv --system-certs; }; }; }; then
	    echo "install: uv could not; trying pip, which takes 10 minutes or more"
	    $(BIN)/pip install --quiet --no-deps -r requirements.lock
	fi
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	echo "$(CURDIR)" >$(STAMP)
