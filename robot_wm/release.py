"""Loads Meta's released V-JEPA 2-AC files into a LatentWorldModel.

Such a file is a pickle of tensors: `{"encoder": ..., "predictor": ..., "opt": ..., ...}` with keys
that begin with `module.` or `backbone.` or both. Every key is used, or reported as left out.
"""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robot_wm.encoders import from_release, release_shape, released_encoder
from robot_wm.models import LatentWorldModel, ModelSpec, View
from robot_wm.poses import POSE_NAMES
from robot_wm.predictor import Predictor, PredictorConfig
from robot_wm.preprocess import NormStats
from robot_wm.types import ActionSpec, Count, Number, Positive, UserError, check_fields

_PREFIXES = ("module.", "backbone.")
_HEAD_SIZE = 64  # channels per attention head of the released predictor
# Errors that torch.load raises for damaged files and files of other kinds.
_LOADING = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, OSError, RuntimeError),
    *(ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
)
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class ReleaseConfig:
    """Settings that a released file does not contain.

    Attributes:
        image_size: Height and width of the encoder's pictures, pixels.
        num_heads: Attention heads of the predictor; None for heads of 64 channels, as released.
        encoder_heads: Attention heads of the encoder; None for those of the released sizes.
        max_frames: Frames of the longest sequence; the release was trained on up to 16.
        context_frames: Frames kept while planning; the published planner uses the current one only.
        camera: Name of the camera that the model looks through.
        image_height: Height of that camera's pictures, pixels; by default DROID's.
        image_width: Width of that camera's pictures, pixels; by default DROID's.
        dt_s: Time between frames, s; by default that of DROID at 4 frames per second.
        max_delta_m: Largest step along each axis, m.
        max_delta_rad: Largest rotation about each axis, rad; published planning keeps the
            orientation.
        max_delta_gripper: Largest change of the gripper, as a share of its range.
        extrinsics: The camera's pose, for a file trained with it; without it that token is left
            out.
    """

    image_size: Count = 256
    num_heads: Count | None = None
    encoder_heads: Count | None = None
    max_frames: Count = 16
    context_frames: Count = 1
    camera: str = "front"
    image_height: Count = 180
    image_width: Count = 320
    dt_s: Positive = 0.25
    max_delta_m: Positive = 0.075
    max_delta_rad: Positive = 0.05
    max_delta_gripper: Positive = 0.75
    extrinsics: Sequence[Number] = ()

    def __post_init__(self) -> None:
        check_fields(self)


def load_release(path: Path, config: ReleaseConfig) -> tuple[LatentWorldModel, list[str]]:
    """Loads a released file as a model that plans end-effector poses (see robot_wm.poses).

    Args:
        path: The `.pt` file, from which only tensors are ever loaded.
        config: Settings that the file does not contain.

    Returns:
        The model, and the keys of the file that were left out, each with the reason.

    Raises:
        FileNotFoundError: no such file.
        UserError: a file of another kind, or keys that are missing or unknown.
    """
    content = _read(path)
    missing = [name for name in ("encoder", "predictor") if name not in content]
    if missing:
        raise UserError(
            f"checkpoint: {path} has no {' and no '.join(missing)}, only {sorted(content)[:8]}"
        )
    left_out = [
        f"{name} (not needed to plan)"
        for name in sorted(content)
        if name not in ("encoder", "predictor")
    ]
    encoder_weights = _tensors(content["encoder"], "encoder")
    predictor_weights = _tensors(content["predictor"], "predictor")
    del content

    shape = release_shape(encoder_weights, config.encoder_heads)
    renamed, unused = from_release(encoder_weights)
    left_out += [f"encoder.{name} (rotary positions replace it)" for name in unused]
    encoder = released_encoder(renamed, shape, config.image_size)

    if not config.extrinsics:
        for name in sorted(n for n in predictor_weights if n.startswith("extrinsics_encoder.")):
            del predictor_weights[name]
            left_out.append(f"predictor.{name} (no extrinsics were given)")
    predictor_config = _predictor_config(predictor_weights, encoder.grid, config)
    with torch.random.fork_rng(devices=[]):  # the initial weights are replaced
        predictor = Predictor(predictor_config)
    _load(predictor, predictor_weights)

    span = np.array([config.max_delta_m] * 3 + [config.max_delta_rad] * 3)
    span = np.append(span, config.max_delta_gripper)
    spec = ModelSpec(
        views=(View(config.camera, config.image_height, config.image_width),),
        dt=config.dt_s,
        state_names=POSE_NAMES,
        action_spec=ActionSpec(POSE_NAMES, -span, span, ("m",) * 3 + ("rad",) * 3 + ("1",)),
        proprio="pose",
        context_frames=config.context_frames,
        features="layer_norm",
        extrinsics=tuple(config.extrinsics),
    )
    identity = NormStats(np.zeros(7), np.ones(7))  # the release normalises no actions or states
    model = LatentWorldModel(
        encoder,
        predictor,
        spec,
        action_stats=identity,
        proprio_stats=identity,
        error="l1",
        rollout_steps=2,
    )
    model.eval().requires_grad_(False)
    return model, left_out


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: no file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd pickles that it then refuses
            # Memory-mapped, because the released file does not fit into many machines' memory.
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except _LOADING as error:
        # torch's own message would tell people to turn the protection off.
        raise UserError(
            f"checkpoint: {path} is damaged or half-downloaded, or not a released V-JEPA 2-AC "
            f"file, or holds more than tensors, which is never loaded: it would run code"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint: {path} holds a {type(content).__name__}, want a dict")
    return {str(name): value for name, value in content.items()}


def _tensors(weights: object, what: str) -> dict[str, Tensor]:
    """Checks weights, and returns them as float32 by their names without prefixes."""
    if not isinstance(weights, Mapping) or not weights:
        raise UserError(f"{what}: got {type(weights).__name__}, want weights by name")
    tensors: dict[str, Tensor] = {}
    for name, value in weights.items():
        short = str(name)
        while short.startswith(_PREFIXES):
            short = short.partition(".")[2]
        _check_tensor(value, f"{what}.{name}")
        if short in tensors:
            raise UserError(f"{what}.{name}: {short} is there twice, with and without prefixes")
        if not value.isfinite().all():
            raise UserError(f"{what}.{name}: holds numbers that are not finite")
        tensors[short] = value.to(torch.float32)
    return tensors


def _check_tensor(value: object, name: str) -> None:
    """Raises UserError unless a value is a dense tensor in memory, no larger than its storage."""
    if not isinstance(value, Tensor):
        raise UserError(f"{name}: got {type(value).__name__}, want a tensor")
    dense = value.layout == torch.strided and value.device.type == "cpu" and value.dtype in _TYPES
    if not dense or not 1 <= value.numel() <= value.untyped_storage().nbytes():
        raise UserError(
            f"{name}: got {value.dtype} {tuple(value.shape)} ({value.layout}, {value.device}), "
            f"want a dense tensor of floating point numbers"
        )


def _predictor_config(
    weights: Mapping[str, Tensor], grid: tuple[int, int], config: ReleaseConfig
) -> PredictorConfig:
    def shape(name: str) -> tuple[int, int]:
        value = weights.get(f"{name}.weight")
        if value is None or value.ndim != 2:
            raise UserError(f"predictor: {name}.weight is missing, got {sorted(weights)[:5]} ...")
        return value.shape[0], value.shape[1]

    width, token_dim = shape("predictor_embed")
    hidden, _ = shape("predictor_blocks.0.mlp.fc1")
    num_heads = config.num_heads
    if num_heads is None:
        if width % _HEAD_SIZE:
            raise UserError(
                f"num_heads: must be given for a predictor of width {width}; the release has heads "
                f"of {_HEAD_SIZE} channels"
            )
        num_heads = width // _HEAD_SIZE
    blocks = {name.split(".")[1] for name in weights if name.startswith("predictor_blocks.")}
    return PredictorConfig(
        token_dim=token_dim,
        grid=grid,
        action_dim=shape("action_encoder")[1],
        state_dim=shape("state_encoder")[1],
        extrinsics_dim=shape("extrinsics_encoder")[1] if config.extrinsics else 0,
        max_frames=config.max_frames,
        width=width,
        depth=len(blocks),
        num_heads=num_heads,
        mlp_ratio=hidden / width,
        rotary="release",
        conditioning="tokens",
        residual=False,
        output_norm=True,
    )


def _load(predictor: Predictor, weights: Mapping[str, Tensor]) -> None:
    expected = predictor.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    misshapen = [
        f"{name} {tuple(weights[name].shape)}, want {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & weights.keys())
        if weights[name].shape != expected[name].shape
    ]
    problems = {"lacks": missing, "has unknown": unknown, "has misshapen": misshapen}
    for problem, names in problems.items():
        if names:
            raise UserError(f"predictor: the file {problem} {', '.join(names[:8])}")
    predictor.load_state_dict(dict(weights))
