"""Makes a LatentWorldModel for a dataset, writes it to a checkpoint's description, and reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import torch

from robot_wm.data import TokenStore
from robot_wm.encoders import Encoder
from robot_wm.models.families import Family, register_family
from robot_wm.models.fitting import FitConfig, TrainingData
from robot_wm.models.latent.model import LatentWorldModel
from robot_wm.models.latent.spec import ModelSpec
from robot_wm.models.protocol import View
from robot_wm.predictor import Predictor, PredictorConfig
from robot_wm.preprocess import NormStats
from robot_wm.types import ActionSpec, UserError


def _build(
    training: TrainingData, config: FitConfig, settings: Mapping[str, Any]
) -> LatentWorldModel:
    """Makes an untrained model for a dataset.

    Args:
        training: The dataset, encoded.
        config: How the model is fitted.
        settings: Fields of PredictorConfig.

    Returns:
        The model.

    Raises:
        UserError: actions that proprioception cannot integrate, or settings that do not fit.
    """
    data, encoder = training.data, training.encoder
    needed = {"integrate": ("state_delta", "command_delta"), "pose": ("pose_delta",)}
    actions = needed.get(config.proprio, (data.spec.action,))
    if data.spec.action not in actions:
        raise UserError(
            f"proprio: {config.proprio!r} adds actions to the state, but action="
            f"{data.spec.action!r} are no such changes; want proprio=none or "
            f"data.action={' or '.join(actions)}"
        )
    views = training.views()
    shape = PredictorConfig(
        token_dim=encoder.dim,
        grid=encoder.grid,
        num_views=len(views),
        action_dim=len(data.action_names),
        state_dim=0 if config.proprio == "none" else len(data.proprio_names),
        max_frames=max(config.num_frames, config.context_frames + config.held_out_horizon),
        output_norm=config.features == "layer_norm",
        **settings,
    )
    spec = ModelSpec(
        views=views,
        dt=data.dt_s,
        state_names=data.proprio_names,
        action_spec=training.action_spec(),
        proprio=config.proprio,
        context_frames=config.context_frames,
        features=config.features,
        robot=data.dataset.robot_type or None,
    )
    model = LatentWorldModel(
        encoder,
        Predictor(shape, generator=torch.Generator().manual_seed(training.seed)),
        spec,
        action_stats=training.stats.action_stats,
        proprio_stats=training.stats.proprio_stats,
        feature_stats=(
            channel_stats(training.tokens, training.training)
            if config.features == "channel_norm"
            else None
        ),
        error=config.error,
        rollout_steps=config.rollout_steps,
        rollout_prefix=config.rollout_prefix,
    )
    model.spec = replace(spec, step_energy=training.step_energy(model.latents))
    return model


def channel_stats(tokens: TokenStore, episodes: Sequence[int]) -> NormStats:
    """Returns the mean and standard deviation of each channel over the tokens of some episodes."""
    dim = tokens.dim
    total, square, count = np.zeros(dim), np.zeros(dim), 0
    for episode in episodes:
        values = np.asarray(tokens[episode], np.float64).reshape(-1, dim)
        total, square = total + values.sum(0), square + (values**2).sum(0)
        count += len(values)
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    return NormStats(mean, np.where(std > 1e-6 * (1 + np.abs(mean)), std, 1.0))


def _describe(model: LatentWorldModel) -> dict[str, Any]:
    spec = model.spec
    spec_values: dict[str, Any] = {
        **{f.name: getattr(spec, f.name) for f in fields(spec)},
        "views": [asdict(view) for view in spec.views],
        "action_spec": {
            "names": list(spec.action_spec.names),
            "units": list(spec.action_spec.units),
            "low": spec.action_spec.low.tolist(),
            "high": spec.action_spec.high.tolist(),
        },
        "step_energy": None if spec.step_energy is None else dict(spec.step_energy),
    }
    return {
        "spec": spec_values,
        "predictor": asdict(model.predictor.config),
        "action_stats": _stats_to_json(model.action_stats),
        "proprio_stats": _stats_to_json(model.proprio_stats),
        "feature_stats": (
            None if model.feature_stats is None else _stats_to_json(model.feature_stats)
        ),
        "error": model.error,
        "rollout_steps": model.rollout_steps,
        "rollout_prefix": model.rollout_prefix,
    }


def _rebuild(encoder: Encoder, saved: Mapping[str, Any]) -> LatentWorldModel:
    spec = {
        **saved["spec"],
        "views": tuple(View(**view) for view in saved["spec"]["views"]),
        "action_spec": ActionSpec(**saved["spec"]["action_spec"]),
    }
    with torch.random.fork_rng(devices=[]):  # the initial weights are replaced, so draw none
        predictor = Predictor(PredictorConfig(**saved["predictor"]))
    stats = {
        name: None if saved[name] is None else NormStats(**saved[name])
        for name in ("action_stats", "proprio_stats", "feature_stats")
    }
    model = LatentWorldModel(
        encoder,
        predictor,
        ModelSpec(**spec),
        **stats,  # type: ignore[arg-type] - action_stats and proprio_stats are never None
        error=saved["error"],
        rollout_steps=saved["rollout_steps"],
        rollout_prefix=saved["rollout_prefix"],
    )
    model.eval().requires_grad_(False)
    return model


def _stats_to_json(stats: NormStats) -> dict[str, list[float]]:
    return {"mean": stats.mean.tolist(), "std": stats.std.tolist()}


LATENT = register_family(Family("latent", LatentWorldModel, _build, _describe, _rebuild))
