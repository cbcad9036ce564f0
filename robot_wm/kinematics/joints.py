"""A device's joint values, such as degrees, and the angles of the arm's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_wm.types import FloatArray, UserError


@dataclass(frozen=True, eq=False)
class JointMap:
    """How a device's joints become angles of the arm's model: `sign * (value - zero) * unit`.

    Attributes:
        names: of the model's joints, J of them, in the order of commands.
        keys: of the device's, such as `shoulder_pan.pos`.
        zero: device's value at angle 0 of the model `[J]`.
        rad_per_unit: of the device's values `[J]`; negative where it turns the other way.
    """

    names: tuple[str, ...]
    keys: tuple[str, ...]
    zero: FloatArray
    rad_per_unit: FloatArray

    def __post_init__(self) -> None:
        size = len(self.names)
        for name in ("zero", "rad_per_unit"):
            value = np.array(getattr(self, name), np.float64)
            if value.shape != (size,) or not np.isfinite(value).all():
                raise UserError(f"joints: {name} is {value}, want {size} finite numbers")
            object.__setattr__(self, name, value)
        if len(self.keys) != size or len(set(self.keys)) != size or not self.rad_per_unit.all():
            raise UserError(f"joints: got {self.keys}, want a key and a unit for each of {size}")

    def angles(self, values: Mapping[str, Any]) -> FloatArray:
        """The device's values by key to angles `[J]`, rad.

        Raises:
            UserError: a key is missing.
        """
        missing = [key for key in self.keys if key not in values]
        if missing:
            raise UserError(f"joints: the robot reports no {', '.join(missing)}")
        return self.to_angles(np.array([values[key] for key in self.keys], float))

    def to_angles(self, values: FloatArray) -> FloatArray:
        """The device's values `[..., J]`, in the order of its keys, to angles `[..., J]`, rad."""
        return (values - self.zero) * self.rad_per_unit

    def values(self, angles: FloatArray) -> dict[str, float]:
        """Angles `[J]`, rad, to the device's values by key."""
        values = np.asarray(angles, np.float64) / self.rad_per_unit + self.zero
        return dict(zip(self.keys, values.tolist(), strict=True))
