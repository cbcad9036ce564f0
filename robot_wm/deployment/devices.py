"""Devices that `robot-wm deploy` and `record-goal` drive: the processes behind arm and cameras.

A device starts the processes it needs, says where its cameras' pictures are, and how the arm server
opens its arm.
"""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from hardware.lerobot_bus import check_installed
from hardware.messages import (
    Refused,
    Trouble,
)
from hardware.simulated import JointTargets, Measured
from hardware.spawn import Shared, spawn
from hardware.tasks import (
    ArmTask,
    CamerasTask,
    LeRobotArmTask,
    Place,
    SimulatedArmTask,
    SimulatorTask,
)
from hardware.wire import FrameSlot, Wire
from robot_wm.deployment.settings import LeRobotRobot, RobotSettings, SimulatedRobot
from robot_wm.kinematics import Limits, RobotModel
from robot_wm.types import UserError
from sim_envs.scene import stand_of, wrist_of

_FIRST_PICTURE_S = 60.0
_MAX_PIXELS = 4096


class Device:
    """An arm and its cameras; enter it to start its processes.

    Attributes:
        frames: Shared memory of each camera's newest picture, by camera.
        children: The device's processes by name, in the order in which they are ended.

    Args:
        sizes: Height and width of the pictures, pixels, by camera.
        say: Function that shows a line to the operator.
    """

    frames: dict[str, FrameSlot]
    children: dict[str, subprocess.Popen[bytes]]

    def __init__(self, sizes: Mapping[str, tuple[int, int]], say: Callable[[str], None]) -> None:
        self._say = say
        self.frames = {name: FrameSlot(*size) for name, size in sizes.items()}
        self.children = {}
        self._wire, self._theirs = Wire.pair()
        self._ended: set[str] = set()

    def places(self) -> dict[str, Place]:
        """Returns height, width and descriptor of each camera's shared memory, by camera."""
        return {
            name: (*slot.shape[:2], slot.fileno())  # type: ignore[misc]
            for name, slot in self.frames.items()
        }

    def arm(self, limits: Limits) -> ArmTask:
        """Returns how the arm server opens the arm."""
        raise NotImplementedError

    def shared(self) -> Sequence[Shared]:
        """Returns the shared memory that the arm server uses together with the device."""
        return list(self.frames.values())

    def _start(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Device:
        try:
            self._start()
        except BaseException:
            self._theirs.close()
            self.__exit__(None, None, None)
            raise
        self._theirs.close()  # else the end of the processes would not show
        return self

    def wait_ready(self) -> None:
        """Waits until every camera has shown a picture.

        Raises:
            UserError: a camera does not open or shows nothing, or a process has ended.
        """
        until_s = time.monotonic() + _FIRST_PICTURE_S
        while True:
            self.listen()
            blind = [n for n, slot in self.frames.items() if not math.isfinite(slot.stamp_s())]
            if not blind:
                return
            for name, child in self.children.items():
                if child.poll() is not None:
                    self.listen()
                    raise UserError(f"the {name} ended with exit code {child.returncode}")
            if time.monotonic() > until_s:
                raise UserError(f"camera {', '.join(blind)} shows nothing")
            self._wire.wait(0.05)

    def listen(self) -> None:
        """Shows what the device's processes report.

        Raises:
            UserError: one of them cannot do its work.
        """
        for message in self._wire.receive():
            if isinstance(message, Refused):
                raise UserError(message.text)
            if isinstance(message, Trouble):
                self._say(f"  {message.text}")

    def tell(self) -> list[str]:
        """Returns what the device's processes have reported since, and which of them have ended."""
        lines = [message.text for message in self._wire.receive() if isinstance(message, Trouble)]
        for name, child in self.children.items():
            if child.poll() is not None and name not in self._ended:
                self._ended.add(name)
                lines.append(f"the process of the {name} ended with exit code {child.returncode}")
        return lines

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._wire.close()
        for child in self.children.values():
            end(child)
        for slot in self.frames.values():
            slot.close()


class Simulated(Device):
    """An arm in MuJoCo, in real time, in a process that whoever drives the arm cannot stop."""

    def __init__(
        self, settings: SimulatedRobot, robot: RobotModel, say: Callable[[str], None]
    ) -> None:
        size = settings.image_size
        cameras = [stand_of(robot)[1], *([wrist_of(robot)] if settings.wrist_camera else [])]
        super().__init__({camera.name: (size, size) for camera in cameras}, say)
        self._settings, self._robot, num_joints = settings, robot, len(robot.joints)
        self._targets, self._measured = JointTargets(num_joints), Measured(num_joints)

    def arm(self, limits: Limits) -> ArmTask:
        """See `Device.arm`."""
        return SimulatedArmTask(
            names=self._robot.joints,
            low=limits.low,
            high=limits.high,
            joint_targets=self._targets.fileno(),
            measured=self._measured.fileno(),
            frames=self.places(),
        )

    def shared(self) -> Sequence[Shared]:
        """See `Device.shared`."""
        return [*super().shared(), self._targets, self._measured]

    def _start(self) -> None:
        task = SimulatorTask(
            robot=msgspec.to_builtins(self._settings),
            joint_targets=self._targets.fileno(),
            measured=self._measured.fileno(),
            frames=self.places(),
            wire=self._theirs.fileno(),
        )
        shared = [self._targets, self._measured, *self.frames.values(), self._theirs]
        self.children["simulator"] = spawn(["robot_wm.deployment.simulator"], task, shared)

    def __exit__(self, *what: Any) -> None:
        super().__exit__(*what)
        self._targets.close()
        self._measured.close()


class LeRobot(Device):
    """Any LeRobot robot by its type and config, with its cameras by theirs."""

    def __init__(
        self, settings: LeRobotRobot, robot: RobotModel, say: Callable[[str], None]
    ) -> None:
        check_installed()
        if not settings.cameras:
            raise UserError(
                "robot.cameras: got none, want such as "
                "robot.cameras.front={type:opencv,index_or_path:0,width:640,height:480,fps:30}"
            )
        sizes = {}
        for name, camera in settings.cameras.items():
            if not isinstance(camera, dict):
                raise UserError(f"robot.cameras.{name}: got {camera}, want a type and its settings")
            height, width = (
                _size(f"robot.cameras.{name}.{side}", camera.get(side))
                for side in ("height", "width")
            )
            sizes[name] = height, width
        if settings.port is not None and not os.path.exists(settings.port):
            raise UserError(f"robot.port: no device {settings.port}")
        super().__init__(sizes, say)
        self._settings, self._robot = settings, robot

    def arm(self, limits: Limits) -> ArmTask:
        """See `Device.arm`."""
        settings, joints = self._settings, self._robot.device
        assert joints is not None
        address = {"port": settings.port, "id": settings.id}
        return LeRobotArmTask(
            robot_type=settings.type,
            config=settings.config | {name: v for name, v in address.items() if v is not None},
            names=joints.names,
            keys=joints.keys,
            zero=joints.zero,
            rad_per_unit=joints.rad_per_unit,
            reply_s=settings.reply_s,
            low=limits.low,
            high=limits.high,
            frames=self.places(),
        )

    def _start(self) -> None:
        task = CamerasTask(
            cameras=self._settings.cameras,
            latency_s=self._settings.camera_latency_s,
            frames=self.places(),
            wire=self._theirs.fileno(),
        )
        shared = [*self.frames.values(), self._theirs]
        self.children["cameras"] = spawn(["hardware", "cameras"], task, shared)


def open_device(settings: RobotSettings, robot: RobotModel, say: Callable[[str], None]) -> Device:
    """Makes the device of a robot's settings; enter it to start its processes.

    Args:
        settings: Settings of the robot.
        robot: The arm that `build_robot` made from them.
        say: Function that shows a line to the operator while the processes start.

    Returns:
        The device.

    Raises:
        UserError: a setting is wrong.
    """
    if isinstance(settings, SimulatedRobot):
        return Simulated(settings, robot, say)
    return LeRobot(settings, robot, say)


def end(child: subprocess.Popen[bytes], timeout_s: float = 10.0) -> None:
    """Waits for a process that has been told to end, and kills it if it does not."""
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _size(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise UserError(f"{name}: got {value!r}, want pixels")
    if not 16 <= value <= _MAX_PIXELS:
        raise UserError(f"{name}: got {value}, want 16 to {_MAX_PIXELS} pixels")
    return int(value)
