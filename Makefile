# The stages of the pipeline by name. `make help` explains them; stages/common/pipeline.py decides which stages run.

# The values reach the programs as typed, as environment variables that neither make nor a shell expands.
VARIABLES := RECIPE RUN BASE SEED ARGS PROMPT REMAKE PROCESSES ACCELERATE PYTHON VENV
$(foreach name,$(VARIABLES),$(eval override export $(name) := $$(value $(name))))
# options of rank, chat and task; a shell may have variables of these names, so they count only on make's command line
OF_COMMAND_LINE := MODEL COUNT K HOST PORT WEB NAME TASK
$(foreach name,$(OF_COMMAND_LINE),$(if $(filter command,$(origin $(name))),\
    $(eval override export $(name) := $$(value $(name))),$(eval unexport $(name))))
ifndef PYTHON
override export PYTHON := python3
endif
ifndef VENV
override export VENV := .venv
endif
export GOALS := $(MAKECMDGOALS)

PY := "$$VENV/bin/python"
# runs a module with the arguments in ARGS
WITH_ARGS := $(PY) -m tests.with_args
# what the run is used for
TOOLS := rank chat report
STAGES := data pretrain sft comparisons reward ppo task samples evaluate

.PHONY: help setup setup-trl112 $(STAGES) $(TOOLS) optimum test test-all bench gpu quality growth sitting experiment mutate kill lint clean clean-previous
.NOTPARALLEL:

help:
	@echo 'make ppo          the whole pipeline: data, pretraining, SFT, comparisons, reward model, PPO'
	@echo
	@echo 'make data         text, demonstrations and prompts'
	@echo 'make pretrain     a small GPT-2 from scratch, or the model that the recipe names'
	@echo 'make sft          supervised fine-tuning on demonstrations'
	@echo 'make comparisons  completions of the SFT model, ranked by a labeller'
	@echo 'make reward       the reward model, trained on the rankings'
	@echo 'make task         the pretrained model on a supervised task: TASK=topic, or a file of texts with labels'
	@echo 'make samples      answers of all models, side by side: PROMPT="What is 2 + 3?"'
	@echo 'make evaluate     metrics of all models, with 95 % intervals'
	@echo
	@echo 'make rank         rank answers in a browser: MODEL=sft COUNT=60 K=4 HOST=127.0.0.1 PORT=8000'
	@echo 'make chat         talk to the models in the terminal, or with WEB=1 in a browser'
	@echo 'make report       one page of what the run has made, <run>/report.html; evaluates first if needed'
	@echo
	@echo 'Each stage first runs the stages it needs that are missing or out of date, and prints why.'
	@echo 'RECIPE=tiny       a name in stages/recipes, or the path of a YAML file'
	@echo 'RUN=runs/tiny     the folder of the results; by default runs/<recipe>'
	@echo 'ARGS="--kl_coef 0.1"  options of the named stage; .venv/bin/python -m stages.ppo --help lists them'
	@echo 'SEED=1            another seed for every stage; results in runs/<recipe>-seed1'
	@echo 'BASE=runs/tiny    reuse the results of another run for stages that would be the same'
	@echo 'PROCESSES=2       the number of processes of each stage: one per GPU'
	@echo 'ACCELERATE=a.yaml Accelerate'"'"'s configuration, for several machines'
	@echo 'REMAKE=1          also run earlier stages again if only their code has changed'
	@echo
	@echo 'make setup        the environment in .venv, with pinned versions'
	@echo 'make test         the tests            make test-all        also the slow ones'
	@echo 'make lint         style and types      make clean           removes runs/'
	@echo 'make optimum      PPO on a toy problem with a known optimum; plot in runs/optimum.png'
	@echo 'make bench        speed against TRL    make quality         time to good answers, against TRL'
	@echo 'make gpu          tests, PPO in bf16 and speed on a GPU, in eight minutes; writes docs/gpu.md'
	@echo 'make growth       cost of a step       make kill            kills every stage a hundred times, and resumes it'
	@echo 'make sitting      raters rank in a browser, PPO follows: BASE=runs/tiny; writes into docs/taste.md'
	@echo 'make experiment   a question on a finished run: NAME=frontier BASE=runs/tiny; without NAME, the list'
	@echo 'make mutate       mutation testing of the equations'
	@echo 'make clean-previous  removes replaced results, and token ids'

# --- the environment --------------------------------------------------------------------------------------------------

# torch is installed first, pinned, so that no other package installs another version
setup:
	@if ! [ "$$VENV/ready" -nt pyproject.toml ] || ! [ "$$VENV/ready" -nt .constraints.txt ]; then set -ex; \
	    [ -x $(PY) ] || "$$PYTHON" -m venv "$$VENV"; \
	    $(PY) -m pip install --constraint .constraints.txt torch; \
	    $(PY) -m pip install --constraint .constraints.txt --editable ".[dev]"; \
	    touch "$$VENV/ready"; fi

# the last TRL with PPO, for comparisons; all other packages have the same versions
setup-trl112:
	@if ! [ .venv-trl112/ready -nt .constraints.txt ] || ! [ .venv-trl112/ready -nt Makefile ]; then set -ex; \
	    [ -x .venv-trl112/bin/python ] || "$$PYTHON" -m venv .venv-trl112; \
	    sed 's/^trl==.*/trl==1.12.0/' .constraints.txt > .venv-trl112/constraints.txt; \
	    .venv-trl112/bin/python -m pip install --constraint .venv-trl112/constraints.txt torch; \
	    .venv-trl112/bin/python -m pip install --constraint .venv-trl112/constraints.txt trl peft requests; \
	    touch .venv-trl112/ready; fi

# --- the stages -------------------------------------------------------------------------------------------------------

$(STAGES) $(TOOLS): setup
	@exec $(PY) -m stages $@

clean:
	rm -rf runs mutants

# removes, in RUN or in all runs: replaced results, leftovers of interrupted runs with other options, and token ids
clean-previous:
	@if [ -n "$$RUN" ]; then rm -rf "$$RUN"/*.previous* "$$RUN"/task/*.previous* "$$RUN"/.*.interrupted "$$RUN"/task/.*.interrupted "$$RUN"/.tokens; \
	else rm -rf runs/*/*.previous* runs/*/task/*.previous* runs/*/.*.interrupted runs/*/task/.*.interrupted runs/*/.tokens; fi

# --- the project itself -----------------------------------------------------------------------------------------------

# two processes, each with one test file at a time; ARGS="-n 0" runs all tests in one process, for a debugger
test: setup
	@OMP_NUM_THREADS=1 $(WITH_ARGS) pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-all: setup
	@OMP_NUM_THREADS=1 $(WITH_ARGS) pytest -n 2 --dist loadfile -m "not gpu"

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

gpu: setup
	@$(PY) -m tests.gpu

growth: setup
	@$(PY) -m tests.benchmarks.growth

sitting: setup
	@$(WITH_ARGS) tests.sitting "$$BASE"

# NAME, BASE and ARGS reach the program as environment variables
experiment: setup
	@$(PY) -m stages.experiments

quality: setup setup-trl112
	@ARGS= $(PY) -m stages reward
	@$(WITH_ARGS) tests.benchmarks.quality --trl112 .venv-trl112/bin/python

# one thread, because mutmut forks and a thread pool does not survive a fork
mutate: setup
	@$(PY) -m mutmut --version >/dev/null 2>&1 || $(PY) -m pip install --constraint .constraints.txt --editable ".[mutate]"
	rm -rf mutants
	@OMP_NUM_THREADS=1 $(WITH_ARGS) mutmut run
	@$(PY) -m tests.survivors
