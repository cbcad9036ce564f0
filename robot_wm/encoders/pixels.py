"""Raw pixels as tokens: a baseline that every encoder has to beat."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from robot_wm.encoders.protocol import check_frames, fingerprint, freeze
from robot_wm.preprocess import ImageSpec
from robot_wm.types import UserError

_PATCH = 16  # pixels


class PixelEncoder(nn.Module):
    """A small picture cut into patches, each a token of its own normalised pixels.

    Args:
        image_size: Height and width of the square pictures, pixels.

    Raises:
        UserError: patches that do not divide the picture.
    """

    def __init__(self, *, image_size: int = 48) -> None:
        super().__init__()
        if image_size < 1 or image_size % _PATCH:
            raise UserError(
                f"image_size: got {image_size}, want a multiple of the patches of {_PATCH} pixels"
            )
        self.image_size = image_size
        self.image = ImageSpec(image_size, image_size)
        # Without any weight, the encoder's file would be empty.
        self.scale = nn.Parameter(torch.ones(()))
        freeze(self)
        self.fingerprint = fingerprint(self, self)

    @property
    def dim(self) -> int:
        """See `Encoder.dim`."""
        return 3 * _PATCH**2

    @property
    def grid(self) -> tuple[int, int]:
        """See `Encoder.grid`."""
        side = self.image_size // _PATCH
        return (side, side)

    def forward(self, frames: Tensor) -> Tensor:
        """See `Encoder.__call__`."""
        check_frames(frames, self.image, self.scale)
        return self.scale * rearrange(
            frames,
            "b t c (r p) (s q) -> b t (r s) (c p q)",
            p=_PATCH,
            q=_PATCH,
        )
