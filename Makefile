# The whole set-up lives here: `make run` and `make test` are all that a new machine needs.
# Debian packages come from packages.txt, Python packages from requirements.lock, into the virtual environment .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test check unit hot-plug end-to-end lock clean run-packages test-packages

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
PY := .venv/bin/python
INSTALLED := .venv/.installed

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

run: run-packages $(INSTALLED) ## set up what is missing, then open the live page on the simulated cell
	@if [ -n "$${DISPLAY:-}$${WAYLAND_DISPLAY:-}" ] || [ "$$(uname -s)" = Darwin ]; then \
	  exec $(PY) app.py run; \
	else \
	  echo "No display (neither DISPLAY nor WAYLAND_DISPLAY is set): judging two simulated welds without a window."; \
	  exec $(PY) app.py run --headless --welds 2; \
	fi

test: test-packages $(INSTALLED) ## set up what is missing, then check, unit tests, end-to-end tests
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory hot-plug
	@$(MAKE) --no-print-directory end-to-end

check: $(INSTALLED) ## lint, format, types, layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

unit: $(INSTALLED) ## the tests of single parts
	$(PY) -m pytest -m "not end_to_end" --ignore tests/hotplug --numprocesses 3

hot-plug: $(INSTALLED) ## devices pulled and plugged in again; they wait most of the time, so many at once
	$(PY) -m pytest tests/hotplug --numprocesses 8

end-to-end: $(INSTALLED) ## the tests of whole processes, in real time
	$(PY) -m pytest -m end_to_end

lock: $(INSTALLED) ## pin every dependency of pyproject.toml anew, for all systems
	$(PY) -m pip install --quiet "uv>=0.9,<1"
	$(PY) -m uv pip compile --quiet --upgrade --all-extras --universal --python-version 3.11 --no-emit-index-url \
	  --no-emit-find-links --custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

clean: ## remove the virtual environment and every cache
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The virtual environment is touched only when the lock is newer than the stamp.
$(INSTALLED): requirements.lock | run-packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "make: $(PYTHON) is not Python 3.11 or newer; install it or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PY) -c 'import pip' 2>/dev/null \
	  || { echo "Making the virtual environment .venv with $(PYTHON) ..."; $(PYTHON) -m venv --clear .venv; }
	@echo "Installing the packages of requirements.lock (some minutes the first time) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

# $(call apt,KINDS): install what packages.txt lists for KINDS and this machine lacks; without root, say how and stop.
define apt
	@command -v dpkg-query >/dev/null || { echo "Not a Debian system: packages.txt lists what to install by hand."; exit 0; }; \
	missing=(); \
	while read -r name kind _; do \
	  case "$$name/$$kind" in \#*|/*) continue ;; esac; \
	  case " $(1) " in *" $$kind "*) ;; *) continue ;; esac; \
	  dpkg-query -W -f='$${Status}\n' "$$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$$name"); \
	done < packages.txt; \
	$(PY) -c 'import pip' 2>/dev/null || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing+=("python3-venv"); \
	if [ $${#missing[@]} -gt 0 ]; then \
	  if [ "$$(id -u)" -ne 0 ]; then \
	    echo "Debian packages are missing; install them, then run make again: sudo apt-get install -y $${missing[*]}" >&2; exit 1; \
	  fi; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq; \
	  apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; \
	fi
endef

run-packages:
	$(call apt,run)

test-packages:
	$(call apt,run test)
