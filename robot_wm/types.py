"""Values and seams that every room of the house shares. numpy only, no torch.

Dimension legend, used in every docstring and tail comment of the project:

    B batch      T time (frames)   N candidates   H horizon (actions)   P tokens per frame
    D token dim  A action size     Q proprio size C channels

Units: metres, radians, seconds. Images are uint8 RGB `[height, width, 3]`. An `action` is in the
robot's own units everywhere above world_model.py; a normalised one is called `action_n`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
ImageArray = NDArray[np.uint8]


def check_counts(low: int = 1, **values: object) -> None:
    """Raises ValueError unless every value is a whole number of at least `low`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name}: got {value!r}, want a whole number of at least {low}")


def check_image(image: ImageArray, what: str = "image") -> None:
    """Raises ValueError unless `image` is uint8 RGB `[height, width, 3]`."""
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
        raise ValueError(f"{what}: got {dtype} {shape}, want uint8 [height, width, 3]")


@dataclass(frozen=True, eq=False)
class ActionSpec:
    """The legal actions of a robot: a named, bounded box.

    Attributes:
        names: one name per dimension, A of them, e.g. `("ee.x", "ee.y", "ee.z", "gripper")`.
        low: lower bound per dimension, `[A]`, in `units`.
        high: upper bound per dimension, `[A]`, in `units`, above `low`.
        units: one unit per dimension, e.g. `("m", "m", "m", "m")`.

    Raises:
        ValueError: lengths differ, a bound is not finite, or `low` is not below `high`.
    """

    names: tuple[str, ...]
    low: FloatArray
    high: FloatArray
    units: tuple[str, ...]

    def __post_init__(self) -> None:
        low, high = np.array(self.low, np.float64), np.array(self.high, np.float64)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "units", tuple(self.units))
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        size = len(self.names)
        if not size or low.shape != (size,) or high.shape != (size,) or len(self.units) != size:
            raise ValueError(
                f"ActionSpec: got {size} names, {len(self.units)} units, low {low.shape} and "
                f"high {high.shape}; want one of each per dimension"
            )
        for name, lo, hi in zip(self.names, low, high, strict=True):
            if not (np.isfinite(lo) and np.isfinite(hi) and lo < hi):
                raise ValueError(f"ActionSpec: {name} is bounded by [{lo}, {hi}]; want low < high")
        low.setflags(write=False)
        high.setflags(write=False)

    @property
    def size(self) -> int:
        """Number of action dimensions, A."""
        return len(self.names)

    def within(self, other: ActionSpec) -> ActionSpec:
        """This spec with bounds no wider than `other`'s.

        Raises:
            ValueError: the two name different actions, or their bounds do not meet.
        """
        if self.names != other.names:
            raise ValueError(
                f"actions: got {self.size} ({', '.join(self.names)}) and {other.size} "
                f"({', '.join(other.names)}), want the same"
            )
        low, high = np.maximum(self.low, other.low), np.minimum(self.high, other.high)
        return ActionSpec(self.names, low, high, self.units)

    def clip(self, action: FloatArray) -> FloatArray:
        """Returns `action` `[..., A]` moved into the bounds, float64.

        Raises:
            ValueError: wrong size, or not finite (clipping would let NaN through).
        """
        action = np.asarray(action, np.float64)
        if action.shape[-1:] != (self.size,):
            raise ValueError(f"action: got shape {action.shape}, want [..., {self.size}]")
        if not np.isfinite(action).all():
            raise ValueError(f"action: got {action}, want finite numbers")
        return np.clip(action, self.low, self.high)


@dataclass(frozen=True, eq=False)
class Observation:
    """What the robot sees and feels at one moment.

    Attributes:
        images: camera name -> uint8 RGB `[height, width, 3]`.
        proprio: `[Q]` float64, in the robot's units.
        stamp_s: time.monotonic() at capture, or simulated seconds.
    """

    images: Mapping[str, ImageArray]
    proprio: FloatArray
    stamp_s: float


@dataclass(frozen=True, eq=False)
class Goal:
    """A picture of what is wanted: camera name -> uint8 RGB `[height, width, 3]`."""

    images: Mapping[str, ImageArray]


@dataclass(frozen=True, eq=False)
class Plan:
    """A planner's answer.

    Attributes:
        actions: `[H, A]` in the robot's units, inside the ActionSpec.
        cost: predicted cost of `actions`, lower is better, finite.
        info: diagnostics, name -> number or list of numbers (`cost_by_iteration`, `num_samples`,
            `num_finite`, ...). For people and reports; no code decides on it.
    """

    actions: FloatArray
    cost: float
    info: Mapping[str, object] = field(default_factory=dict)


class PlanningError(RuntimeError):
    """The planner found nothing it can stand behind; no action comes out."""


@runtime_checkable
class Env(Protocol):
    """A robot and what surrounds it, simulated or real."""

    @property
    def action_spec(self) -> ActionSpec: ...

    @property
    def control_dt(self) -> float:
        """Seconds from one `apply` to the next."""
        ...

    def reset(self, seed: int) -> Observation:
        """Brings the robot to a start that `seed` alone decides, and looks."""
        ...

    def observe(self) -> Observation: ...

    def apply(self, action: FloatArray) -> FloatArray:
        """Executes `action` `[A]` for `control_dt`; returns what was really executed, `[A]`."""
        ...

    def stop(self) -> None:
        """Brings the robot to rest and holds it there. Never raises."""
        ...

    def close(self) -> None: ...


class Controller(Protocol):
    """Chooses actions toward a goal picture, one look at a time."""

    def reset(self, goal: Goal) -> None: ...

    def act(self, obs: Observation, applied: FloatArray | None) -> FloatArray:
        """Returns the next action `[A]`; `applied` is what became of the last one, if any."""
        ...


class Task(Protocol):
    """A family of episodes on an Env that a true state can judge.

    The judge is for evaluation alone: no controller is ever handed a Task.
    """

    @property
    def env(self) -> Env: ...

    @property
    def success_m(self) -> float:
        """An episode succeeds when it ends nearer than this to its goal, metres."""
        ...

    def start(self, episode: Mapping[str, object]) -> Goal:
        """Puts the env at the start of a manifest's episode; returns its goal picture."""
        ...

    def distance_m(self) -> float:
        """True distance to the goal now, metres."""
        ...

    def simulate(self, actions: FloatArray) -> FloatArray:
        """True distances `[N, H]` under `actions` `[N, H, A]` from here; leaves the env as it was.

        This is the state oracle's view of the simulator.
        """
        ...

    def look_ahead(self, actions: FloatArray) -> list[list[Mapping[str, ImageArray]]]:
        """What the cameras would see under `actions` `[N, H, A]`; leaves the env as it was.

        This is the latent oracle's view of the simulator: N lists of H pictures by camera name.
        """
        ...
