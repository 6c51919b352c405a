"""RLHF as InstructGPT describes it (arXiv 2203.02155): supervised fine-tuning, a reward model, and PPO with a pretraining mix.

The parts stand alone: `rlhf.ppo` is the mathematics, and needs torch only; `rlhf.rollout` samples and scores;
`rlhf.trainer` is the loop; `rlhf.reward` trains on rankings; `rlhf.data` reads rows; `rlhf.models` loads what has learned.
"""
