"""RLHF as InstructGPT describes it (arXiv 2203.02155): SFT, a reward model, and PPO with a pretraining mix (PPO-ptx).

    ppo        the equations, as functions of tensors         trainer    the PPO loop
    rollout    sample responses, then score them              scoring    reward models and reward functions
    sft        the loss of pretraining and SFT                reward     the K-way ranking loss
    models     policies, reward models and value models       config     the options of PPO
    classifiers  sequence classifiers of all families
    rows       read and check rows                            tokens     tokenizers; rows to token ids and batches
    evaluate   win rate, KL, perplexity                       report     plots and tables
    escape     text that is safe to print
    engine/    fast forward passes and decoding
    adapters/  LoRA adapters on a shared trunk
    run/       sanity checks, divergence checks, metrics, checkpoints

Shapes, in every module:

    B  rows of a batch                   P  tokens of a prompt          T  tokens of a response    L  tokens of a row
    K  completions of one prompt         V  vocabulary size             W  hidden width
    N  tokens of a batch without padding, row after row                 S  selected ones of these N tokens
    H  attention heads                   D  width of a head

and inside engine/: A active rows of a decoder; G sequences of an attention group, with Q queries and M keys each.
"""


class InputError(ValueError):
    """An error that the user can correct: in a file, a row or an option.

    The message says where, and what to do next.
    """


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]
