"""Clips for pretraining, rendered by a simulator: no dataset on disk is needed."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from robot_wm.cli.build import instantiate
from robot_wm.cli.console import Progress
from robot_wm.cli.workers import map_in_order
from robot_wm.data import scale_frames
from robot_wm.data.files import allocate
from robot_wm.deployment.robots import find_arm
from robot_wm.files import replacing
from robot_wm.types import FloatArray, ImageArray, check_counts

_FORMAT = 1  # part of the key: raise it when the same settings come to mean other pictures
_PER_TASK = 50  # clips rendered in one go


@dataclass(frozen=True, eq=False)
class RenderedClips:
    """Clips of T frames.

    Attributes:
        frames: uint8 RGB `[clips, T, height, width, 3]`, a read-only memory map.
        actions: `[clips, T - 1, A]`, robot's units.
        key: hash of what they depend on.
    """

    frames: ImageArray
    actions: FloatArray
    key: str


def render_clips(
    config: DictConfig, num_frames: int, size: tuple[int, int], cache: Path
) -> RenderedClips:
    """Clips as a `data=rendered` group says, or those that were rendered before.

    What an interrupted call rendered is kept. Clip i depends on the seed and i alone, not on how
    many processes render.

    Args:
        config: `arm`, `play`, `num_clips`, `num_workers`, `seed`.
        num_frames: T.
        size: height and width of the pictures, pixels.
        cache: where they are kept; made if missing.

    Raises:
        UserError: a number out of range.
    """
    check_counts(num_clips=config.num_clips, num_frames=num_frames)
    who = {"arm": config.arm, "play": config.play}
    play = OmegaConf.to_yaml(OmegaConf.create(who), resolve=True)
    what = {"play": play, "num_frames": num_frames, "size": size, "seed": config.seed}
    what |= {"num_clips": config.num_clips, "format": _FORMAT, "per_task": _PER_TASK}
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache / f"rendered-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, config.num_clips, _PER_TASK)
    render = functools.partial(
        _render, play, config.seed, config.num_clips, num_frames, size, str(folder)
    )
    _make_frames(folder, (config.num_clips, num_frames, *size, 3))
    missing = [start for start in starts if not _part(folder, start).is_file()]
    if missing:
        with Progress("render", "clip") as progress:
            done = config.num_clips - _PER_TASK * len(missing)
            for num in map_in_order(render, missing, num_workers=config.num_workers):
                done += num
                progress(max(0, done), config.num_clips)
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    actions = np.concatenate([np.load(_part(folder, start)) for start in starts])
    return RenderedClips(frames, actions, key)


def _make_frames(folder: Path, shape: tuple[int, ...]) -> None:
    """A place for all frames, unless it is there; without it no part counts."""
    path = folder / "frames.npy"
    with FileLock(folder / "lock"):  # a second run renders into the same place
        if path.is_file() and path.stat().st_size > math.prod(shape):
            return
        for part in folder.glob("actions_*.npy"):
            part.unlink()
        with replacing(path) as scratch:
            allocate(scratch, np.uint8, shape)


def _part(folder: Path, start: int) -> Path:
    """The actions of the clips from `start` on; written after their frames."""
    return folder / f"actions_{start}.npy"


@functools.cache
def _player(play: str) -> Any:
    """One simulation per process, from its configuration as YAML."""
    config = OmegaConf.create(play)
    assert isinstance(config, DictConfig)
    return instantiate(config.play, robot=find_arm(str(config.arm)))


def _render(
    play: str,
    seed: int,
    num_clips: int,
    num_frames: int,
    size: tuple[int, int],
    folder: str,
    start: int,
) -> int:
    """Renders some clips into their place; returns how many."""
    player, actions = _player(play), []
    frames = np.load(Path(folder) / "frames.npy", mmap_mode="r+")
    stop = min(start + _PER_TASK, num_clips)
    for i in range(start, stop):
        pictures, changes = player.clip((seed, i), num_frames)
        frames[i] = pictures if pictures.shape[1:3] == size else scale_frames(pictures, size)
        actions.append(changes)
    frames.flush()
    with replacing(_part(Path(folder), start)) as scratch, open(scratch, "wb") as file:
        np.save(file, np.stack(actions).astype(np.float32))
    return stop - start
