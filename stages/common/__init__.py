"""What the stages share.

pipeline      `make`: which stages are made again, and why
stage         a stage's inputs, result and record
run           where finished stages are found, and what they were made from
options       the options of every stage
parsing       options from recipe and command line
recipe        YAML files with a section for each stage
code          a hash of the code that a result depends on
training      TRL's trainers for pretraining, SFT and the reward model
resume        checkpoints of an interrupted stage
interruption  signals, and the lock on a result
console       lines, numbers and progress bars on the screen
answers       models that answer prompts, for samples and evaluate
"""
