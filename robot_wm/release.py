"""Meta's released V-JEPA 2-AC files, read strictly into a LatentWorldModel.

Such a file is a pickle of tensors: `{"encoder": ..., "predictor": ..., "opt": ..., ...}` with keys
that begin with `module.` or `backbone.` or both. Every key is used, or named as left out.
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
from robot_wm.types import ActionSpec, UserError, check_counts

_PREFIXES = ("module.", "backbone.")
_HEAD_SIZE = 64  # of the released predictor
# What torch.load raises on files that are not what they say.
_LOADING = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, OSError, RuntimeError),
    *(ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
)
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class ReleaseConfig:
    """What a released file does not say.

    Attributes:
        image_size: height and width of the encoder's pictures, pixels.
        num_heads: of the predictor; None for heads of 64 channels, as the release has.
        encoder_heads: of the encoder; None for the released sizes.
        max_frames: longest sequence; the release was trained on up to 16.
        context_frames: frames remembered while planning; the published planner uses the current.
        camera: name of the camera it is to look through.
        image_height: of that camera's pictures, pixels; DROID's by default.
        image_width: likewise.
        dt_s: seconds between frames; DROID at 4 per second.
        max_delta_m: largest step along each axis.
        max_delta_rad: largest turn about each axis; published planning holds the orientation.
        max_delta_gripper: largest change of the gripper, of its whole way.
        extrinsics: the camera's pose, for a file trained with it; empty leaves that token out.
    """

    image_size: int = 256
    num_heads: int | None = None
    encoder_heads: int | None = None
    max_frames: int = 16
    context_frames: int = 1
    camera: str = "front"
    image_height: int = 180
    image_width: int = 320
    dt_s: float = 0.25
    max_delta_m: float = 0.075
    max_delta_rad: float = 0.05
    max_delta_gripper: float = 0.75
    extrinsics: Sequence[float] = ()

    def __post_init__(self) -> None:
        check_counts(
            image_size=self.image_size,
            num_heads=1 if self.num_heads is None else self.num_heads,
            encoder_heads=1 if self.encoder_heads is None else self.encoder_heads,
            max_frames=self.max_frames,
            image_height=self.image_height,
            image_width=self.image_width,
        )
        for name in ("dt_s", "max_delta_m", "max_delta_rad", "max_delta_gripper"):
            if not 0 < getattr(self, name) < np.inf:
                raise UserError(f"{name}: got {getattr(self, name)}, want above zero")
        numbers = isinstance(self.extrinsics, Sequence) and all(
            isinstance(x, int | float) for x in self.extrinsics
        )
        if not numbers or isinstance(self.extrinsics, str):
            raise UserError(f"extrinsics: got {self.extrinsics!r}, want a list of numbers")


def load_release(path: Path, config: ReleaseConfig) -> tuple[LatentWorldModel, list[str]]:
    """A released file as a model that plans end-effector poses (see robot_wm.poses).

    Args:
        path: the `.pt`; nothing in it but tensors is ever loaded.
        config: what it does not say.

    Returns:
        The model, and the keys of the file that were left out, with why.

    Raises:
        FileNotFoundError: no such file.
        UserError: not such a file; or keys that are missing, or that nothing here knows.
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
    with torch.random.fork_rng(devices=[]):  # its first weights are not kept
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
    same = NormStats(np.zeros(7), np.ones(7))  # the release does not normalise actions or states
    model = LatentWorldModel(
        encoder,
        predictor,
        spec,
        action_stats=same,
        proprio_stats=same,
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
            warnings.simplefilter("ignore")  # torch remarks on odd pickles that it then refuses
            # Mapped, not read: the released file is larger than many memories.
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except _LOADING as error:
        # torch's own message tells people to switch the safety off.
        raise UserError(
            f"checkpoint: {path} is damaged or half-downloaded, or not a released V-JEPA 2-AC "
            f"file, or holds more than tensors, which is never loaded: it would run code"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint: {path} holds a {type(content).__name__}, want a dict")
    return {str(name): value for name, value in content.items()}


def _tensors(weights: object, what: str) -> dict[str, Tensor]:
    """Weights as float32 under their names without prefixes, checked."""
    if not isinstance(weights, Mapping) or not weights:
        raise UserError(f"{what}: got {type(weights).__name__}, want weights by name")
    plain: dict[str, Tensor] = {}
    for name, value in weights.items():
        short = str(name)
        while short.startswith(_PREFIXES):
            short = short.partition(".")[2]
        _check_plain(value, f"{what}.{name}")
        if short in plain:
            raise UserError(f"{what}.{name}: {short} is there twice, with and without prefixes")
        if not value.isfinite().all():
            raise UserError(f"{what}.{name}: holds numbers that are not finite")
        plain[short] = value.to(torch.float32)
    return plain


def _check_plain(value: object, name: str) -> None:
    """A dense tensor in memory, no larger than the file says: nothing else is computed with."""
    if not isinstance(value, Tensor):
        raise UserError(f"{name}: got {type(value).__name__}, want a tensor")
    plain = value.layout == torch.strided and value.device.type == "cpu" and value.dtype in _TYPES
    if not plain or not 1 <= value.numel() <= value.untyped_storage().nbytes():
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
        output_norm=True,
    )


def _load(predictor: Predictor, weights: Mapping[str, Tensor]) -> None:
    wanted = predictor.state_dict()
    missing = sorted(wanted.keys() - weights.keys())
    unknown = sorted(weights.keys() - wanted.keys())
    wrong = [
        f"{name} {tuple(weights[name].shape)}, want {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & weights.keys())
        if weights[name].shape != wanted[name].shape
    ]
    for what, names in (("lacks", missing), ("has unknown", unknown), ("has misshapen", wrong)):
        if names:
            raise UserError(f"predictor: the file {what} {', '.join(names[:8])}")
    predictor.load_state_dict(dict(weights))
