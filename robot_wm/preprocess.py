"""THE image, proprio and action pipeline, and its inverse.

Training and deployment go through these same functions: data and models are the only callers, so a
picture cannot be prepared in two ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robot_wm.types import FloatArray, ImageArray, UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSpec:
    """What pictures an encoder wants.

    Attributes:
        height: pixels.
        width: pixels.
        mean: per RGB channel, of values in [0, 1]. ImageNet's, as V-JEPA 2 uses: the image
            statistics that LeRobot stores are wrong (lerobot issue 3682).
        std: per RGB channel, of values in [0, 1].
        interpolation: how pictures are resized.
        antialias: what is smaller than a new pixel is averaged, not passed over.
    """

    height: int
    width: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if self.height < 1 or self.width < 1:
            raise UserError(f"ImageSpec: got {self.height}x{self.width}, want at least 1x1")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise UserError(
                f"interpolation: got {self.interpolation!r}, want 'bilinear' or 'bicubic'"
            )


def prepare_images(images: ImageArray | Tensor, spec: ImageSpec) -> Tensor:
    """Camera pictures to what an encoder takes: crop, resize, normalise.

    The largest centred crop of the wanted aspect is resized.

    Args:
        images: uint8 RGB `[..., height, width, 3]`, one size for all.
        spec: the encoder's wish.

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
    """Mean and standard deviation of one vector quantity, and the two ways through them.

    Attributes:
        mean: `[K]` float32.
        std: `[K]` float32, above zero: dimensions that never vary are given 1.
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
        """Statistics of `values` `[n, K]`; a dimension that does not vary keeps std 1."""
        std = values.std(0)
        return cls(values.mean(0), np.where(std > 1e-6 * (1 + np.abs(values.mean(0))), std, 1.0))

    def forward(self, values: Tensor) -> Tensor:
        """`[..., K]` in the robot's units to normalised float32."""
        mean = torch.as_tensor(self.mean, device=values.device)
        std = torch.as_tensor(self.std, device=values.device)
        return ((values - mean) / std).to(torch.float32)

    def inverse(self, values_n: Tensor) -> Tensor:
        """`[..., K]` normalised back to the robot's units."""
        mean = torch.as_tensor(self.mean, device=values_n.device)
        std = torch.as_tensor(self.std, device=values_n.device)
        return values_n * std + mean
