"""Retrieval: what was done where a demonstration looked like now and later like the goal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robot_wm.data import EncodedEpisodes


class Demonstrations(nn.Module):
    """Frames of demonstrations and the actions after them, to be looked up by their features.

    Attributes:
        features: Normalised features of the frames `[N, F]`.
        actions: The action after each frame `[N, A]`.
        ends: Number of the row after the last of its episode, for every frame `[N]`.
        tasks: Number of the task of every frame's episode `[N]`.

    Args:
        num_frames: Number of frames, N.
        num_features: Features of a latent, F.
        num_actions: Numbers of an action, A.
        chunk: Actions of a chunk, C.
        farthest: Largest number of steps from a frame to its goal.
    """

    features: Tensor
    actions: Tensor
    ends: Tensor
    tasks: Tensor

    def __init__(
        self, num_frames: int, num_features: int, num_actions: int, *, chunk: int, farthest: int
    ) -> None:
        super().__init__()
        self._chunk, self._farthest = chunk, farthest
        self.register_buffer("features", torch.zeros(num_frames, num_features).half())
        self.register_buffer("actions", torch.zeros(num_frames, num_actions))
        self.register_buffer("ends", torch.zeros(num_frames, dtype=torch.int64))
        self.register_buffer("tasks", torch.zeros(num_frames, dtype=torch.int64))

    def fit(self, features: Tensor, episodes: EncodedEpisodes) -> None:
        """Keeps normalised features `[N, F]` of the frames of episodes, and their actions."""
        self.features.copy_(features)
        self.actions.copy_(episodes.actions)
        self.ends.copy_(episodes.ends)
        self.tasks.copy_(episodes.tasks)

    def look_up(self, features: Tensor, goal: Tensor, task: int | None, num: int) -> Tensor:
        """Returns the actions of the demonstrations nearest to a frame and its goal.

        Args:
            features: Normalised features of the frame `[F]`.
            goal: Those of the goal `[F]`.
            task: Number of the task; None: any of them.
            num: Number of chunks, N.

        Returns:
            Chunks `[at most N, C, A]`, in the robot's units, the nearest first.
        """
        bank = self.features.float()
        here = (bank - features).square().mean(1)
        there = (bank - goal).square().mean(1)
        rows = torch.arange(len(bank), device=bank.device)
        best = here + there  # the frame as its own goal
        for steps in range(1, self._farthest + 1):
            later = torch.minimum(rows + steps, self.ends - 1)
            best = torch.minimum(best, here + there[later])
        if task is not None:
            best = best.masked_fill(self.tasks != task, torch.inf)
        nearest = best.topk(min(num, len(best)), largest=False, sorted=True).indices
        nearest = nearest[best[nearest].isfinite()]  # the task may have fewer
        following = nearest[:, None] + torch.arange(self._chunk, device=bank.device)
        return self.actions[torch.minimum(following, self.ends[nearest, None] - 1)]
