"""Reads goal pictures, and tells which camera took them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hardware.wire import FrameSlot
from robot_wm.types import ImageArray, UserError

_FRESH_S = 5.0  # longest wait for a new picture
CAMERA_TAG = "camera"  # PNG text entry with the camera that took the picture


def read_picture(path: Path) -> ImageArray:
    """Reads a picture file as uint8 RGB.

    Args:
        path: The file.

    Returns:
        The picture `[height, width, 3]`, on white where it is transparent.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is not a picture.
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


def read_goal(goal: object, cameras: Sequence[str]) -> dict[str, ImageArray]:
    """Reads a goal as a picture of each of a model's cameras.

    Args:
        goal: A file, or a mapping from camera to file.
        cameras: The model's cameras.

    Returns:
        The picture of each camera.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: a file is not a picture, there are too many or too few, or another camera took
            one.
    """
    files = goal_files(goal)
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


def goal_files(goal: object) -> dict[str | None, Path]:
    """Returns the files of a goal.

    Args:
        goal: A file, or a mapping from camera to file.

    Returns:
        The file of each camera; None stands for a camera that is not named.

    Raises:
        UserError: the goal is neither a file nor such a mapping.
    """
    if isinstance(goal, str):
        return {None: Path(goal)}
    if isinstance(goal, Mapping) and goal:
        return {str(name): Path(str(file)) for name, file in goal.items()}
    raise UserError(f"goal: got {goal!r}, want a file, or goal.CAMERA=FILE for each camera")


def goal_name(goal: object) -> str:
    """Returns a goal's files, separated by commas."""
    return ", ".join(str(file) for file in goal_files(goal).values())


def taken_by(path: Path) -> str | None:
    """Returns the camera that took a picture of `robot-wm record-goal`; None if not recorded."""
    try:
        with Image.open(path) as picture:
            text = picture.info.get(CAMERA_TAG)
    except (UnidentifiedImageError, OSError, SyntaxError):
        return None  # `read_picture` then reports the error
    return text if isinstance(text, str) else None


def side_by_side(images: Mapping[str, ImageArray], cameras: Sequence[str]) -> ImageArray:
    """Joins pictures of several cameras, scaled to the height of the first."""
    first, *others = (images[name] for name in cameras)
    height = len(first)
    scaled = [first]
    for image in others:
        size = (round(image.shape[1] * height / len(image)), height)
        scaled.append(np.array(Image.fromarray(image).resize(size)))
    return np.concatenate(scaled, axis=1)


def fresh_picture(slot: FrameSlot) -> ImageArray:
    """Waits for the first picture that is taken from now on.

    Args:
        slot: Shared memory where the camera's pictures arrive.

    Returns:
        The picture `[height, width, 3]`, uint8 RGB.

    Raises:
        UserError: no picture arrives within five seconds.
    """
    begin_s = time.monotonic()
    while time.monotonic() < begin_s + _FRESH_S:
        frame = slot.read()
        if frame is not None and frame[1] > begin_s:
            return frame[0]
        time.sleep(0.005)
    raise UserError(f"the camera shows nothing new for {_FRESH_S:.0f} s")
