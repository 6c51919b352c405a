"""Code that the stages share.

pipeline      the program behind `make`: decides which stages run, and runs them
requirements  inputs that a recipe must name, checked before the first stage runs
stage         a stage's inputs, result and record
run           the folders of a run and its bases, with the records of finished stages
options       the options of every stage
parsing       options from recipe and command line
recipe        YAML files with a section for each stage
code          a hash of the code that a result depends on
training      TRL's trainers for pretraining, SFT and the reward model
ppo_log       the log, the printed lines and the checkpoints of PPO
resume        checkpoints of an interrupted stage
interruption  signals, and the lock on a result
console       lines, durations and progress bars on the screen
rewards       functions and classifiers that score completions
answers       models that answer prompts, for samples and evaluate
"""
