# The stages of the pipeline by name. `make` alone explains them; stages/common/pipeline.py decides what runs.

# What was typed reaches programs as it is: one environment variable each, not expanded by make or a shell.
VARIABLES := RECIPE RUN BASE SEED ARGS PROMPT REMAKE PYTHON VENV
PYTHON ?= python3
VENV ?= .venv
$(foreach name,$(VARIABLES),$(eval override export $(name) := $$(value $(name))))

PY := "$$VENV/bin/python"
# runs a module with what ARGS holds
WITH_ARGS := $(PY) -m tests.with_args
STAGES := data pretrain sft comparisons reward ppo samples evaluate

.PHONY: help setup setup-trl112 $(STAGES) optimum test test-all bench quality growth mutate kill lint clean clean-previous
.NOTPARALLEL:

help:
	@echo 'make ppo          the whole pipeline: data, pretraining, SFT, comparisons, reward model, PPO'
	@echo
	@echo 'make data         text, demonstrations and prompts'
	@echo 'make pretrain     a small GPT-2 from scratch, or the model that the recipe names'
	@echo 'make sft          fine-tuned on demonstrations'
	@echo 'make comparisons  completions of the SFT model, ranked'
	@echo 'make reward       the reward model, trained on the rankings'
	@echo 'make samples      the same prompts answered by all models: PROMPT="What is 2 + 3?"'
	@echo 'make evaluate     metrics of all models, with intervals'
	@echo
	@echo 'Each makes what it needs and is missing or out of date, and prints why before it starts.'
	@echo 'RECIPE=tiny       a name in stages/recipes, or the path of a YAML file'
	@echo 'RUN=runs/tiny     the folder of the results, by default named after the recipe'
	@echo 'ARGS="--kl_coef 0.1"  options of the stage you name; .venv/bin/python -m stages.ppo --help lists them'
	@echo 'SEED=1            another seed for every stage, in a folder of its own'
	@echo 'BASE=runs/tiny    read the stages that would be the same from another run'
	@echo 'REMAKE=1          also make stages again of which only the code has changed'
	@echo
	@echo 'make setup        the environment in .venv, with pinned versions'
	@echo 'make test         the tests            make test-all        and the slow ones'
	@echo 'make lint         style and types      make clean           removes runs/'
	@echo 'make optimum      PPO on a world whose optimum is known, drawn in runs/optimum.png'
	@echo 'make bench        speed beside TRL     make quality         seconds until answers are good, beside TRL'
	@echo 'make growth       how a step grows     make kill            every stage killed a hundred times'
	@echo 'make mutate       are mutants of the equations caught by the tests?'
	@echo 'make clean-previous  removes the results that were replaced, <stage>.previous'

# --- the environment --------------------------------------------------------------------------------------------------

# torch comes first and by its pin, so that no other package brings in another one
setup:
	@if ! [ "$$VENV/ready" -nt pyproject.toml ] || ! [ "$$VENV/ready" -nt .constraints.txt ]; then set -ex; \
	    [ -x $(PY) ] || "$$PYTHON" -m venv "$$VENV"; \
	    $(PY) -m pip install --constraint .constraints.txt torch; \
	    $(PY) -m pip install --constraint .constraints.txt --editable ".[dev]"; \
	    touch "$$VENV/ready"; fi

# the last TRL with a PPO, to compare with; every other package has the same version
setup-trl112:
	@if ! [ .venv-trl112/ready -nt .constraints.txt ]; then set -ex; \
	    [ -x .venv-trl112/bin/python ] || "$$PYTHON" -m venv .venv-trl112; \
	    sed 's/^trl==.*/trl==1.12.0/' .constraints.txt > .venv-trl112/constraints.txt; \
	    .venv-trl112/bin/python -m pip install --constraint .venv-trl112/constraints.txt torch; \
	    .venv-trl112/bin/python -m pip install --constraint .venv-trl112/constraints.txt trl requests; \
	    touch .venv-trl112/ready; fi

# --- the stages -------------------------------------------------------------------------------------------------------

$(STAGES): setup
	@$(PY) -m stages $@

clean:
	rm -rf runs mutants

clean-previous:
	rm -rf runs/*/*.previous

# --- the project itself -----------------------------------------------------------------------------------------------

# one file at a time on each of two cores; ARGS="-n 0" runs them one after the other, for a debugger
test: setup
	@OMP_NUM_THREADS=1 $(WITH_ARGS) pytest -n 2 --dist loadfile -m "not slow"

test-all: setup
	@OMP_NUM_THREADS=1 $(WITH_ARGS) pytest -n 2 --dist loadfile

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

optimum: setup
	@$(WITH_ARGS) tests.optimum

kill: setup
	@$(WITH_ARGS) tests.kill

bench: setup setup-trl112
	@$(WITH_ARGS) tests.benchmarks.bench --trl112 .venv-trl112/bin/python

growth: setup
	@$(PY) -m tests.benchmarks.growth

quality: reward setup-trl112
	@$(WITH_ARGS) tests.benchmarks.quality --trl112 .venv-trl112/bin/python

# one thread: mutmut forks, and a thread pool does not survive a fork
mutate: setup
	@$(PY) -m mutmut --version >/dev/null 2>&1 || $(PY) -m pip install --constraint .constraints.txt --editable ".[mutate]"
	rm -rf mutants
	@OMP_NUM_THREADS=1 $(WITH_ARGS) mutmut run
	@$(PY) -m tests.survivors
