"""`robot-wm record-goal`: goal pictures by the arm's own camera.

The arm is not opened: its torque stays as it is, so that it can be put where it is wanted by hand.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hardware.wire import FrameSlot
from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.config import robot_settings
from robot_wm.cli.console import ask, finish, say
from robot_wm.deployment.devices import open_device
from robot_wm.deployment.pictures import CAMERA_TAG
from robot_wm.deployment.robots import build_robot
from robot_wm.files import replacing
from robot_wm.monitors import MonitorError, Monitors, MonitorSettings, load_reference
from robot_wm.types import ImageArray, UserError

_FRESH_S = 5.0  # longest wait for a new picture


def run(config: DictConfig) -> None:
    """Takes them, one after the other."""
    if isinstance(config.num_pictures, bool) or config.num_pictures < 1:
        raise UserError(f"num_pictures: got {config.num_pictures}, want at least 1")
    if config.confirm and not sys.stdin.isatty():
        raise UserError("confirm: nobody at a terminal to ask; confirm=false goes without")
    paths = _paths(Path(config.out), int(config.num_pictures))
    robot = robot_settings(config)
    with open_device(robot, build_robot(robot), say) as device:
        names = sorted(device.frames)
        camera = str(config.camera or names[0])
        if camera not in names or (len(names) > 1 and not config.camera):
            raise UserError(f"camera: got {config.camera!r}, want one of {', '.join(names)}")
        judge = _judge(config.checkpoint, camera)
        device.wait_ready()
        taken = []
        while len(taken) < len(paths):
            path = paths[len(taken)]
            if config.confirm:
                ask(f"{path}: put everything as you want it, then press Enter. ")
            picture = fresh_picture(device.frames[camera])
            told = judge(picture)
            save_goal(path, picture, camera)
            say(f"{path}: {picture.shape[1]} x {picture.shape[0]}, camera {camera}{told}")
            if config.confirm and ask("Look at it. Keep it? [Y/n] ").strip().lower() == "n":
                path.unlink()
                continue
            taken.append(str(path))
    finish({"goals": taken, "camera": camera})


def _paths(out: Path, num: int) -> list[Path]:
    """The files, none of which is there yet.

    Raises:
        UserError: not a PNG, or it is there.
    """
    if out.suffix != ".png":
        raise UserError(f"out: got {out}, want a .png")
    paths = [out] if num == 1 else [out.with_stem(f"{out.stem}-{i + 1}") for i in range(num)]
    for path in paths:
        if path.exists():
            raise UserError(f"out: {path} is there already")
    out.parent.mkdir(parents=True, exist_ok=True)
    return paths


def _judge(checkpoint: str | None, camera: str) -> Callable[[ImageArray], str]:
    """Says how familiar a picture is to a checkpoint.

    Raises:
        UserError: it sees through another camera.
    """
    monitors = Monitors(None, MonitorSettings(), step_energy=None)
    if checkpoint is None:
        return lambda picture: _problem(monitors, camera, picture)
    directory = find_checkpoint(checkpoint)
    model, _ = load_checkpoint(directory)
    normal = load_reference(directory, model.info)
    if camera not in model.info.cameras:
        sees = ", ".join(model.info.cameras)
        raise UserError(f"camera: got {camera}, the checkpoint sees through {sees}")
    if len(model.info.cameras) > 1:  # how familiar they are is told of all of them together
        return lambda picture: _problem(monitors, camera, picture)

    def judge(picture: ImageArray) -> str:
        latent = model.embed({camera: picture})  # refuses another aspect
        problem = _problem(monitors, camera, picture)
        if problem or normal is None:
            return problem
        strange = normal.novelty_of(latent, [picture])
        return f"; {strange:.1f} times as far from the training pictures as any held-out one"

    return judge


def _problem(monitors: Monitors, camera: str, picture: ImageArray) -> str:
    try:
        monitors.picture(camera, picture)
    except MonitorError as error:
        return f"; {error}"
    return ""


def fresh_picture(slot: FrameSlot) -> ImageArray:
    """The first picture of what is there from now on.

    Raises:
        UserError: none comes.
    """
    begin_s = time.monotonic()
    while time.monotonic() < begin_s + _FRESH_S:
        frame = slot.read()
        if frame is not None and frame[1] > begin_s:
            return frame[0]
        time.sleep(0.005)
    raise UserError(f"the camera shows nothing new for {_FRESH_S:.0f} s")


def save_goal(path: Path, picture: ImageArray, camera: str) -> None:
    """Writes a picture that knows which camera took it."""
    info = PngInfo()
    info.add_text(CAMERA_TAG, camera)
    with replacing(path) as scratch:
        Image.fromarray(picture).save(scratch, format="png", pnginfo=info)
