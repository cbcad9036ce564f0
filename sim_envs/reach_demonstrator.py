"""A scripted expert for the reach task, which gets the true goal pose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from robot_wm.types import Decision, FloatArray, Goal, NonNegative, Observation, Share, checked
from sim_envs.reach import ReachTask


class ReachDemonstrator:
    """A noisy expert that gets the true goal pose (robot_wm.types.Controller).

    In each episode it may go to a random place first, and it moves at a random speed, with
    correlated noise on position and gripper that fades out near the end. A predictor needs such
    varied data, not only the shortest paths.

    Args:
        task: The task, with the goal pose and the episode's seed, from which all randomness here is
            drawn.
        num_steps: Number of actions in an episode.
        noise_m: Standard deviation of the noise, m.
        detour_share: Share of the episodes that go to a random place first.
    """

    @checked
    def __init__(
        self,
        task: ReachTask,
        *,
        num_steps: Annotated[int, Meta(ge=6)] = 20,
        noise_m: NonNegative = 0.02,
        detour_share: Share = 0.5,
    ) -> None:
        self._task = task
        self._num_steps = num_steps
        self._noise_m = noise_m
        self._detour_share = detour_share

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """Begins the task's current episode; the goal pictures are not used."""
        self._rng = rng = np.random.default_rng((self._task.seed, 1))
        self._step = 0
        self._speed_m = rng.uniform(0.02, 0.04)
        robot = self._task.env.robot
        self._detour = rng.uniform(robot.workspace_low, robot.workspace_high)
        takes_detour = rng.random() < self._detour_share
        self._detour_steps = int(rng.integers(2, self._num_steps // 2)) if takes_detour else 0
        self._noise = np.zeros(4)

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """Decides on the next action `[4]`, m, within the env's bounds."""
        steps_left = self._num_steps - self._step
        target = self._detour if self._step < self._detour_steps else self._task.goal_pose
        # Half of the steps are enough for the longest path at full speed.
        limit = self._speed_m if steps_left > self._num_steps // 2 else np.inf
        noise_share = min(1.0, max(0.0, (steps_left - 3) / 5))
        self._noise = 0.6 * self._noise + 0.8 * self._rng.normal(0, self._noise_m, 4)
        self._step += 1
        move = np.clip(target - obs.proprio, -limit, limit) + noise_share * self._noise
        return Decision(self._task.env.action_spec.clip(move))
