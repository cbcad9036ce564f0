"""Takes goal pictures with the arm's own camera.

The arm's port is not opened: its torque stays as it is, so that the arm can be moved by hand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.deployment.devices import open_device
from robot_wm.deployment.pictures import CAMERA_TAG, fresh_picture
from robot_wm.deployment.robots import build_robot
from robot_wm.deployment.settings import RobotSettings, SimulatedRobot
from robot_wm.files import replacing
from robot_wm.monitors import MonitorError, Monitors, MonitorSettings, load_reference
from robot_wm.types import Count, ImageArray, Settings, UserError

log = logging.getLogger(__name__)


class RecordGoalSettings(Settings, frozen=True):
    """Which camera takes the pictures, and where they are written.

    Attributes:
        robot: The robot whose camera is used.
        out: File of the picture, a .png; of several pictures: NAME-1.png, NAME-2.png, ...
        num_pictures: Number of pictures.
        camera: Name of the robot's camera; null: its only one.
        checkpoint: A checkpoint whose novelty score of each picture is logged; null: none is
            logged.
        confirm: Waits for Enter before each picture, and asks whether to keep it.
    """

    robot: RobotSettings = SimulatedRobot()
    out: str = "goal.png"
    num_pictures: Count = 1
    camera: str | None = None
    checkpoint: str | None = None
    confirm: bool = True


def record_goals(settings: RecordGoalSettings, ask: Callable[[str], str]) -> tuple[list[Path], str]:
    """Takes goal pictures, one after the other.

    Args:
        settings: Which camera takes them, and where they are written.
        ask: Asks the operator if `confirm` is set; returns the answer.

    Returns:
        The files of the pictures, and the camera that took them.

    Raises:
        UserError: a file exists already, there is no such camera, or it delivers no new picture.
    """
    paths = _paths(Path(settings.out), settings.num_pictures)
    with open_device(settings.robot, build_robot(settings.robot), log.info) as device:
        camera = _camera(settings, sorted(device.frames))
        judge = _judge(settings.checkpoint, camera)
        device.wait_ready()
        taken: list[Path] = []
        while len(taken) < len(paths):
            path = paths[len(taken)]
            if settings.confirm:
                ask(f"{path}: put everything as you want it, then press Enter. ")
            picture = fresh_picture(device.frames[camera])
            verdict = judge(picture)
            save_goal(path, picture, camera)
            log.info(f"{path}: {picture.shape[1]} x {picture.shape[0]}, camera {camera}{verdict}")
            if settings.confirm and ask("Look at it. Keep it? [Y/n] ").strip().lower() == "n":
                path.unlink()
                continue
            taken.append(path)
    return taken, camera


def _camera(settings: RecordGoalSettings, names: list[str]) -> str:
    """Chooses the camera.

    Args:
        settings: The settings; `camera` may name one.
        names: Names of the robot's cameras.

    Returns:
        The name.

    Raises:
        UserError: there is no camera of that name, or there are several and none is named.
    """
    camera = settings.camera or names[0]
    if camera not in names or (len(names) > 1 and not settings.camera):
        raise UserError(f"camera: got {settings.camera!r}, want one of {', '.join(names)}")
    return camera


def _paths(out: Path, num: int) -> list[Path]:
    """Lists the files to write, none of which exists yet.

    Args:
        out: As in the settings.
        num: Number of pictures.

    Returns:
        The files.

    Raises:
        UserError: it is not a PNG file, or one exists already.
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
    """Makes a function that describes what is wrong with a picture, or how novel it is.

    Args:
        checkpoint: The checkpoint that the novelty is of; None: only problems are described.
        camera: The camera that takes the pictures.

    Returns:
        The function.

    Raises:
        UserError: the checkpoint uses another camera.
    """
    monitors = Monitors(None, MonitorSettings(), step_energy=None)
    if checkpoint is None:
        return lambda picture: _problem(monitors, camera, picture)
    directory = find_checkpoint(checkpoint)
    model, _ = load_checkpoint(directory)
    reference = load_reference(directory, model.info)
    if camera not in model.info.cameras:
        sees = ", ".join(model.info.cameras)
        raise UserError(f"camera: got {camera}, the checkpoint sees through {sees}")
    if len(model.info.cameras) > 1:  # novelty is of the pictures of all cameras together
        return lambda picture: _problem(monitors, camera, picture)

    def judge(picture: ImageArray) -> str:
        latent = model.embed({camera: picture})  # refuses another aspect ratio
        problem = _problem(monitors, camera, picture)
        if problem or reference is None:
            return problem
        novelty = reference.novelty_of(latent, [picture])
        return f"; {novelty:.1f} times as far from the training pictures as any held-out one"

    return judge


def _problem(monitors: Monitors, camera: str, picture: ImageArray) -> str:
    try:
        monitors.picture(camera, picture)
    except MonitorError as error:
        return f"; {error}"
    return ""


def save_goal(path: Path, picture: ImageArray, camera: str) -> None:
    """Writes a picture as a PNG file that records the camera."""
    info = PngInfo()
    info.add_text(CAMERA_TAG, camera)
    with replacing(path) as scratch:
        Image.fromarray(picture).save(scratch, format="png", pnginfo=info)
