"""PPO whose value head ends in a ReLU: no value is below 0."""

import torch

from stages.common.stage import main
from stages.experiments.faults import value_activations
from stages.ppo import work

if __name__ == "__main__":
    value_activations.use(torch.relu)
    main("ppo", work, "experiments.faults.relu_values")
