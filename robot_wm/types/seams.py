"""The seams of the loop: what stands behind each may be anyone's (robot_wm.contracts)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from robot_wm.types.actions import ActionSpec
from robot_wm.types.checks import FloatArray, ImageArray
from robot_wm.types.values import Decision, Goal, Judgement, Observation, Verdict


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

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """Begins an episode toward a goal, or several, one after the other."""
        ...

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """Decides what is done next; `applied` is what became of the last action, if any."""
        ...


class Guard(Protocol):
    """Judges every decision before it is executed."""

    def check(self, obs: Observation, decision: Decision, applied: FloatArray | None) -> Verdict:
        """Whether a decision on what is seen may be executed.

        Args:
            obs: what was seen.
            decision: about it.
            applied: what became of the last decision's action `[A]`; None at the first.
        """
        ...


class Task(Protocol):
    """A family of episodes on an Env that a true state can judge.

    The judge is for evaluation alone: no controller is ever handed a Task.
    """

    @property
    def env(self) -> Env: ...

    def episode(self, seed: int) -> Mapping[str, object]:
        """The episode that `seed` alone decides, as a manifest holds it: JSON, `seed` in it."""
        ...

    def start(self, episode: Mapping[str, object]) -> Goal | Sequence[Goal]:
        """Puts the env at the start of a manifest's episode; returns its goal picture, or several
        that are to be reached one after the other.
        """
        ...

    def judge(self) -> Judgement:
        """Whether the task is done now, and by what measures."""
        ...

    def simulate(self, actions: FloatArray) -> FloatArray:
        """`judge().cost` `[N, H]` after each action of `actions` `[N, H, A]` from here; leaves
        the env as it was.

        This is the state oracle's view of the simulator.
        """
        ...

    def look_ahead(self, actions: FloatArray) -> list[list[Mapping[str, ImageArray]]]:
        """What the cameras would see under `actions` `[N, H, A]`; leaves the env as it was.

        This is the latent oracle's view of the simulator: N lists of H pictures by camera name.
        """
        ...
