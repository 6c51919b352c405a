"""RLHF as InstructGPT describes it (arXiv 2203.02155): SFT, a reward model, and PPO with a pretraining mix (PPO-ptx).

    ppo        the equations, as functions of tensors         trainer    the loop
    rollout    sample responses, then score them              scoring    reward models and reward functions
    sft        the loss of pretraining and SFT                reward     the K-way ranking loss
    models     tokenizers, policies, reward and value models  config     the options of PPO
    rows       read and check rows                            tokens     rows to token ids and batches
    evaluate   win rate, KL, perplexity                       report     pictures and tables
    engine/    what makes forward passes and decoding fast
    run/       what surrounds the loop: checks before it and during it, metrics, checkpoints

Shapes, in every module: B rows of a batch, P tokens of a prompt, T of a response, L of a row, K completions of one
prompt, V vocabulary, W hidden width; N tokens of a batch without padding, row after row, and S selected ones of these;
H attention heads of width D.
"""


class InputError(ValueError):
    """Something a person can correct: a file, a row, an option. The message says where it is and what to do next."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its type, to be part of an InputError."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]
