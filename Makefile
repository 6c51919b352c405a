# The stages of the pipeline by name. `make` alone explains them.

RECIPE ?= tiny
SEED   ?=
ARGS   ?=
RUN    ?= runs/$(basename $(notdir $(RECIPE)))$(if $(SEED),-seed$(SEED))
PYTHON ?= python3
VENV   ?= .venv
VENV112 ?= .venv-trl112

PY     := $(VENV)/bin/python
READY  := $(VENV)/ready
READY112 := $(VENV112)/ready
STAGE   = $(PY) -m stages.$(1) --recipe $(RECIPE) --run $(RUN) $(if $(SEED),--seed $(SEED))
# what a stage was asked for on the command line stays with its result: see stages/settings.py
MADE    = @eval "$(call STAGE,$(1)) $$(cat $(RUN)/.settings/$(1).args)"

export ARGS

.PHONY: help setup data pretrain sft comparisons reward ppo samples evaluate optimum test bench quality growth mutate kill lint clean settings

help:
	@echo "make ppo          the whole pipeline: data, pretraining, SFT, comparisons, reward model, PPO"
	@echo
	@echo "make setup        the environment in $(VENV), with pinned versions"
	@echo "make data         text, demonstrations and prompts"
	@echo "make pretrain     a small GPT-2 from scratch, or the model that the recipe names"
	@echo "make sft          fine-tuned on demonstrations"
	@echo "make comparisons  completions of the SFT model, ranked"
	@echo "make reward       the reward model, trained on the rankings"
	@echo "make samples      the same prompts answered by all models"
	@echo "make evaluate     numbers for all models, with intervals"
	@echo "make optimum      PPO on a world whose optimum is known, drawn in runs/optimum.png"
	@echo "make test         the tests        make lint  style        make clean  removes runs/"
	@echo "make bench        how fast this is beside TRL, side by side: docs/speed.md"
	@echo "make quality      seconds until answers are good, beside TRL        make growth  how a step grows"
	@echo "make kill         every stage killed a hundred times: is what comes out what would have been?"
	@echo "make mutate       can the tests fail? the mathematics changed in hundreds of ways, one at a time"
	@echo
	@echo "Each makes what it needs and is missing or out of date, and nothing else."
	@echo "RECIPE=$(RECIPE)       a name in stages/recipes, or the path of a YAML file; results in $(RUN)"
	@echo "ARGS=\"--kl_coef 0.1\"  options of the stage you name; $(PY) -m stages.ppo --help lists them"
	@echo "SEED=1            another seed for every stage, in a folder of its own"

# --- the environment --------------------------------------------------------------------------------------------------

setup: $(READY)

# torch comes first and by its pin, so that no other package brings in another one
$(READY): pyproject.toml .constraints.txt
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --constraint .constraints.txt torch
	$(PY) -m pip install --constraint .constraints.txt --editable ".[dev]"
	@touch $@

# the last TRL with a PPO, to compare with: everything else is of the same version as in ours
$(READY112): .constraints.txt
	@test -x $(VENV112)/bin/python || $(PYTHON) -m venv $(VENV112)
	sed 's/^trl==.*/trl==1.12.0/' .constraints.txt > $(VENV112)/constraints.txt
	$(VENV112)/bin/python -m pip install --constraint $(VENV112)/constraints.txt torch
	$(VENV112)/bin/python -m pip install --constraint $(VENV112)/constraints.txt trl requests
	@touch $@

# stages come one after the other, also under make -j
.NOTPARALLEL:

# --- the stages -------------------------------------------------------------------------------------------------------

data pretrain sft comparisons reward: %: $(RUN)/%/stage.json
	@true

# asked once more when it is known what comes before: with a reward of one's own there is no reward model to make
ppo: settings
	@$(MAKE) --no-print-directory $(RUN)/ppo/stage.json

BEFORE_PPO := $(or $(shell cat $(RUN)/.settings/before_ppo 2>/dev/null),reward)

settings: $(READY)
	@$(PY) -m stages.settings --recipe "$(RECIPE)" --run "$(RUN)" $(MAKECMDGOALS)

# written by `settings`, and touched only when they change
$(RUN)/.settings/%.json: settings
	@true

$(RUN)/data/stage.json: $(RUN)/.settings/data.json
	$(call MADE,data)

$(RUN)/pretrain/stage.json: $(RUN)/.settings/pretrain.json $(RUN)/data/stage.json
	$(call MADE,pretrain)

$(RUN)/sft/stage.json: $(RUN)/.settings/sft.json $(RUN)/pretrain/stage.json
	$(call MADE,sft)

$(RUN)/comparisons/stage.json: $(RUN)/.settings/comparisons.json $(RUN)/sft/stage.json
	$(call MADE,comparisons)

$(RUN)/reward/stage.json: $(RUN)/.settings/reward.json $(RUN)/comparisons/stage.json
	$(call MADE,reward)

$(RUN)/ppo/stage.json: $(RUN)/.settings/ppo.json $(RUN)/$(BEFORE_PPO)/stage.json
	$(call MADE,ppo)
	@$(call STAGE,samples)

samples: settings
	@$(call STAGE,samples) $(ARGS)

evaluate: ppo
	@$(call STAGE,evaluate) $(ARGS)

optimum: $(READY)
	$(PY) -m tests.optimum $(ARGS)

# --- the project itself -----------------------------------------------------------------------------------------------

# a file at a time on each of two cores; ARGS="-n 0" for one after the other, with a debugger
test: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile $(ARGS)

bench: $(READY) $(READY112)
	$(PY) -m tests.benchmarks.bench --trl112 $(VENV112)/bin/python $(ARGS)

quality: $(RUN)/reward/stage.json $(READY112)
	$(PY) -m tests.benchmarks.quality --run $(RUN) --trl112 $(VENV112)/bin/python

growth: $(READY)
	$(PY) -m tests.benchmarks.growth

# one thread: mutmut forks, and a pool of threads would not be there after it
mutate: $(READY)
	@$(PY) -m mutmut --version >/dev/null 2>&1 || $(PY) -m pip install --constraint .constraints.txt --editable ".[mutate]"
	rm -rf mutants
	OMP_NUM_THREADS=1 $(PY) -m mutmut run $(ARGS)
	@$(PY) -m tests.survivors

kill: $(READY)
	$(PY) -m tests.kill $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf runs mutants
