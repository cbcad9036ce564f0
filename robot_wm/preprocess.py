"""Prepares images, and normalises proprioception and actions, for training and deployment alike.

Only data, encoders and models call these functions, so a picture cannot be prepared in two ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robot_wm.types import Count, FloatArray, ImageArray, Number, Positive, UserError, check_fields

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSpec:
    """Size and preparation of an encoder's pictures.

    Attributes:
        height: Height after resizing, pixels.
        width: Width after resizing, pixels.
        mean: Mean per RGB channel, of values in [0, 1]. By default ImageNet's, as for V-JEPA 2,
            because the image statistics that LeRobot stores are wrong (lerobot issue 3682).
        std: Standard deviation per RGB channel, of values in [0, 1], above zero.
        interpolation: How pictures are resized.
        antialias: Whether details smaller than a new pixel are averaged instead of skipped.
    """

    height: Count
    width: Count
    mean: tuple[Number, Number, Number] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        check_fields(self)


def prepare_images(images: ImageArray | Tensor, spec: ImageSpec) -> Tensor:
    """Crops, resizes and normalises camera pictures for an encoder.

    The crop is centred, and the largest one that has the encoder's aspect ratio.

    Args:
        images: Pictures of one size, uint8 RGB `[..., height, width, 3]`.
        spec: Size and preparation of the encoder's pictures.

    Returns:
        float32 `[..., 3, spec.height, spec.width]`, normalised, on the device of `images`.

    Raises:
        ValueError: not uint8 RGB.
    """
    x = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    if x.dtype != torch.uint8 or x.ndim < 3 or x.shape[-1] != 3:
        raise ValueError(
            f"images: got {x.dtype} {tuple(x.shape)}, want uint8 [..., height, width, 3]"
        )
    lead, (height, width) = x.shape[:-3], x.shape[-3:-1]
    crop_h = min(height, round(width * spec.height / spec.width))
    crop_w = min(width, round(height * spec.width / spec.height))
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    x = x.reshape(-1, height, width, 3)[:, top : top + crop_h, left : left + crop_w]
    x = x.permute(0, 3, 1, 2).to(torch.float32)  # [n, 3, crop_h, crop_w]
    if (crop_h, crop_w) != (spec.height, spec.width):
        size = (spec.height, spec.width)
        x = F.interpolate(x, size, mode=spec.interpolation, antialias=spec.antialias)
        x = x.clamp(0, 255)  # bicubic overshoots at edges
    mean = torch.tensor(spec.mean, device=x.device).view(3, 1, 1) * 255
    std = torch.tensor(spec.std, device=x.device).view(3, 1, 1) * 255
    return ((x - mean) / std).reshape(*lead, 3, spec.height, spec.width)


@dataclass(frozen=True, eq=False)
class NormStats:
    """Mean and standard deviation of a vector, with which it is normalised.

    Attributes:
        mean: Mean per dimension, `[K]` float32.
        std: Standard deviation per dimension, `[K]` float32, above zero; 1 for dimensions that
            never vary.
    """

    mean: FloatArray
    std: FloatArray

    def __post_init__(self) -> None:
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)
        if mean.ndim != 1 or mean.shape != std.shape:
            raise UserError(f"NormStats: got mean {mean.shape} and std {std.shape}, want [K] both")
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise UserError(f"NormStats: got mean {mean} std {std}, want finite and std > 0")

    @classmethod
    def fit(cls, values: FloatArray) -> NormStats:
        """Computes the statistics of `values` `[n, K]`; the std of constant dimensions is 1."""
        std = values.std(0)
        return cls(values.mean(0), np.where(std > 1e-6 * (1 + np.abs(values.mean(0))), std, 1.0))

    def forward(self, values: Tensor) -> Tensor:
        """Normalises `[..., K]` in the robot's units, to float32."""
        mean = torch.as_tensor(self.mean, device=values.device)
        std = torch.as_tensor(self.std, device=values.device)
        return ((values - mean) / std).to(torch.float32)

    def inverse(self, values_n: Tensor) -> Tensor:
        """Maps normalised `[..., K]` back to the robot's units."""
        mean = torch.as_tensor(self.mean, device=values_n.device)
        std = torch.as_tensor(self.std, device=values_n.device)
        return values_n * std + mean
