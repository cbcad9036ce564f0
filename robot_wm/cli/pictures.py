"""Goal pictures: reading them, and which camera took them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from robot_wm.types import ImageArray

CAMERA_TAG = "camera"  # of a PNG: the camera that took it


def read_picture(path: Path) -> ImageArray:
    """A picture file as uint8 RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture.
    """
    if not path.is_file():
        raise FileNotFoundError(f"goal: no file {path}")
    try:
        with Image.open(path) as image:
            if image.mode not in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"):
                raise ValueError(f"goal: {path} has pixels of mode {image.mode}, want 8-bit colour")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
            white = Image.new("RGBA", upright.size, "white")  # under what is transparent
            return np.array(Image.alpha_composite(white, upright).convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(f"goal: {path} is not a picture that can be read") from error


def taken_by(path: Path) -> str | None:
    """The camera that a goal picture of `robot-wm record-goal` was taken with; None: not said."""
    with Image.open(path) as picture:
        text = picture.info.get(CAMERA_TAG)
    return text if isinstance(text, str) else None
