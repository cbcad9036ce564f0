"""A goal-conditioned policy: a flow that turns noise into chunks of actions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robot_wm.data import EncodedEpisodes, HindsightBatch

_NUM_FREQUENCIES = 8
_TASK_SIZE = 8  # numbers that stand for a task
_UNNAMED_SHARE = 0.1  # of the frames in training whose task is not told
_NUM_STEPS = 10  # of Euler's method, from noise to actions
_STRESS = 4.0  # factor of the difference between goal and frame among the inputs


def pair(features: Tensor, goals: Tensor) -> Tensor:
    """Joins features `[..., F]`, those of their goals, and the difference, `[..., 3 F]`.

    Near the goal the difference is small beside either, and yet it is all that matters.
    """
    return torch.cat((features, goals, _STRESS * (goals - features)), dim=-1)


class ResidualBlock(nn.Module):
    """Adds to vectors `[..., width]` what two layers make of them, nothing at first.

    Args:
        width: Width of the vectors.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` and what the layers make of it."""
        return x + self.down(F.silu(self.up(self.norm(x))))


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
        num_tasks: Number of tasks in the demonstrations.
        chunk: Actions of a chunk, C.
        width: Width of the network.
        depth: Number of its residual blocks.
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
        num_tasks: int,
        *,
        chunk: int,
        width: int,
        depth: int,
    ) -> None:
        super().__init__()
        self.tasks = nn.Embedding(num_tasks + 1, _TASK_SIZE)  # the last stands for any of them
        self._chunk, self._num_actions = chunk, num_actions
        size = chunk * num_actions
        num_inputs = 3 * num_features + num_proprio + _TASK_SIZE + size + 2 * _NUM_FREQUENCIES
        self.net = nn.Sequential(
            nn.Linear(num_inputs, width),
            *(ResidualBlock(width) for _ in range(depth)),
            nn.LayerNorm(width),
            nn.SiLU(),
            nn.Linear(width, size),
        )
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
        goals: Tensor,
        proprio: Tensor,
        tasks: Tensor,
        batch: HindsightBatch,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns the flow-matching loss of a batch.

        Args:
            features: Normalised features of its frames `[B, F]`.
            goals: Those of its goals `[B, F]`.
            proprio: Proprioception at the frames `[B, Q]`, in the robot's units.
            tasks: Numbers of their tasks `[B]`.
            batch: The actions between frames and goals.
            generator: Generator of the noise, on the CPU.

        Returns:
            The loss, a scalar.
        """
        device = self.rest.device
        chunk = ((batch.actions.to(device) - self.rest) / self.unit).flatten(1)
        noise = torch.randn(chunk.shape, generator=generator).to(device)
        time = torch.rand((len(chunk), 1), generator=generator).to(device)
        unnamed = torch.rand(len(chunk), generator=generator) < _UNNAMED_SHARE
        named = torch.where(unnamed.to(device), self.tasks.num_embeddings - 1, tasks)
        condition = self._condition(features, goals, proprio, named)
        velocity = self._velocity(torch.lerp(noise, chunk, time), time, condition)
        error = (velocity - (chunk - noise)).square().unflatten(1, (self._chunk, -1)).mean(2)
        weights = batch.weights.to(device)
        return (error * weights).sum() / weights.sum()

    @torch.no_grad()
    def sample(
        self,
        features: Tensor,
        goal: Tensor,
        proprio: Tensor,
        task: int | None,
        num: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Draws chunks of actions for one frame and its goal.

        Args:
            features: Normalised features of the frame `[F]`.
            goal: Those of the goal `[F]`.
            proprio: Proprioception at the frame `[Q]`, in the robot's units.
            task: Number of the task; None: any of them.
            num: Number of chunks, N.
            generator: Generator of the noise, on the policy's device.

        Returns:
            Chunks `[N, C, A]`, in the robot's units.
        """
        size, device = self._chunk * self._num_actions, self.rest.device
        named = torch.tensor(self.tasks.num_embeddings - 1 if task is None else task)
        condition = self._condition(features, goal, proprio, named.to(device)).expand(num, -1)
        actions = torch.randn((num, size), generator=generator, device=device)
        for step in range(_NUM_STEPS):
            time = actions.new_full((num, 1), step / _NUM_STEPS)
            actions = actions + self._velocity(actions, time, condition) / _NUM_STEPS
        return actions.view(num, self._chunk, self._num_actions) * self.unit + self.rest

    def _condition(self, features: Tensor, goals: Tensor, proprio: Tensor, tasks: Tensor) -> Tensor:
        state = (proprio - self.proprio_mean) / self.proprio_std
        return torch.cat((pair(features, goals), state, self.tasks(tasks)), dim=-1)

    def _velocity(self, actions: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        angle = time * self.frequencies
        return self.net(torch.cat((actions, angle.sin(), angle.cos(), condition), dim=1))
