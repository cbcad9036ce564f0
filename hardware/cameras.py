"""Reads LeRobot cameras in a process of their own and puts each new picture into shared memory.

A driver that hangs blocks nothing else: its pictures grow old, and the arm server holds the arm.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from hardware.lerobot_bus import check_installed, decode_config
from hardware.messages import (
    CamerasReady,
    Refused,
    Trouble,
)
from hardware.priority import lower_niceness
from hardware.reasons import clean
from hardware.spawn import ignore_interrupts
from hardware.tasks import (
    CamerasTask,
)
from hardware.wire import FrameSlot, Wire
from robot_wm.types import UserError

_WAIT_MS = 500.0  # for a picture
_RETRY_S = 0.1
_REOPEN = 5  # failed reads in a row after which a camera is opened again


def run_cameras(task: CamerasTask) -> int:
    """Copies camera pictures to shared memory until the parent process is gone.

    Args:
        task: Cameras, shared memory and wire.

    Returns:
        The exit code: 2 if a camera does not open.
    """
    ignore_interrupts()
    lower_niceness()  # a picture that waits for a core would be stamped too late
    wire = Wire.at(task.wire)
    cameras: dict[str, Any] = {}
    try:
        for name, settings in task.cameras.items():
            cameras[name] = open_camera(name, settings)
    except ValueError as error:
        wire.send(Refused(text=clean(error, 4000)))
        return 2
    end = threading.Event()
    for name, camera in cameras.items():
        slot = FrameSlot(*task.frames[name])
        arguments = (name, camera, slot, task.latency_s, end, wire)
        threading.Thread(target=_copy_pictures, args=arguments, daemon=True).start()
    wire.send(CamerasReady())
    while not wire.closed:
        wire.wait(None)
        wire.receive()
    end.set()
    return 0


def _copy_pictures(
    name: str, camera: Any, slot: FrameSlot, latency_s: float, end: threading.Event, wire: Wire
) -> None:
    num_failed = 0
    while not end.is_set():
        try:
            picture = camera.async_read(timeout_ms=_WAIT_MS)
            slot.write(np.ascontiguousarray(picture), _taken_s(camera) - latency_s)
            num_failed = 0
        except Exception as error:  # noqa: BLE001 - it may come back; until then pictures grow old
            num_failed += 1
            if num_failed == 1:
                wire.send(Trouble(text=clean(f"camera {name}: {error}", 1000)))
            if num_failed % _REOPEN == 0:  # a driver's own thread does not restart by itself
                with contextlib.suppress(Exception):
                    camera.disconnect()
                with contextlib.suppress(Exception):
                    camera.connect()
            time.sleep(_RETRY_S)


def _taken_s(camera: Any) -> float:
    """Returns when the driver got its newest picture, time.monotonic(); now, if it does not say."""
    now_s = time.monotonic()
    stamp_s = getattr(camera, "latest_timestamp", None)  # perf_counter: the same clock on Linux
    return stamp_s if isinstance(stamp_s, float) and now_s - 10 < stamp_s <= now_s else now_s


def open_camera(name: str, settings: Mapping[str, Any]) -> Any:
    """Opens a LeRobot camera.

    Args:
        name: Name of the camera, for error messages.
        settings: Type and config of the camera, as LeRobot decodes them.

    Returns:
        The connected camera.

    Raises:
        UserError: LeRobot is not installed, there is no such type, a setting is wrong, or the
            camera does not open.
    """
    check_installed()
    from lerobot.cameras.configs import CameraConfig
    from lerobot.cameras.utils import make_cameras_from_configs

    for module in ("opencv", "realsense", "zmq"):
        with contextlib.suppress(ImportError):  # needs a driver that is not installed
            importlib.import_module(f"lerobot.cameras.{module}")
    fields = dict(settings)
    kind = fields.pop("type", None)
    config = decode_config(CameraConfig, kind, fields, f"robot.cameras.{name}")
    try:
        camera = make_cameras_from_configs({name: config})[name]
        camera.connect()
    except Exception as error:
        raise UserError(f"robot.cameras.{name}: {' '.join(str(error).split())[:400]}") from error
    return camera
