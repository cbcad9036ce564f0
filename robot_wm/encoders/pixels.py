"""Raw pixels as tokens: what an encoder has to be better than."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from robot_wm.encoders.protocol import Fingerprint, check_frames, fingerprint, freeze
from robot_wm.preprocess import ImageSpec
from robot_wm.types import UserError

_PATCH = 16  # pixels


class PixelEncoder(nn.Module):
    """A small picture cut into patches, each a token of its own normalised pixels.

    Args:
        image_size: height and width of its square pictures, pixels.

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
        self._image = ImageSpec(image_size, image_size)
        self._fingerprint: Fingerprint | None = None
        # The file of an encoder must hold something.
        self.scale = nn.Parameter(torch.ones(()))
        freeze(self)

    @property
    def dim(self) -> int:
        return 3 * _PATCH**2

    @property
    def grid(self) -> tuple[int, int]:
        side = self.image_size // _PATCH
        return (side, side)

    @property
    def image(self) -> ImageSpec:
        return self._image

    @property
    def fingerprint(self) -> Fingerprint:
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self, self)
        return self._fingerprint

    def forward(self, frames: Tensor) -> Tensor:
        """`[B, T, 3, height, width]` to tokens `[B, T, P, D]`.

        Raises:
            UserError: pictures of another size, dtype or device.
        """
        check_frames(frames, self._image, self.scale)
        return self.scale * rearrange(
            frames,
            "b t c (r p) (s q) -> b t (r s) (c p q)",
            p=_PATCH,
            q=_PATCH,
        )
