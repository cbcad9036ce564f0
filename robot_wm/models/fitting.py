"""What a family is told when it is to make a model of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robot_wm.data import AlignedData, DataStats, TokenStore
from robot_wm.encoders import Encoder
from robot_wm.models.protocol import View
from robot_wm.types import ActionSpec, UserError

Latents = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FitConfig:
    """What is made of a dataset.

    Attributes:
        num_frames: frames per training window.
        batch_size: windows per step.
        context_frames: frames the model remembers while planning.
        proprio: see robot_wm.models.latent.ModelSpec, like `features`.
        features: the space to imagine in.
        error: see LatentWorldModel, like `rollout_steps` and `rollout_prefix`.
        rollout_steps: length of the rollout in the loss.
        rollout_prefix: where it begins.
        held_out_horizon: furthest step of the held-out examination.
        holdout: share of the episodes held out, at least one.
        seed: of weights, split and order.

    Raises:
        UserError: sizes that do not fit together.
    """

    num_frames: int = 6
    batch_size: int = 64
    context_frames: int = 2
    proprio: Literal["integrate", "pose", "none"] = "integrate"
    features: Literal["raw", "layer_norm", "channel_norm"] = "raw"
    error: Literal["l1", "l2"] = "l2"
    rollout_steps: int = 3
    rollout_prefix: Literal["first", "random"] = "random"
    held_out_horizon: int = 4
    holdout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.rollout_steps < self.num_frames:
            raise UserError(
                f"rollout_steps: got {self.rollout_steps}, want 1 to {self.num_frames - 1}, one "
                f"less than num_frames"
            )
        if self.held_out_horizon < 1 or not 0 < self.holdout < 1:
            raise UserError(
                f"got held_out_horizon {self.held_out_horizon} and holdout {self.holdout}, want at "
                f"least 1 and a share between 0 and 1"
            )


@dataclass(frozen=True, eq=False)
class TrainingData:
    """A dataset, encoded.

    Attributes:
        data: the dataset.
        tokens: of all its frames, by `encoder`.
        encoder: frozen.
        training: positions of the episodes that are trained on.
        stats: of those.
    """

    data: AlignedData
    tokens: TokenStore
    encoder: Encoder
    training: tuple[int, ...]
    stats: DataStats

    def views(self) -> tuple[View, ...]:
        """The cameras of the dataset, and the size of their pictures."""
        data = self.data
        first = data.dataset.episode(data.episodes[0])
        sizes = {key: data.dataset.frames(first, key, [0]).shape[1:3] for key in data.cameras}
        return tuple(View(key.rpartition(".")[2], *size) for key, size in sizes.items())

    def action_spec(self) -> ActionSpec:
        """The actions seen in training, 1 % to 99 % quantile: a trust region.

        Units are the dataset's, which does not state them.
        """
        low, high = self.stats.action_q01, self.stats.action_q99
        flat = high - low < 1e-6  # one that never varies is no single point
        names = self.data.action_names
        return ActionSpec(names, low - 1e-6 * flat, high + 1e-6 * flat, ("",) * len(names))

    def step_energy(self, latents: Latents | None = None) -> dict[str, float]:
        """Mean distance of neighbouring frames' latents over the training episodes.

        Args:
            latents: tokens `[T, P, D]` to latents; where None they are the same.
        """
        total, count = {"l1": 0.0, "l2": 0.0}, 0
        for episode in self.training:
            values = torch.from_numpy(np.array(self.tokens[episode], np.float32))  # [T, P, D]
            change = (values if latents is None else latents(values)).diff(dim=0)
            if len(change):
                total["l1"] += float(change.abs().mean(dim=(1, 2)).sum())
                total["l2"] += float(change.square().mean(dim=(1, 2)).sum())
                count += len(change)
        return {name: value / max(1, count) for name, value in total.items()}
