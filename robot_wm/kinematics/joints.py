"""Converts a device's joint values, such as degrees, to angles of the arm's model, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_wm.types import FloatArray, UserError


@dataclass(frozen=True, eq=False)
class JointMap:
    """The linear map from a device's joint values to angles: `(value - zero) * rad_per_unit`.

    Attributes:
        names: Names of the model's joints, J of them, in the order of commands.
        keys: The device's keys for them, such as `shoulder_pan.pos`.
        zero: The device's values at angle 0 of the model, `[J]`.
        rad_per_unit: The angle per unit of the device `[J]`; negative if it turns the other way.
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
        """Converts the device's values to angles.

        Args:
            values: The device's values by key; other keys are ignored.

        Returns:
            `[J]`, rad.

        Raises:
            UserError: a key is missing.
        """
        missing = [key for key in self.keys if key not in values]
        if missing:
            raise UserError(f"joints: the robot reports no {', '.join(missing)}")
        return self.to_angles(np.array([values[key] for key in self.keys], float))

    def to_angles(self, values: FloatArray) -> FloatArray:
        """Converts the device's values `[..., J]`, in the order of `keys`, to angles, rad."""
        return (values - self.zero) * self.rad_per_unit

    def values(self, angles: FloatArray) -> dict[str, float]:
        """Converts angles `[J]`, rad, to the device's values by key."""
        values = np.asarray(angles, np.float64) / self.rad_per_unit + self.zero
        return dict(zip(self.keys, values.tolist(), strict=True))
