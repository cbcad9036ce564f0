"""Latent models with random weights that never see a picture: only their speed matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from robot_wm.models import LatentWorldModel, ModelSpec, View
from robot_wm.predictor import Predictor, PredictorConfig
from robot_wm.preprocess import NormStats
from robot_wm.types import ActionSpec


@dataclass(frozen=True)
class _NoEncoder:
    """The part of an encoder that a model asks about before it sees a picture."""

    dim: int
    grid: tuple[int, int]


def untrained_model(
    config: PredictorConfig, device: torch.device, generator: torch.Generator, *, context: int = 2
) -> LatentWorldModel:
    """Makes a model that imagines and trains on tokens alone.

    Args:
        config: Shape of the predictor; its state and its actions have the same size.
        device: The device of the model.
        generator: Draws the weights.
        context: Frames that the model remembers while planning.

    Returns:
        A model whose actions are between -1 and 1.
    """
    size = config.action_dim
    names = tuple(f"x{i}" for i in range(size))
    same = NormStats(np.zeros(size), np.ones(size))
    bounds = ActionSpec(names, -np.ones(size), np.ones(size), ("",) * size)
    spec = ModelSpec((View("front", 96, 96),), 0.2, names, bounds, context_frames=context)
    encoder: Any = _NoEncoder(config.token_dim, config.grid)
    predictor = Predictor(config, generator=generator).to(device)
    return LatentWorldModel(encoder, predictor, spec, action_stats=same, proprio_stats=same)
