"""What a Tabletop is governed by, what it remembers, and what a hand may do to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from robot_wm.types import FloatArray


class TickGovernor(Protocol):
    """Turns joint targets into one legal joint command per tick."""

    def step(self, target: FloatArray) -> FloatArray:
        """Returns this tick's command `[J]`, rad, toward a target `[J]`, rad."""
        ...

    def copy(self) -> TickGovernor:
        """Returns an independent copy with the same state."""
        ...


# Makes a governor for an arm that is at rest at joints `[J]`, rad.
BeginGovernor = Callable[[FloatArray], TickGovernor]


@dataclass(frozen=True, eq=False)
class TabletopState:
    """The full state of a Tabletop; from `Tabletop.snapshot`.

    Attributes:
        physics: State of the simulation.
        target: The commanded pose `[4]`, m.
        joints: The last joint command `[J]`, rad.
        governor: The governor with its state; None without one.
        num_applied: Number of actions since the arm was placed.
        past: Earlier states of the simulation that are still to be observed, the oldest first.
    """

    physics: FloatArray
    target: FloatArray
    joints: FloatArray
    governor: TickGovernor | None
    num_applied: int
    past: tuple[FloatArray, ...] = ()


@dataclass(frozen=True, eq=False)
class Displacement:
    """An object is moved by a hand, in the middle of an episode.

    Attributes:
        name: Name of the object.
        step: Number of the action before which it is moved, from 0.
        by: Change of its x and y `[2]`, m, base frame; turned by a quarter or a half where the
            object would be put off the table or into the gripper.
    """

    name: str
    step: int
    by: FloatArray
