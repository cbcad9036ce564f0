"""A frozen ViT of anyone's as an Encoder: one frame at a time, patch tokens, pooled if asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from robot_wm.encoders.protocol import Fingerprint, check_frames, fingerprint, freeze
from robot_wm.preprocess import ImageSpec
from robot_wm.types import UserError, check_counts


@dataclass(frozen=True)
class ViTConfig:
    """Which ViT, and how it is read: with the weights, all that rebuilds it.

    Attributes:
        name: in the catalog.
        image_size: height and width of its square pictures, pixels; a multiple of its patch size.
        pool: side of the squares of tokens that are averaged into one.
        num_blocks: the first so many blocks alone; None for all.
        shape: sizes of an architecture that the catalog does not know.
        antialias: how its pictures are resized (ImageSpec).
    """

    name: str
    image_size: int
    pool: int = 1
    num_blocks: int | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    antialias: bool = True

    def __post_init__(self) -> None:
        check_counts(
            image_size=self.image_size,
            pool=self.pool,
            num_blocks=1 if self.num_blocks is None else self.num_blocks,
        )


class ViTEncoder(nn.Module):
    """A frozen backbone behind the Encoder protocol.

    Args:
        backbone: frames `[n, 3, size, size]` to patch tokens `[n, side * side, D]`.
        config: what it is.
        dim: D.
        side: rows and columns of its patch map.
        image: the pictures it wants.
        hub: where its weights can be had again, `{"repo", "revision"}`; None if only here.

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
        return self._dim

    @property
    def grid(self) -> tuple[int, int]:
        side = self._side // self.config.pool
        return side, side

    @property
    def image(self) -> ImageSpec:
        return self._image

    @property
    def fingerprint(self) -> Fingerprint:
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.backbone, self, pool=self.config.pool)
        return self._fingerprint

    def forward(self, frames: Tensor) -> Tensor:
        """`[B, T, 3, height, width]` to tokens `[B, T, P, D]`.

        Raises:
            UserError: pictures of another size, dtype or device.
        """
        check_frames(frames, self._image, next(self.backbone.parameters()))
        tokens = self.backbone(frames.flatten(0, 1))  # [B T, side side, D]
        if self.config.pool > 1:
            maps = rearrange(tokens, "n (r c) d -> n d r c", r=self._side)
            tokens = rearrange(F.avg_pool2d(maps, self.config.pool), "n d r c -> n (r c) d")
        return rearrange(tokens, "(b t) p d -> b t p d", b=len(frames))
