"""PPO that reads the score of the reward model one token too early, before the end of the response."""

import rlhf.trainer
import stages.ppo
from rlhf.scoring import reward_model_scores
from stages.common.stage import main
from stages.ppo import work


def scores_one_token_early(reward_model, responses):
    """The reward model's score (B,) at the last but one token of each response, or of its prompt."""
    last = responses.attention_mask.sum(dim=1).cumsum(dim=0) - 1
    return reward_model(responses.input_ids, responses.attention_mask, last - 1, responses.prefix_row)


if __name__ == "__main__":
    assert stages.ppo.reward_model_scores is reward_model_scores
    stages.ppo.reward_model_scores = scores_one_token_early
    rlhf.trainer.check_first_rollout = lambda *arguments, **options: (
        "no check, because this run has a mistake on purpose"
    )
    main("ppo", work, "experiments.faults.wrong_token")
