"""A scripted expert for reach: it knows where the goal is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robot_wm.types import Decision, FloatArray, Goal, Observation, UserError
from sim_envs.reach import ReachTask


class ReachDemonstrator:
    """A scripted, noisy, varied expert that knows where the goal is (robot_wm.types.Controller).

    It may call at a random place first, moves at a speed of its own, wobbles with correlated noise
    that dies away near the end, and works the jaw at random: a predictor needs to see what actions
    do, not only the shortest way.

    Args:
        task: knows the goal and the episode's seed, which decides all that is random here.
        num_steps: actions in an episode.
        noise_m: standard deviation of the wobble, m.
        detour_share: share of the episodes that call at a random place first.
    """

    def __init__(
        self,
        task: ReachTask,
        *,
        num_steps: int = 20,
        noise_m: float = 0.02,
        detour_share: float = 0.5,
    ) -> None:
        if num_steps < 6:
            raise UserError(f"num_steps: got {num_steps}, want at least 6")
        self._task = task
        self._num_steps = num_steps
        self._noise_m = noise_m
        self._detour_share = detour_share

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """Begins the task's running episode."""
        self._rng = rng = np.random.default_rng((self._task.seed, 1))
        self._step = 0
        self._speed_m = rng.uniform(0.02, 0.04)
        robot = self._task.env.robot
        self._detour = rng.uniform(robot.workspace_low, robot.workspace_high)
        takes_detour = rng.random() < self._detour_share
        self._detour_steps = int(rng.integers(2, self._num_steps // 2)) if takes_detour else 0
        self._wobble = np.zeros(4)

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """Decides on the next action `[4]`, m, within the env's bounds."""
        left = self._num_steps - self._step
        target = self._detour if self._step < self._detour_steps else self._task.goal_pose
        # Half of the steps are enough for the longest way at full speed.
        limit = self._speed_m if left > self._num_steps // 2 else np.inf
        calm = min(1.0, max(0.0, (left - 3) / 5))
        self._wobble = 0.6 * self._wobble + 0.8 * self._rng.normal(0, self._noise_m, 4)
        self._step += 1
        move = np.clip(target - obs.proprio, -limit, limit) + calm * self._wobble
        return Decision(self._task.env.action_spec.clip(move))
