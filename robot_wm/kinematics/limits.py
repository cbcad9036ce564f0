"""Limits: the ranges, speeds and accelerations that an arm must keep to."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from robot_wm.types import FloatArray, UserError

EDGE_RAD = 0.01
_POSITIVE = ("max_speed", "max_acceleration", "tip_speed", "max_jump", "tick_s")
_MAX_STOP_TICKS = 1000
_SIZES = {"tip_speed": (), "max_jump": (), "tick_s": (), "box_low": (3,), "box_high": (3,)}


@dataclass(frozen=True, eq=False)
class Limits:
    """The ranges, speeds and accelerations that an arm must keep to.

    Attributes:
        low: Smallest joint angles `[J]`, rad.
        high: Largest joint angles `[J]`, rad.
        max_speed: Largest speed of each joint `[J]`, rad/s.
        max_acceleration: Largest acceleration of each joint `[J]`, rad/s^2, also when braking.
        box_low: Lower corner of the box that all of the arm's bodies stay in `[3]`, m, base frame.
        box_high: Upper corner of that box `[3]`, m, base frame.
        tip_speed: Largest speed of the fastest corner of a body, m/s.
        max_jump: A joint target that is farther than this from the last command is refused, rad.
        tick_s: Time from one command to the next, s.

    Raises:
        UserError: not finite, lengths that differ, low above high, or a bound not above zero.
    """

    low: FloatArray
    high: FloatArray
    max_speed: FloatArray
    max_acceleration: FloatArray
    box_low: FloatArray
    box_high: FloatArray
    tip_speed: float
    max_jump: float
    tick_s: float

    def __post_init__(self) -> None:
        size = np.shape(self.low)
        for name in (field.name for field in fields(self)):
            try:
                value = np.array(getattr(self, name), np.float64)
            except (TypeError, ValueError) as error:
                raise UserError(f"{name}: got {getattr(self, name)!r}, want numbers") from error
            if value.shape != _SIZES.get(name, size) or len(size) != 1 or not size[0]:
                raise UserError(f"{name}: got shape {value.shape}, want one number per joint")
            if not np.isfinite(value).all():
                raise UserError(f"{name}: got {value}, want finite numbers")
            if name in _POSITIVE and not (value > 0).all():
                raise UserError(f"{name}: got {value}, want numbers above zero")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        ticks = (self.max_speed / (self.max_acceleration * self.tick_s)).max()
        if not ticks <= _MAX_STOP_TICKS:
            raise UserError(
                f"max_acceleration: a stop takes {ticks:.3g} ticks, want {_MAX_STOP_TICKS}"
            )
        for low, high in (("low", "high"), ("box_low", "box_high")):
            if not (getattr(self, low) < getattr(self, high)).all():
                raise UserError(f"{low}: got {getattr(self, low)}, want less than {high}")

    def within(self, low: FloatArray, high: FloatArray) -> Limits:
        """Narrows the joint ranges to a device's own.

        Args:
            low: The device's smallest joint angles `[J]`, rad.
            high: The device's largest joint angles `[J]`, rad.

        Returns:
            Limits whose joint ranges are the intersection of both.

        Raises:
            UserError: another number of joints, or an empty intersection.
        """
        if np.shape(low) != self.low.shape or np.shape(high) != self.high.shape:
            raise UserError(f"low: the arm has {len(low)} joints, want {len(self.low)}")
        return replace(self, low=np.maximum(low, self.low), high=np.minimum(high, self.high))

    def clip_within_tolerance(self, joints: FloatArray) -> FloatArray:
        """Clips measured joints `[J]`, rad, that are beyond their range by at most EDGE_RAD."""
        # A joint at the end of its range may be measured slightly beyond it.
        inside = np.clip(joints, self.low, self.high)
        at_edge = np.abs(joints - inside) <= EDGE_RAD
        return np.where(at_edge, inside, joints)
