"""The interface of a device that can be driven, with one module per kind of device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hardware.ticks import Reading
from hardware.wire import FrameSlot
from robot_wm.types import FloatArray, RunError


class ArmError(RunError):
    """The device does not answer, or refuses."""


@dataclass(frozen=True, eq=False)
class ArmLimits:
    """The device's own limits.

    Attributes:
        names: Names of its J joints, in the order of its commands.
        low: Lower joint limits `[J]`, rad.
        high: Upper joint limits `[J]`, rad.
    """

    names: tuple[str, ...]
    low: FloatArray
    high: FloatArray


class Arm(Protocol):
    """A device with joints; only the holder of this object writes to it."""

    @property
    def frames(self) -> Mapping[str, FrameSlot]:
        """Shared memory of each camera's newest picture, by camera."""
        ...

    def limits(self) -> ArmLimits:
        """Returns the device's own limits."""
        ...

    def read(self) -> Reading:
        """Reads the device.

        Returns:
            The measured joints, the stamps of the newest pictures, and what is wrong with the
            device.

        Raises:
            ArmError: the device does not answer.
        """
        ...

    def write(self, joints: FloatArray) -> None:
        """Sends a command.

        Args:
            joints: Joints to go to `[J]`, rad.

        Raises:
            ValueError: the number of joints is wrong, or one is not finite; nothing is sent.
            ArmError: the device does not answer.
        """
        ...

    def hold(self) -> None:
        """Makes the arm stay where it is as far as it can, with torque on; never raises.

        It is needed after a command that did not get through completely; otherwise writing the
        governor's last command does the same.
        """
        ...

    def close(self, *, relax: bool = False) -> None:
        """Releases the device; torque stays on unless `relax` is set. Never raises."""
        ...


def check_command(joints: FloatArray, num_joints: int) -> None:
    """Raises ValueError unless `joints` are `num_joints` finite angles, as a last check."""
    if np.shape(joints) != (num_joints,) or not np.isfinite(joints).all():
        raise ValueError(f"command: got {joints}, want {num_joints} finite angles")
