"""What a family is given to make a model for a dataset."""

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
from robot_wm.types import ActionSpec, Count, InnerShare, UserError, check_fields

Latents = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FitConfig:
    """How a model is made for a dataset.

    Attributes:
        num_frames: Frames per training window.
        batch_size: Windows per step.
        context_frames: Frames that the model remembers while planning.
        proprio: What the predictor gets of proprioception. `integrate`: the state, to which a
            rollout adds the actions, which are its changes; `pose`: the same where state and
            actions are poses (robot_wm.poses); `none`: nothing.
        features: The latent space: `raw`: the encoder's tokens; `layer_norm`: each token normalised
            over its channels; `channel_norm`: each channel normalised by its statistics over the
            training frames.
        error: Distance of tokens in the loss: `l1` absolute, `l2` squared.
        rollout_steps: Steps of the rollout in the loss.
        rollout_prefix: Where that rollout begins: `first`: at the first frame; `random`: at a
            random frame.
        held_out_horizon: Longest horizon of the held-out examination, steps.
        holdout: Share of the episodes that are held out; at least one episode is.

    Raises:
        UserError: sizes do not fit together.
    """

    num_frames: Count = 6
    batch_size: Count = 64
    context_frames: Count = 2
    proprio: Literal["integrate", "pose", "none"] = "integrate"
    features: Literal["raw", "layer_norm", "channel_norm"] = "raw"
    error: Literal["l1", "l2"] = "l2"
    rollout_steps: Count = 3
    rollout_prefix: Literal["first", "random"] = "random"
    held_out_horizon: Count = 4
    holdout: InnerShare = 0.1

    def __post_init__(self) -> None:
        check_fields(self)
        if self.rollout_steps >= self.num_frames:
            raise UserError(
                f"rollout_steps: got {self.rollout_steps}, want 1 to {self.num_frames - 1}, one "
                f"less than num_frames"
            )


@dataclass(frozen=True, eq=False)
class TrainingData:
    """An encoded dataset.

    Attributes:
        data: The dataset.
        tokens: Tokens of all its frames, made by `encoder`.
        encoder: The frozen encoder.
        training: Positions of the episodes that are trained on.
        stats: Statistics of those episodes.
        seed: Seed of the first weights.
    """

    data: AlignedData
    tokens: TokenStore
    encoder: Encoder
    training: tuple[int, ...]
    stats: DataStats
    seed: int = 0

    def views(self) -> tuple[View, ...]:
        """Returns the dataset's cameras and the sizes of their pictures."""
        data = self.data
        first = data.dataset.episode(data.episodes[0])
        sizes = {key: data.dataset.frames(first, key, [0]).shape[1:3] for key in data.cameras}
        return tuple(View(key.rpartition(".")[2], *size) for key, size in sizes.items())

    def action_spec(self) -> ActionSpec:
        """Returns the range of the training actions, 1 % to 99 % quantile: a trust region.

        Units are the dataset's, which does not state them.
        """
        low, high = self.stats.action_q01, self.stats.action_q99
        flat = high - low < 1e-6  # an action that never varies still gets a range
        names = self.data.action_names
        return ActionSpec(names, low - 1e-6 * flat, high + 1e-6 * flat, ("",) * len(names))

    def step_energy(self, latents: Latents | None = None) -> dict[str, float]:
        """Computes the mean distance of neighbouring frames' latents over the training episodes.

        Args:
            latents: Maps tokens `[T, P, D]` to latents; None: the latents are the tokens.

        Returns:
            The distances `l1` and `l2`.
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
