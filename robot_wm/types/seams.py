"""The interfaces of the control loop. Anyone may implement them; robot_wm.contracts tests that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from robot_wm.types.actions import ActionSpec
from robot_wm.types.checks import FloatArray, ImageArray
from robot_wm.types.values import Decision, Goal, Judgement, Observation, Verdict


@runtime_checkable
class Env(Protocol):
    """A robot and its surroundings, simulated or real."""

    @property
    def action_spec(self) -> ActionSpec:
        """The legal actions."""
        ...

    @property
    def control_dt(self) -> float:
        """Time from one `apply` to the next, s."""
        ...

    def reset(self, seed: int) -> Observation:
        """Brings the robot to a start that depends on `seed` only, and observes."""
        ...

    def observe(self) -> Observation:
        """Observes the robot and its surroundings now."""
        ...

    def apply(self, action: FloatArray) -> FloatArray:
        """Executes `action` `[A]` for `control_dt`; returns the action actually executed, `[A]`."""
        ...

    def stop(self) -> None:
        """Brings the robot to a standstill and holds it there. Never raises."""
        ...

    def close(self) -> None:
        """Releases the robot, or the simulation."""
        ...


class Controller(Protocol):
    """Chooses actions toward a goal picture, one per observation."""

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """Begins an episode toward a goal, or several, one after the other."""
        ...

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """Decides on the next action.

        Args:
            obs: The current observation.
            applied: The action actually executed after the last decision `[A]`; None at the first.

        Returns:
            The decision.
        """
        ...


class Guard(Protocol):
    """Judges every decision before it is executed."""

    def check(self, obs: Observation, decision: Decision, applied: FloatArray | None) -> Verdict:
        """Judges whether a decision may be executed.

        Args:
            obs: The observation that the decision was made on.
            decision: The decision.
            applied: The action actually executed after the last decision `[A]`; None at the first.

        Returns:
            Whether to go on, hold, or end the run.
        """
        ...


class Task(Protocol):
    """A family of episodes on an Env, judged by the true state.

    The judge is for evaluation only: no controller ever gets a Task.

    A task may also have `num_steps`, the actions of an episode (20 without it), `num_hold_steps`,
    the actions of no motion after them before an episode is judged, and `goals`, the name of the
    list of episodes that it draws from (`on` is the usual one).
    """

    @property
    def env(self) -> Env:
        """The env that the episodes are on."""
        ...

    def episode(self, seed: int) -> Mapping[str, object]:
        """Returns the episode of a seed as a manifest stores it: JSON that contains `seed`."""
        ...

    def start(self, episode: Mapping[str, object]) -> Goal | Sequence[Goal]:
        """Puts the env at the start of a manifest's episode.

        Args:
            episode: The episode as `episode` returns it.

        Returns:
            The goal, or several that are to be reached one after the other.
        """
        ...

    def judge(self) -> Judgement:
        """Judges the current state: whether the task is done, and by what measures."""
        ...

    def simulate(self, actions: FloatArray) -> FloatArray:
        """Simulates candidates from the current state, for the state oracle.

        The env is left as it was.

        Args:
            actions: Action sequences `[N, H, A]`, in the env's units.

        Returns:
            `judge().cost` after each action, `[N, H]`.
        """
        ...

    def look_ahead(self, actions: FloatArray) -> list[list[Mapping[str, ImageArray]]]:
        """Renders the futures of candidates from the current state, for the latent oracle.

        The env is left as it was.

        Args:
            actions: Action sequences `[N, H, A]`, in the env's units.

        Returns:
            N lists of H pictures by camera name, one after each action.
        """
        ...
