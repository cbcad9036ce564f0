"""Renders clips for pretraining with a simulator, so that no dataset is needed."""

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

from robot_wm.data import scale_frames
from robot_wm.data.files import allocate
from robot_wm.deployment.parts import Part
from robot_wm.deployment.robots import build_arm
from robot_wm.deployment.settings import LimitSettings
from robot_wm.deployment.simulation import PLAYERS, SCENE_VERSION
from robot_wm.files import replacing
from robot_wm.progress import Progress
from robot_wm.types import Count, FloatArray, ImageArray, Settings, checked
from robot_wm.workflows.workers import map_in_order

_FORMAT = 2  # part of the key: raise it when the same settings give other pictures
_PER_TASK = 50  # clips rendered in one go


class RenderedSettings(Settings, frozen=True, tag_field="kind", tag="rendered"):
    """Clips that a simulator renders for pretraining.

    Attributes:
        arm: A name of the table of arms, or `package.function`, which returns a RobotModel.
        limits: Limits of the arm, where they differ from its own: it plays in its workspace.
        play: What moves the arm (sim_envs.play.Play), or the caller's own.
        num_clips: Number of clips.
        num_workers: Number of processes that render.
    """

    arm: str = "so100"
    limits: LimitSettings = LimitSettings()
    play: Part = Part("play")
    num_clips: Count = 60000
    num_workers: Count = 2


@dataclass(frozen=True, eq=False)
class RenderedClips:
    """Clips of T frames.

    Attributes:
        frames: Pictures `[clips, T, height, width, 3]`, uint8 RGB, a read-only memory map.
        actions: Actions `[clips, T - 1, A]`, in the robot's units.
        key: Hash of what the clips depend on.
    """

    frames: ImageArray
    actions: FloatArray
    key: str


@checked
def render_clips(
    settings: RenderedSettings, num_frames: Count, size: tuple[int, int], cache: Path, *, seed: int
) -> RenderedClips:
    """Renders clips, or finds those that were rendered before.

    Clips that an interrupted call has rendered are kept. Clip i depends on the seed and i alone,
    not on the number of processes.

    Args:
        settings: What is rendered.
        num_frames: Frames per clip, T.
        size: Height and width of the pictures, pixels.
        cache: Directory where clips are kept; created if missing.
        seed: Seed of the clips.

    Returns:
        The clips.

    Raises:
        UserError: a number is out of range.
    """
    num_clips, play = settings.num_clips, settings.play.resolved(PLAYERS).plain()
    arm = {"arm": settings.arm, "limits": settings.limits.given()}
    what = {**arm, "play": play, "num_frames": num_frames, "size": size}
    what |= {"seed": seed, "num_clips": num_clips, "format": _FORMAT, "per_task": _PER_TASK}
    what |= {"scene": SCENE_VERSION}
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache / f"rendered-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, num_clips, _PER_TASK)
    render = functools.partial(_render, settings, seed, num_frames, size, str(folder))
    _make_frames(folder, (num_clips, num_frames, *size, 3))
    missing = [start for start in starts if not _part(folder, start).is_file()]
    if missing:
        with Progress("render", "clip") as progress:
            done = num_clips - _PER_TASK * len(missing)
            for num in map_in_order(render, missing, num_workers=settings.num_workers):
                done += num
                progress(max(0, done), num_clips)
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    actions = np.concatenate([np.load(_part(folder, start)) for start in starts])
    return RenderedClips(frames, actions, key)


def _make_frames(folder: Path, shape: tuple[int, ...]) -> None:
    """Creates the file for all frames, unless it exists; removes actions that lack their frames."""
    path = folder / "frames.npy"
    with FileLock(folder / "lock"):  # another process may render into the same folder
        if path.is_file() and path.stat().st_size > math.prod(shape):
            return
        for part in folder.glob("actions_*.npy"):
            part.unlink()
        with replacing(path) as scratch:
            allocate(scratch, np.uint8, shape)


def _part(folder: Path, start: int) -> Path:
    """Returns the file of the actions of the clips from `start` on, written after the frames."""
    return folder / f"actions_{start}.npy"


@functools.lru_cache(maxsize=1)
def _player(settings: RenderedSettings) -> Any:
    """Makes the player of this process, once."""
    return settings.play.make(PLAYERS, "data.play", robot=build_arm(settings.arm, settings.limits))


def _render(
    settings: RenderedSettings,
    seed: int,
    num_frames: int,
    size: tuple[int, int],
    folder: str,
    start: int,
) -> int:
    """Renders some clips into the file of all frames; returns how many."""
    player, actions = _player(settings), []
    frames = np.load(Path(folder) / "frames.npy", mmap_mode="r+")
    stop = min(start + _PER_TASK, settings.num_clips)
    for i in range(start, stop):
        pictures, changes = player.clip((seed, i), num_frames)
        frames[i] = pictures if pictures.shape[1:3] == size else scale_frames(pictures, size)
        actions.append(changes)
    frames.flush()
    with replacing(_part(Path(folder), start)) as scratch, open(scratch, "wb") as file:
        np.save(file, np.stack(actions).astype(np.float32))
    return stop - start
