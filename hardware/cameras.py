"""LeRobot cameras in a process of their own, each picture in shared memory the moment it comes.

A driver that hangs takes nothing with it: its pictures grow old, and the controller holds the arm.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from hardware.arm_server import lower_niceness
from hardware.lerobot_arm import check_installed, decode_config
from hardware.messages import (
    CamerasReady,
    Refused,
    Trouble,
)
from hardware.reasons import clean
from hardware.tasks import (
    CamerasTask,
)
from hardware.wire import FrameSlot, Wire
from robot_wm.types import UserError

_WAIT_MS = 500.0
_AGAIN_S = 0.1
_REOPEN = 5


def show(task: CamerasTask) -> int:
    """Shows what cameras see until whoever started it is gone; the exit code."""
    for name in ("SIGINT", "SIGHUP"):  # the human's ways to stop: the controller's to follow
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    lower_niceness()  # a picture that waits for the processor would be stamped too late
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
        words = (name, camera, slot, task.latency_s, end, wire)
        threading.Thread(target=_watch, args=words, daemon=True).start()
    wire.send(CamerasReady())
    while not wire.closed:
        wire.wait(None)
        wire.receive()
    end.set()
    return 0


def _watch(
    name: str, camera: Any, slot: FrameSlot, latency_s: float, end: threading.Event, wire: Wire
) -> None:
    failed = 0
    while not end.is_set():
        try:
            picture = camera.async_read(timeout_ms=_WAIT_MS)
            slot.write(np.ascontiguousarray(picture), _taken_s(camera) - latency_s)
            failed = 0
        except Exception as error:  # noqa: BLE001 - it may come back; until then pictures grow old
            failed += 1
            if failed == 1:
                wire.send(Trouble(text=clean(f"camera {name}: {error}", 1000)))
            if failed % _REOPEN == 0:  # a driver's own thread does not come back by itself
                with contextlib.suppress(Exception):
                    camera.disconnect()
                with contextlib.suppress(Exception):
                    camera.connect()
            time.sleep(_AGAIN_S)


def _taken_s(camera: Any) -> float:
    """When the driver got its newest picture, on the clock of all stamps."""
    now_s = time.monotonic()
    stamp_s = getattr(camera, "latest_timestamp", None)  # perf_counter: the same clock on Linux
    return stamp_s if isinstance(stamp_s, float) and now_s - 10 < stamp_s <= now_s else now_s


def open_camera(name: str, settings: Mapping[str, Any]) -> Any:
    """A LeRobot camera by its type and config, connected.

    Raises:
        UserError: LeRobot is not installed, no such type, a setting that it does not take, or it
            does not open.
    """
    check_installed()
    from lerobot.cameras.configs import CameraConfig
    from lerobot.cameras.utils import make_cameras_from_configs

    for module in ("opencv", "realsense", "zmq"):
        with contextlib.suppress(ImportError):  # wants a driver that is not installed
            importlib.import_module(f"lerobot.cameras.{module}")
    own = dict(settings)
    config = decode_config(CameraConfig, own.pop("type", None), own, f"robot.cameras.{name}")
    try:
        camera = make_cameras_from_configs({name: config})[name]
        camera.connect()
    except Exception as error:
        raise UserError(f"robot.cameras.{name}: {' '.join(str(error).split())[:400]}") from error
    return camera
