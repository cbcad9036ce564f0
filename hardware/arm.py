"""What a device must do to be driven: read, write, hold, limits. One file per kind of device."""

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
    """What the device itself can do.

    Attributes:
        names: of its joints, J of them, in the order of its commands.
        low, high: of its joints `[J]`, rad.
    """

    names: tuple[str, ...]
    low: FloatArray
    high: FloatArray


class Arm(Protocol):
    """A device with joints. Whoever holds it is the only one that writes to it."""

    @property
    def frames(self) -> Mapping[str, FrameSlot]:
        """Where its cameras show their newest pictures."""
        ...

    def limits(self) -> ArmLimits:
        """What the device itself can do."""
        ...

    def read(self) -> Reading:
        """Where it stands now, when its cameras last saw something, what is wrong with it.

        Raises:
            ArmError: no answer.
        """
        ...

    def write(self, joints: FloatArray) -> None:
        """Sends a command `[J]`, rad.

        Raises:
            UserError: another number of joints, or not finite; nothing is sent.
            ArmError: no answer.
        """
        ...

    def hold(self) -> None:
        """Makes it stay where it is, as far as it can: torque stays on. Never raises.

        For when commands no longer get through whole; what a governor returned does the same.
        """
        ...

    def close(self, *, relax: bool = False) -> None:
        """Lets go of it: it goes on holding, its torque on, unless it may relax. Never raises."""
        ...


def check_command(joints: FloatArray, num_joints: int) -> None:
    """Raises ValueError unless `joints` are so many finite angles: the last look before a write."""
    if np.shape(joints) != (num_joints,) or not np.isfinite(joints).all():
        raise ValueError(f"command: got {joints}, want {num_joints} finite angles")
