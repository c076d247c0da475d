.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint data clean
PYTHON ?= python3
RUN := .venv/bin/python

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## make .venv with the pinned requirements; done again only when they change

.venv/.ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "gloss needs Python 3.11 to 3.13: make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: setup ## train on a real text set with a small real encoder, and show the report (5 minutes on 2 cores)
	$(RUN) scripts/demo.py

test: setup ## unit tests and one small run from end to end (8 minutes on 2 cores at most)
	.venv/bin/pytest -n 2

test-long: setup ## what takes longer: fault injection, fuzzing
	.venv/bin/pytest -n 2 -m long

lint: setup ## style and common mistakes
	.venv/bin/ruff check .

data: setup ## fetch and check the benchmark texts (DATASETS=mr,r8 for some)
	$(RUN) scripts/data.py $(if $(DATASETS),--datasets $(DATASETS))

clean: ## remove what was built: the environment and caches; runs and data stay
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info outputs/cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
