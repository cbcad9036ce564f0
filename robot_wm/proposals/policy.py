"""A goal-conditioned policy: a flow that turns noise into chunks of actions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robot_wm.data import EncodedEpisodes, HindsightBatch

_NUM_FREQUENCIES = 8
_NUM_STEPS = 10  # of Euler's method, from noise to actions
_STRESS = 4.0  # factor of the difference between goal and frame among the inputs


def pair(features: Tensor, goals: Tensor) -> Tensor:
    """Joins features `[..., F]`, those of their goals, and the difference, `[..., 3 F]`.

    Near the goal the difference is small beside either, and yet it is all that matters.
    """
    return torch.cat((features, goals, _STRESS * (goals - features)), dim=-1)


class FlowPolicy(nn.Module):
    """Draws chunks of actions for a frame and its goal, by flow matching (arXiv 2210.02747).

    It is trained as in pi-0 (arXiv 2410.24164), without its language model: a network learns the
    straight way from noise to the chunk of a demonstration.

    Attributes:
        frequencies: Frequencies by which the network is told the time of the flow.
        proprio_mean: Mean of the proprioception in the training data `[Q]`.
        proprio_std: Its standard deviation `[Q]`.
        rest: The action of no motion `[A]`.
        unit: Root mean square of the actions, less `rest`, in the training data `[A]`.

    Args:
        num_features: Features of a latent, F.
        num_proprio: Numbers of the proprioception, Q.
        num_actions: Numbers of an action, A.
        chunk: Actions of a chunk, C.
        width: Width of the network.
        depth: Number of its hidden layers.
    """

    frequencies: Tensor
    proprio_mean: Tensor
    proprio_std: Tensor
    rest: Tensor
    unit: Tensor

    def __init__(
        self,
        num_features: int,
        num_proprio: int,
        num_actions: int,
        *,
        chunk: int,
        width: int,
        depth: int,
    ) -> None:
        super().__init__()
        self._chunk, self._num_actions = chunk, num_actions
        size = chunk * num_actions
        sizes = [3 * num_features + num_proprio + size + 2 * _NUM_FREQUENCIES, *[width] * depth]
        layers: list[nn.Module] = []
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(a, b), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], size))
        frequencies = 2.0 ** torch.arange(_NUM_FREQUENCIES) * math.pi / 2
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("proprio_mean", torch.zeros(num_proprio))
        self.register_buffer("proprio_std", torch.ones(num_proprio))
        self.register_buffer("rest", torch.zeros(num_actions))
        self.register_buffer("unit", torch.ones(num_actions))

    def fit(self, episodes: EncodedEpisodes) -> None:
        """Takes the statistics of proprioception and actions from the training episodes."""
        std = episodes.proprio.std(0, correction=0)
        self.proprio_mean.copy_(episodes.proprio.mean(0))
        self.proprio_std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))
        self.rest.copy_(episodes.actions[-1])  # what follows an episode's last frame
        unit = (episodes.actions - self.rest).square().mean(0).sqrt()
        self.unit.copy_(torch.where(unit > 1e-9, unit, torch.ones_like(unit)))

    def loss(
        self,
        features: Tensor,
        proprio: Tensor,
        batch: HindsightBatch,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns the flow-matching loss of a batch.

        Args:
            features: Normalised features of all frames `[N, F]`.
            proprio: Their proprioception `[N, Q]`, in the robot's units.
            batch: Rows of the frames and goals, and the actions between them.
            generator: Generator of the noise, on the CPU.

        Returns:
            The loss, a scalar.
        """
        device = self.rest.device
        chunk = ((batch.actions.to(device) - self.rest) / self.unit).flatten(1)
        noise = torch.randn(chunk.shape, generator=generator).to(device)
        time = torch.rand((len(chunk), 1), generator=generator).to(device)
        rows, goals = batch.rows.to(features.device), batch.goals.to(features.device)
        condition = self._condition(features[rows], features[goals], proprio[rows])
        velocity = self._velocity(torch.lerp(noise, chunk, time), time, condition)
        error = (velocity - (chunk - noise)).square().unflatten(1, (self._chunk, -1)).mean(2)
        weights = batch.weights.to(device)
        return (error * weights).sum() / weights.sum()

    @torch.no_grad()
    def sample(
        self, features: Tensor, goal: Tensor, proprio: Tensor, num: int, generator: torch.Generator
    ) -> Tensor:
        """Draws chunks of actions for one frame and its goal.

        Args:
            features: Normalised features of the frame `[F]`.
            goal: Those of the goal `[F]`.
            proprio: Proprioception at the frame `[Q]`, in the robot's units.
            num: Number of chunks, N.
            generator: Generator of the noise, on the policy's device.

        Returns:
            Chunks `[N, C, A]`, in the robot's units.
        """
        size, device = self._chunk * self._num_actions, self.rest.device
        condition = self._condition(features, goal, proprio).expand(num, -1)
        actions = torch.randn((num, size), generator=generator, device=device)
        for step in range(_NUM_STEPS):
            time = actions.new_full((num, 1), step / _NUM_STEPS)
            actions = actions + self._velocity(actions, time, condition) / _NUM_STEPS
        return actions.view(num, self._chunk, self._num_actions) * self.unit + self.rest

    def _condition(self, features: Tensor, goals: Tensor, proprio: Tensor) -> Tensor:
        state = (proprio - self.proprio_mean) / self.proprio_std
        return torch.cat((pair(features, goals), state), dim=-1)

    def _velocity(self, actions: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        angle = time * self.frequencies
        return self.net(torch.cat((actions, angle.sin(), angle.cos(), condition), dim=1))
