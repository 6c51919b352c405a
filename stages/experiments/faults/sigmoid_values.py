"""PPO whose value head ends in a sigmoid: no value is below 0 or above 1."""

import torch

from stages.common.stage import main
from stages.experiments.faults import value_activations
from stages.ppo import work

if __name__ == "__main__":
    value_activations.use(torch.sigmoid)
    main("ppo", work, "experiments.faults.sigmoid_values")
