"""ViTEncoder: any frozen ViT as an Encoder of single frames, with optional pooling of tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from robot_wm.encoders.protocol import Fingerprint, check_frames, fingerprint, freeze
from robot_wm.preprocess import ImageSpec
from robot_wm.types import Count, UserError, check_fields


@dataclass(frozen=True)
class ViTConfig:
    """Architecture and readout of a ViT: with the weights, all that is needed to rebuild it.

    Attributes:
        name: Name in the catalog.
        image_size: Height and width of the square pictures, pixels; a multiple of the patch size.
        pool: Side of the squares of tokens that are averaged into one.
        num_blocks: Number of blocks to keep, from the first; None for all.
        shape: Sizes of an architecture that is not in the catalog.
        antialias: Whether pictures are resized with antialiasing (see ImageSpec).
    """

    name: str
    image_size: Count
    pool: Count = 1
    num_blocks: Count | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    antialias: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


class ViTEncoder(nn.Module):
    """A frozen backbone as an Encoder.

    Args:
        backbone: Maps frames `[n, 3, size, size]` to patch tokens `[n, side * side, D]`.
        config: The backbone's architecture and readout.
        dim: Token dimension, D.
        side: Rows and columns of the patch map.
        image: Size and preparation of the pictures.
        hub: The public source of the weights, `{"repo", "revision"}`; None if they are not public.

    Raises:
        UserError: a pool that does not divide the patch map.
    """

    def __init__(
        self,
        backbone: nn.Module,
        config: ViTConfig,
        *,
        dim: int,
        side: int,
        image: ImageSpec,
        hub: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        if side % config.pool:
            divisors = [n for n in range(1, side + 1) if side % n == 0]
            raise UserError(
                f"encoder {config.name}: got pool {config.pool}, want one of {divisors}, which "
                f"divide its {side} x {side} tokens"
            )
        self.backbone = backbone
        self.config = config
        self.hub = hub
        self._dim, self._side, self._image = dim, side, image
        self._fingerprint: Fingerprint | None = None
        freeze(self)

    @property
    def dim(self) -> int:
        """See `Encoder.dim`."""
        return self._dim

    @property
    def grid(self) -> tuple[int, int]:
        """See `Encoder.grid`."""
        side = self._side // self.config.pool
        return side, side

    @property
    def image(self) -> ImageSpec:
        """See `Encoder.image`."""
        return self._image

    @property
    def fingerprint(self) -> Fingerprint:
        """See `Encoder.fingerprint`."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.backbone, self, pool=self.config.pool)
        return self._fingerprint

    def forward(self, frames: Tensor) -> Tensor:
        """See `Encoder.__call__`."""
        check_frames(frames, self._image, next(self.backbone.parameters()))
        tokens = self.backbone(frames.flatten(0, 1))  # [B T, side side, D]
        if self.config.pool > 1:
            maps = rearrange(tokens, "n (r c) d -> n d r c", r=self._side)
            tokens = rearrange(F.avg_pool2d(maps, self.config.pool), "n d r c -> n (r c) d")
        return rearrange(tokens, "(b t) p d -> b t p d", b=len(frames))
