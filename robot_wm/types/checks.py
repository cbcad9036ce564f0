"""Array types, and a check of images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
ImageArray = NDArray[np.uint8]


def are_numbers(values: object, size: int) -> bool:
    """Tells whether `values` are `size` numbers, and not text, None or ragged."""
    try:
        array = np.asarray(values)
    except ValueError:
        return False
    return array.shape == (size,) and array.dtype.kind in "fiu"


def check_image(image: ImageArray, what: str = "image") -> None:
    """Raises ValueError unless `image` is uint8 RGB `[height, width, 3]`."""
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
        raise ValueError(f"{what}: got {dtype} {shape}, want uint8 [height, width, 3]")
