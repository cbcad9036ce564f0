"""Goal pictures: reading them, and which camera took them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from robot_wm.types import ImageArray, UserError

CAMERA_TAG = "camera"  # of a PNG: the camera that took it


def read_picture(path: Path) -> ImageArray:
    """A picture file as uint8 RGB.

    Raises:
        FileNotFoundError: no such file.
        UserError: not a picture.
    """
    if not path.is_file():
        raise FileNotFoundError(f"goal: no file {path}")
    try:
        with Image.open(path) as image:
            if image.mode not in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"):
                raise UserError(f"goal: {path} has pixels of mode {image.mode}, want 8-bit colour")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
            white = Image.new("RGBA", upright.size, "white")  # under what is transparent
            return np.array(Image.alpha_composite(white, upright).convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise UserError(f"goal: {path} is not a picture that can be read") from error


def read_goal(wanted: object, cameras: Sequence[str]) -> dict[str, ImageArray]:
    """A goal as it is given, as a picture of each camera that a model looks through.

    Args:
        wanted: a file, or camera -> file.
        cameras: of the model.

    Raises:
        FileNotFoundError: no such file.
        UserError: not a picture, a picture too many or too few, or one that another camera took.
    """
    files = goal_files(wanted)
    if None in files and len(cameras) == 1:
        files = {cameras[0]: files[None]}
    if set(files) != set(cameras):
        got = "one picture" if None in files else ", ".join(map(str, files))
        want = " ".join(f"goal.{name}=FILE" for name in cameras)
        raise UserError(f"goal: got {got}, the checkpoint sees through {len(cameras)}: {want}")
    for name, path in files.items():
        taken = taken_by(path) if path.is_file() else None
        if taken not in (None, name):
            raise UserError(
                f"goal: {path} was taken by camera {taken!r}, and is to be seen through {name!r}"
            )
    return {name: read_picture(files[name]) for name in cameras}


def goal_files(wanted: object) -> dict[str | None, Path]:
    """camera -> file of a goal as it is given; None where no camera is named.

    Raises:
        UserError: neither a file nor files by camera.
    """
    if isinstance(wanted, str):
        return {None: Path(wanted)}
    if isinstance(wanted, Mapping) and wanted:
        return {str(name): Path(str(file)) for name, file in wanted.items()}
    raise UserError(f"goal: got {wanted!r}, want a file, or goal.CAMERA=FILE for each camera")


def goal_name(wanted: object) -> str:
    """A goal as it is given, in words."""
    return ", ".join(str(file) for file in goal_files(wanted).values())


def taken_by(path: Path) -> str | None:
    """The camera that a goal picture of `robot-wm record-goal` was taken with; None: not said."""
    try:
        with Image.open(path) as picture:
            text = picture.info.get(CAMERA_TAG)
    except (UnidentifiedImageError, OSError, SyntaxError):
        return None  # reading it says more
    return text if isinstance(text, str) else None


def side_by_side(images: Mapping[str, ImageArray], cameras: Sequence[str]) -> ImageArray:
    """Pictures of several cameras as one, as high as the first."""
    first, *others = (images[name] for name in cameras)
    height = len(first)
    scaled = [first]
    for image in others:
        size = (round(image.shape[1] * height / len(image)), height)
        scaled.append(np.array(Image.fromarray(image).resize(size)))
    return np.concatenate(scaled, axis=1)
