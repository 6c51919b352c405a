"""Scores of responses: from a reward model, from Python functions, or from both.

scores           reward models and reward functions as functions from responses to scores
reward_models    sequence classifiers that read text, called like reward functions
function_calls   how a Python function is called: as TRL calls it
pairwise_judges  how a function that compares two answers is called
benchmarks       accuracies of a reward model on RewardBench and RewardBench 2
"""

from rlhf.scoring.function_calls import RewardFunction
from rlhf.scoring.reward_models import RewardModel, check_classifier, reads_token_ids
from rlhf.scoring.scores import RewardFunctions, call_reward_function, reward_model_scores, text_scores

__all__ = [
    "RewardFunction",
    "RewardFunctions",
    "RewardModel",
    "call_reward_function",
    "check_classifier",
    "reads_token_ids",
    "reward_model_scores",
    "text_scores",
]
