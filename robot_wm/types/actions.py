"""ActionSpec: the legal actions of a robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robot_wm.types.checks import FloatArray
from robot_wm.types.errors import UserError


@dataclass(frozen=True, eq=False)
class ActionSpec:
    """The legal actions of a robot: a named, bounded box, and within it a trust region.

    Attributes:
        names: One name per dimension, A of them, e.g. `("ee.x", "ee.y", "ee.z", "gripper")`.
        low: Lower bound per dimension, `[A]`, in `units`.
        high: Upper bound per dimension, `[A]`, in `units`, above `low`.
        units: One unit per dimension, e.g. `("m", "m", "m", "m")`.
        scale: Size of a large action per dimension, `[A]`, in `units`: the unit of a search's
            spread and of the trust region. None for half of the range.
        fixed: Values within the bounds, by name, of the dimensions that always have the same value.
        trust_radius: The largest norm of the free dimensions of (action - `rest`) / `scale`; None
            for no trust region.
        trust_norm: The norm for `trust_radius`: `"l2"`, or `"box"`, the largest of the dimensions.

    Raises:
        UserError: lengths differ, a bound is not finite, `low` is not below `high`, or a scale,
            a fixed value or a radius is invalid.
    """

    names: tuple[str, ...]
    low: FloatArray
    high: FloatArray
    units: tuple[str, ...]
    scale: FloatArray | None = None
    fixed: Mapping[str, float] = field(default_factory=dict)
    trust_radius: float | None = None
    trust_norm: Literal["l2", "box"] = "l2"

    def __post_init__(self) -> None:
        low, high = np.array(self.low, np.float64), np.array(self.high, np.float64)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "units", tuple(self.units))
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        if not all(isinstance(word, str) for word in (*self.names, *self.units)):
            raise UserError(f"ActionSpec: got names {self.names}, units {self.units}, want text")
        size = len(self.names)
        if not size or low.shape != (size,) or high.shape != (size,) or len(self.units) != size:
            raise UserError(
                f"ActionSpec: got {size} names, {len(self.units)} units, low {low.shape} and "
                f"high {high.shape}; want one of each per dimension"
            )
        for name, lo, hi in zip(self.names, low, high, strict=True):
            if not (np.isfinite(lo) and np.isfinite(hi) and lo < hi):
                raise UserError(f"ActionSpec: {name} is bounded by [{lo}, {hi}]; want low < high")
        if self.scale is not None:
            try:
                scale = np.array(self.scale, np.float64)
            except (TypeError, ValueError) as error:
                raise UserError(f"scale: got {self.scale!r}, want {size} numbers") from error
            if scale.shape != (size,) or not (np.isfinite(scale) & (scale > 0)).all():
                raise UserError(f"scale: got {self.scale}, want {size} finite numbers above zero")
            scale.setflags(write=False)
            object.__setattr__(self, "scale", scale)
        try:
            object.__setattr__(self, "fixed", {k: float(v) for k, v in self.fixed.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"fixed: got {self.fixed!r}, want a number per name") from error
        for name, value in self.fixed.items():
            if name not in self.names:
                raise UserError(f"fixed: got {name!r}, want one of {', '.join(self.names)}")
            i = self.names.index(name)
            if not low[i] <= value <= high[i]:
                raise UserError(f"fixed: got {name}={value}, want {low[i]:g} to {high[i]:g}")
        if self.trust_norm not in ("l2", "box"):
            raise UserError(f"trust_norm: got {self.trust_norm!r}, want 'l2' or 'box'")
        radius = self.trust_radius
        if radius is not None and not (isinstance(radius, int | float) and 0 < radius < np.inf):
            raise UserError(f"trust_radius: got {radius}, want a number above zero, or None")
        low.setflags(write=False)
        high.setflags(write=False)

    @property
    def size(self) -> int:
        """Number of action dimensions, A."""
        return len(self.names)

    @property
    def unit(self) -> FloatArray:
        """`scale`, or half of the range if it is None, `[A]`."""
        return (self.high - self.low) / 2 if self.scale is None else self.scale

    @property
    def free(self) -> NDArray[np.bool_]:
        """Whether each dimension may be chosen, `[A]`."""
        return np.array([name not in self.fixed for name in self.names])

    @property
    def rest(self) -> FloatArray:
        """The no-op, `[A]`: the legal action nearest to zero."""
        rest = np.clip(np.zeros(self.size), self.low, self.high)
        for name, value in self.fixed.items():
            rest[self.names.index(name)] = value
        return rest

    def within(self, other: ActionSpec) -> ActionSpec:
        """Intersects two sets of legal actions.

        Args:
            other: The other set, of the same action names.

        Returns:
            The narrower bounds, the fixed values of both, and the trust region of both.

        Raises:
            UserError: the two name different actions, or contradict each other.
        """
        if self.names != other.names:
            raise UserError(
                f"actions: got {self.size} ({', '.join(self.names)}) and {other.size} "
                f"({', '.join(other.names)}), want the same"
            )
        low, high = np.maximum(self.low, other.low), np.minimum(self.high, other.high)
        for name in self.fixed.keys() & other.fixed.keys():
            if self.fixed[name] != other.fixed[name]:
                raise UserError(
                    f"fixed: got {name}={self.fixed[name]} and {other.fixed[name]}, want one"
                )
        scale, radius, norm = self.scale, self.trust_radius, self.trust_norm
        if radius is None and other.trust_radius is not None:
            # The region keeps its size, which is in units of the other's scale.
            radius, norm, scale = other.trust_radius, other.trust_norm, other.unit
        elif radius is None:
            scale = other.scale if scale is None else scale
        elif other.trust_radius is not None:
            if norm != other.trust_norm or not np.array_equal(self.unit, other.unit):
                raise UserError("trust_radius: two trust regions of another shape cannot be joined")
            radius = min(radius, other.trust_radius)
        if any(a and b and a != b for a, b in zip(self.units, other.units, strict=True)):
            raise UserError(
                f"actions: got units {', '.join(self.units)} and {', '.join(other.units)}"
            )
        return ActionSpec(
            self.names,
            low,
            high,
            self.units,
            scale=scale,
            fixed={**other.fixed, **self.fixed},
            trust_radius=radius,
            trust_norm=norm,
        )

    def clip(self, action: FloatArray) -> FloatArray:
        """Clips actions to legal ones.

        Each dimension is clipped to its bounds; then the action is moved straight toward `rest`
        until it is in the trust region.

        Args:
            action: Actions `[..., A]`, in `units`.

        Returns:
            `[..., A]`, float64.

        Raises:
            ValueError: wrong size, or not finite (clipping would let NaN through).
        """
        action = np.asarray(action, np.float64)
        if action.shape[-1:] != (self.size,):
            raise ValueError(f"action: got shape {action.shape}, want [..., {self.size}]")
        if not np.isfinite(action).all():
            raise ValueError(f"action: got {action}, want finite numbers")
        action = np.where(self.free, np.clip(action, self.low, self.high), self.rest)
        if self.trust_radius is None:
            return action
        offset = (action - self.rest) / self.unit
        if self.trust_norm == "box":
            offset = np.clip(offset, -self.trust_radius, self.trust_radius)
        else:
            norm = np.linalg.norm(offset, axis=-1, keepdims=True)
            offset = offset / np.maximum(1, norm / self.trust_radius)
        return self.rest + offset * self.unit
