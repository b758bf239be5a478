# From a bare clone, with make and a Python of at least 3.11: everything else goes into .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test docs pythons clean

VENV := .venv
BUILT := $(VENV)/.built
CANDIDATES := $(PYTHON) python3 python3.15 python3.14 python3.13 python3.12 python3.11 python

# Interpreters that `make pythons` installed; `make test` uses them in addition to those of the system.
PYTHONS := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/nearfar/pythons

# With pyenv, only the versions in PYENV_VERSION can be started: name them all, so that tox finds each.
PYENVS := $(shell pyenv versions --bare 2>/dev/null | grep -E '^3\.[0-9]+\.[0-9]+$$' | sort -rV | paste -sd: -)

# Measured on two cores that do nothing else: 4 minutes for the oldest and the newest Python, 2.5 for each between, 1 for
# lint and types. More than four cores count as four: it is not known what they save.
FORECAST = found=; count=0; for minor in 11 12 13 14 15; do \
	"python3.$$minor" -c '' 2>/dev/null && found="$$found 3.$$minor" && count=$$((count + 1)); done; \
	cores=$$(getconf _NPROCESSORS_ONLN); [ "$$cores" -gt 4 ] && cores=4; \
	minutes=$$(((count > 2 ? 5 * count / 2 + 3 : 4 * count) * 2 / cores + 1)); \
	echo "Python$$found, lint and types: about $$minutes minutes on $$cores cores. One alone: make test TOX='-e py311'";

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1\t/p' Makefile
	@echo '  tox list	the menu of checks (after make test: $(VENV)/bin/tox list)'

demo: $(BUILT)  ## generate images, serve them, download them near and far, verify; under a minute
	@$(VENV)/bin/python -m nearfar demo

test: $(BUILT)  ## tests under every Python from 3.11 found here, then lint and types (or TOX='-e slow')
	@export PATH="$(PYTHONS)/bin:$$PATH" $(if $(PYENVS),PYENV_VERSION=$(PYENVS)); \
	$(if $(TOX),,$(FORECAST)) \
	$(VENV)/bin/tox run $(TOX)

docs: $(BUILT)  ## build the documentation site, and serve it at http://127.0.0.1:8001
	@$(VENV)/bin/tox run -q -e docs
	@echo "http://127.0.0.1:8001 (Ctrl-C ends it)"; $(VENV)/bin/python -m http.server -b 127.0.0.1 -d .tox/docs/html 8001

pythons:  ## Python 3.14 and 3.15 for make test, from Debian's unstable suite, into the user's cache folder
	@.ci/newer-pythons "$(PYTHONS)" 3.14 3.15

clean:  ## remove what make and tox built
	@rm -rf $(VENV) .tox dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BUILT): pyproject.toml
	@found=; for python in $(CANDIDATES); do \
	    "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	        && found=$$python && break; \
	done; \
	if [ -z "$$found" ]; then \
	    echo 'make: no Python >= 3.11 with venv found (Debian: apt install python3-venv; else PYTHON=/path/to/python make)' >&2; \
	    exit 1; \
	fi; \
	echo "building $(VENV) with $$($$found --version)"; \
	"$$found" -m venv --clear $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[download,contrast,metrics,test]' 'tox>=4.20'
	@touch $@
