"""Code that the stages share.

pipeline      the program behind `make`: prints which stages run, and runs them
request       what make was told
decisions     which stages have to run, and why
evaluation    the evaluation that a report needs
processes     how the processes of a stage are started, and what ends them all
requirements  inputs that a recipe must name, checked before the first stage runs
stage         a stage's inputs, result and record
run           the folders of a run and its bases, with the records of finished stages
options       the options of the stages up to PPO
answer_options  the options of what uses finished models: samples, evaluate, rank, chat and report
programs      the stages and tools by name
parsing       options from recipe and command line
recipe        YAML files with a section for each stage
code          a hash of the code that a result depends on
libraries     checks of values that the libraries define
training      TRL's trainers for pretraining, SFT and the reward model
whole_checkpoints  checkpoints of these trainers if their models are sharded
token_files   where a run keeps token ids
ppo_models    the models of PPO: all weights of each, or adapters on one trunk
ppo_log       the log, the printed lines and the checkpoints of PPO
resume        checkpoints of an interrupted stage
interruption  signals, and the lock on a result
ending        the exit status and the message after an error
needs         what a stage says of the memory that it needs
preview       a row as the model sees it
console       lines, durations and progress bars on the screen
people        comparisons that people ranked
rewards       functions and classifiers that score completions
answers       models that answer prompts
conversation  turns as a prompt, and the reply while it is sampled
streaming     a response token by token
export        a model with its chat format in a folder of its own
card          the model card of a result
"""
