"""Finds the columns of a dataset that are the camera and the state, by name or by convention."""

from __future__ import annotations

from collections.abc import Sequence

from robot_wm.data.dataset import Dataset
from robot_wm.types import UserError

# The world model predicts what a camera sees, so a fixed camera is preferred to one on the arm,
# and earlier words to later ones.
_FIXED_VIEWS = ("front", "top", "up", "overhead", "exterior", "external", "third", "side", "base")
_MOVING_VIEWS = ("wrist", "gripper", "hand", "ego")
_STATE_PARTS = ("cartesian_position", "joint_position", "joint_positions")
_GRIPPER_PARTS = ("gripper_position",)


def find_cameras(dataset: Dataset, name: str | None) -> tuple[str, ...]:
    """Finds the cameras to use.

    Args:
        dataset: The dataset.
        name: See `DataSpec.camera`.

    Returns:
        The cameras' keys, each once.

    Raises:
        UserError: no such camera, several of a name, one twice, or none at all; lists the
            dataset's cameras.
    """
    keys = dataset.camera_keys
    if not keys:
        raise UserError(f"{dataset.source}: no camera; it has {sorted(dataset.features)}")
    if name is not None:
        cameras = tuple(_find_key(dataset, n.strip(), keys, "camera") for n in name.split("+"))
        if len(set(cameras)) != len(cameras):
            raise UserError(f"{dataset.source}: camera: got {name!r}, want each once")
        return cameras

    def rank(key: str) -> tuple[bool, int]:
        short = key.lower().removeprefix("observation.")
        views = [i for i, view in enumerate(_FIXED_VIEWS) if view in short]
        return any(view in short for view in _MOVING_VIEWS), min(views, default=len(_FIXED_VIEWS))

    return (min(keys, key=rank),)  # the first of the best


def find_state(dataset: Dataset, name: str | None) -> tuple[str, ...]:
    """Finds the columns that make up the state.

    Args:
        dataset: The dataset.
        name: See `DataSpec.state`.

    Returns:
        The columns' keys; their values are concatenated in this order.

    Raises:
        UserError: no such column, several, or none that looks like a state; lists the dataset's
            columns.
    """
    keys = tuple(k for k, f in dataset.features.items() if _is_vector(k, f.dtype, f.shape))
    if name is not None:
        return tuple(_find_key(dataset, part.strip(), keys, "state") for part in name.split("+"))
    if "observation.state" in keys:
        return ("observation.state",)
    parts = [k for k in keys if k.startswith("observation.state.")]
    pose = [f"observation.state.{p}" for p in _STATE_PARTS if f"observation.state.{p}" in parts]
    grip = [f"observation.state.{p}" for p in _GRIPPER_PARTS if f"observation.state.{p}" in parts]
    if pose:
        return (pose[0], *grip)
    if len(parts) == 1:
        return tuple(parts)
    raise UserError(f"{dataset.source}: which column is the state? got none, want of {list(keys)}")


def _find_key(dataset: Dataset, name: str, keys: Sequence[str], what: str) -> str:
    matches = [k for k in keys if k == name] or [k for k in keys if k.endswith(f".{name}")]
    if len(matches) != 1:
        raise UserError(f"{dataset.source}: {what}: got {name!r}, want one of {list(keys)}")
    return matches[0]


def _is_vector(key: str, dtype: str, shape: tuple[int, ...]) -> bool:
    return dtype.startswith("float") and len(shape) == 1 and key != "timestamp"


def dim_names(dataset: Dataset, key: str) -> tuple[str, ...]:
    """Returns one name per number of a vector column, generated if the dataset gives none."""
    feature = dataset.features[key]
    short = key.rsplit(".", 1)[-1]
    size = feature.shape[0]
    return feature.names or tuple(f"{short}.{i}" if size > 1 else short for i in range(size))
