"""A learned temporal distance: how many steps a goal is away."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from robot_wm.proposals.policy import pair

_STEPS = 10.0  # steps that one unit of the network's output stands for
_NEAR = 0.1  # root mean square difference of features that counts as being there


class TemporalDistance(nn.Module):
    """Predicts the number of steps from one frame to another, which is zero for the same frame.

    Args:
        num_features: Features of a latent, F.
        width: Width of the network.
        depth: Number of its hidden layers.
    """

    def __init__(self, num_features: int, *, width: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(depth):
            size = width if i else 3 * num_features
            layers += [nn.Linear(size, width), nn.LayerNorm(width), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, features: Tensor, goals: Tensor) -> Tensor:
        """Returns the numbers of steps `[...]` from frames to goals, by features `[..., F]`."""
        steps = _STEPS * F.softplus(self.net(pair(features, goals))[..., 0])
        apart = (goals - features).square().mean(-1)
        # A factor that is zero at the goal, whatever the network says, and one away from it.
        return steps * apart / (apart + _NEAR**2)
