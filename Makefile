.DEFAULT_GOAL := help
.PHONY: help setup always demo test test-long mutants lint data reproduce plan status report bench gpu-check clean
PYTHON ?= python3
RUN := .venv/bin/python
PIP := .venv/bin/pip install --quiet --disable-pip-version-check
# Selectors of what is reproduced, planned and tuned, singular or plural: DATASETS=mr,r8 MODEL=bert LOSSES=ce,gloss_o SEEDS=1,2
# TRIALS=10 (0: no search) ARGS="any override" LAUNCHER=joblib or slurm, JOBS=4 (at a time), OUTPUTS=folder, YES=1 (do not ask)
given = $(or $($1),$(if $(filter command,$(firstword $(origin $2))),$($2)))
quoted = $(if $2,'$1=$(subst ','\'',$2)')
SELECTED = $(call quoted,dataset,$(call given,DATASETS,DATASET)) $(call quoted,model,$(call given,MODELS,MODEL)) \
  $(call quoted,loss,$(call given,LOSSES,LOSS)) $(call quoted,seed,$(call given,SEEDS,SEED)) \
  $(call quoted,search.trials,$(call given,TRIALS,TRIAL)) $(call quoted,paths.outputs,$(OUTPUTS)) $(ARGS) \
  $(if $(LAUNCH),hydra/launcher=$(LAUNCH)) $(if $(JOBS),$(if $(filter slurm,$(LAUNCH)),hydra.launcher.array_parallelism=$(JOBS))) \
  $(if $(filter joblib,$(LAUNCH)),hydra.launcher.n_jobs=$(or $(JOBS),1) hydra.launcher.batch_size=1)
LAUNCH = $(or $(LAUNCHER),$(if $(JOBS),joblib))

# A selector that is misspelt, or that no target reads, would leave everything selected.
SETS = DATASETS DATASET MODELS MODEL
GRID = $(SETS) LOSSES LOSS SEEDS SEED TRIALS TRIAL ARGS LAUNCHER JOBS OUTPUTS
SETUP = TORCH_INDEX PYTHON RUN PIP YES
READ = $(SETUP) $(foreach t,$(MAKECMDGOALS),$(if $(filter reproduce% plan% tune-%,$t),$(GRID)) $(if $(filter plan%,$t),DEVICE) \
  $(if $(filter data,$t),$(SETS)) $(if $(filter report,$t),RUNS OUTPUTS ARGS) $(if $(filter status,$t),OUTPUTS) \
  $(if $(filter bench gpu-check mutants,$t),ARGS))
KNOWN = $(GRID) RUNS DEVICE $(SETUP)
TYPED := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v))
CLOSE = import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1) or ["one of", *sys.argv[2:]])
$(foreach v,$(filter-out $(KNOWN) MAKE% .%,$(TYPED)),\
  $(error there is no variable $v; did you mean $(shell $(PYTHON) -c '$(CLOSE)' '$v' $(KNOWN))?))
$(foreach v,$(filter-out $(READ) MAKE% .%,$(TYPED)),\
  $(error make $(MAKECMDGOALS) does not read $v$(if $(filter DEVICE,$v),: a run takes ARGS=trainer.device=$(DEVICE))$(if $(filter RUNS,$v),: it takes OUTPUTS)))

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9%-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## make .venv with the pinned requirements, again when they change (TORCH_INDEX=… for an older driver)

.venv/.ready: requirements.txt pyproject.toml Makefile $(if $(TORCH_INDEX),always)
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "gloss needs Python 3.11 to 3.13: make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--upgrade --extra-index-url $(TORCH_INDEX)) --requirement requirements.txt
	$(PIP) --no-deps --editable .
	touch $@

always:

demo: setup ## what training does to the embeddings of 1,000 film reviews: a table and a picture (5 minutes on 2 cores)
	$(RUN) scripts/data.py datasets=snippets_movie
	$(RUN) scripts/train.py -m experiment=demo paths.outputs=outputs/demo
	$(RUN) scripts/report.py paths.outputs=outputs/demo only=demo show=demo measure=[frozen] settings=demo

test: setup ## unit tests and one small run from end to end (6 minutes on 2 cores)
	.venv/bin/pytest -n 2

test-long: setup ## what takes longer: fault injection, fuzzing
	.venv/bin/pytest -n 2 -m long

mutants: setup ## change the science's code place by place, list what no test notices (an hour; ARGS="graph loop" for groups)
	$(PIP) mutmut==3.8.1
	$(RUN) tests/mutants.py $(ARGS)

lint: setup ## style, format, types and common mistakes
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

data: setup ## fetch and check the benchmark texts (DATASETS=mr,r8 for some), or a model (MODEL=mpnet)
	$(RUN) scripts/data.py \
	  $(call quoted,datasets,$(call given,DATASETS,DATASET)) $(call quoted,models,$(call given,MODELS,MODEL))

reproduce: setup ## everything: search, run and report what is missing (see `make plan` first)
	$(RUN) scripts/reproduce.py target=all $(SELECTED)

reproduce-%: setup ## one table, figure or experiment, such as reproduce-table2 MODELS=minilm DATASETS=mr SEEDS=1,2
	$(RUN) scripts/reproduce.py target=$* $(SELECTED)

plan: setup ## what everything would cost (DEVICE=a100, h100, h200 or cpu instead of this machine)
	$(RUN) scripts/reproduce.py action=plan target=all $(SELECTED) $(if $(DEVICE),device=$(DEVICE))

plan-%: setup ## what one table, figure or experiment would cost
	$(RUN) scripts/reproduce.py action=plan target=$* $(SELECTED) $(if $(DEVICE),device=$(DEVICE))

tune-%: setup ## only the searches that a table, figure or experiment lacks
	$(RUN) scripts/reproduce.py action=tune target=$* $(SELECTED)

status: setup ## progress of every requested table, figure and experiment
	$(RUN) scripts/reproduce.py action=status $(call quoted,paths.outputs,$(OUTPUTS))

report: setup ## tables, figures and the page from the records (RUNS=outputs/demo: of another folder)
	$(RUN) scripts/report.py $(call quoted,paths.outputs,$(or $(RUNS),$(OUTPUTS),outputs)) $(ARGS)

bench: setup ## time training steps beside other programs' (ARGS="lengths=128 model=bert_shape")
	$(RUN) scripts/bench.py $(ARGS)

gpu-check: setup ## what a GPU must do right before its numbers count, in minutes (ARGS="device=cpu": a rehearsal)
	$(RUN) scripts/gpu_check.py $(ARGS)

clean: ## remove what was built: the environment and caches; runs and data stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache *.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
