"""Computes the reference statistics of a checkpoint, on demonstrations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from robot_wm.checkpoint import add_to_checkpoint, find_checkpoint, load_checkpoint
from robot_wm.data import split_episodes
from robot_wm.deployment.joints import learned_joints, view_of
from robot_wm.models import device_of
from robot_wm.monitors import FILE, ReferenceStatistics, fit_reference
from robot_wm.precision import pick_device
from robot_wm.robots import make_arm
from robot_wm.shipped import WEIGHTS_DIR
from robot_wm.types import Count, Settings, UserError
from robot_wm.workflows.data import DatasetSettings, encode_data, load_data


class AddReferenceSettings(Settings, frozen=True, kw_only=True):
    """Which checkpoint, and which demonstrations.

    Attributes:
        checkpoint: Directory of the checkpoint.
        data: The demonstrations that it was trained on.
        num_frames: Approximate number of training frames to compare with, and of held-out frames.
        cache: Directory where the encoder's tokens are kept, by content.
        device: Device to compute on: `auto`, `cpu`, `cuda`, `cuda:1`, ...
    """

    checkpoint: str
    data: DatasetSettings
    num_frames: Count = 500
    cache: str = "outputs/cache"
    device: str = "auto"


def add_reference(settings: AddReferenceSettings) -> ReferenceStatistics:
    """Computes the statistics that `deploy` compares with, and writes them beside the weights.

    Args:
        settings: The checkpoint and the demonstrations.

    Returns:
        The statistics.

    Raises:
        UserError: the checkpoint ships with robot_wm, or it was trained on data of another kind.
    """
    directory = find_checkpoint(settings.checkpoint)
    if directory.resolve().is_relative_to(WEIGHTS_DIR.resolve()):
        raise UserError(
            f"checkpoint: {settings.checkpoint} ships with robot_wm: copy {directory} first"
        )
    model, saved = load_checkpoint(directory)
    model.to(pick_device(settings.device))
    info, device = model.info, device_of(model)
    learned = learned_joints(saved)
    view = None
    if learned is not None:
        arm = replace(make_arm(learned.arm), device=learned.joints)
        view = view_of(arm, info.state_names)
    data = load_data(settings.data, view=view)
    cameras = tuple(key.rpartition(".")[2] for key in data.cameras)
    if cameras != info.cameras or data.action_names != info.action_spec.names:
        raise UserError(
            f"data: camera {', '.join(cameras)}, actions {', '.join(data.action_names)}; the "
            f"checkpoint's are {', '.join(info.cameras)} and {', '.join(info.action_spec.names)}"
        )
    if abs(data.dt_s - info.dt) > 1e-3:
        raise UserError(f"data: steps of {data.dt_s:g} s, the checkpoint's are {info.dt:g} s")
    action = (saved["training"].get("data") or {}).get("action", settings.data.action)
    if action != settings.data.action:
        raise UserError(f"data.action: got {settings.data.action}, the checkpoint's is {action}")
    tokens = encode_data(data, model.encoder, device, Path(settings.cache))
    trained: dict[str, Any] = saved["training"]
    fit = trained.get("model") or trained.get("fit") or {}  # `fit` in older checkpoints
    share = float(fit.get("holdout", 0.1))
    seed = int(trained.get("seed", fit.get("seed", 0)))
    episodes = split_episodes(data.num_episodes, share, seed)
    reference = fit_reference(model, data, tokens, *episodes, num_frames=settings.num_frames)
    add_to_checkpoint(directory, FILE, reference.to_bytes())
    return reference


def summary(reference: ReferenceStatistics) -> dict[str, float]:
    """Sums up the statistics in a few numbers."""
    return {
        "frames": len(reference.bank),
        "novelty_max": float(reference.novelty[-1]),
        "thumbnail_novelty_max": float(reference.thumbnail_novelty[-1]),
        "prediction_error_median": float(reference.prediction_errors.median()),
        "p_value_least": reference.least_p,
        "prediction_error_p01": float(reference.prediction_errors.quantile(0.99)),
    }
