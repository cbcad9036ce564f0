"""The reach task, whose goal is a picture of the arm with its gripper at another place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robot_wm.types import (
    FloatArray,
    Goal,
    ImageArray,
    Judgement,
    Measure,
    Positive,
    UserError,
    checked,
)
from sim_envs.placing import CLEARANCE_M, NUM_DRAWS, is_reached
from sim_envs.tabletop import Tabletop
from sim_envs.trying import look_ahead, simulate

MIN_START_DISTANCE_M = 0.08


class ReachTask:
    """Judges reaching on a Tabletop with a cube (robot_wm.types.Task).

    Args:
        env: The arm on its table.
        success_m: An episode succeeds if it ends nearer than this to its goal, m.
    """

    @checked
    def __init__(self, env: Tabletop, *, success_m: Positive = 0.04) -> None:
        self._env = env
        self._success_m = success_m
        self._goal_pose = np.zeros(4)
        self._seed = 0

    @property
    def env(self) -> Tabletop:
        """See `Task.env`."""
        return self._env

    @property
    def goal_pose(self) -> FloatArray:
        """True pose of the gripper in the goal picture `[4]`, m: for demonstrators and judges."""
        return self._goal_pose.copy()

    @property
    def num_steps(self) -> int:
        """Actions per episode."""
        return 20

    @property
    def seed(self) -> int:
        """Seed of the current episode."""
        return self._seed

    def episode(self, seed: int) -> dict[str, object]:
        """See `Task.episode`.

        Args:
            seed: Seed of the episode.

        Returns:
            `seed`; `start` and `goal`, poses `[4]` (ee x, y, z and opening, m) at least 8 cm
            apart; `cube` `[3]` (x, y in m, yaw in rad), away from the gripper at both poses.

        Raises:
            UserError: the workspace has no room for an episode.
        """
        rng, robot = np.random.default_rng(seed), self._env.robot
        table = [*robot.table_low, -np.pi], [*robot.table_high, np.pi]
        for _ in range(NUM_DRAWS):
            start, goal = rng.uniform(robot.workspace_low, robot.workspace_high, (2, 4))
            cube = rng.uniform(*table)
            clearance = min(np.linalg.norm(pose[:2] - cube[:2]) for pose in (start, goal))
            is_far = np.linalg.norm(goal[:3] - start[:3]) >= MIN_START_DISTANCE_M
            reached = is_far and is_reached(robot, start) and is_reached(robot, goal)
            if reached and clearance >= CLEARANCE_M:
                poses = {"start": start.tolist(), "goal": goal.tolist(), "cube": cube.tolist()}
                return {"seed": seed, **poses}
        raise UserError(
            f"episode: no start and goal {MIN_START_DISTANCE_M} m apart, and cube {CLEARANCE_M} m "
            f"away from both, in the workspace of {robot.name}"
        )

    def start(self, episode: Mapping[str, object]) -> Goal:
        """See `Task.start`."""
        missing = {"seed", "start", "goal", "cube"} - set(episode)
        if missing:
            raise UserError(f"episode: got keys {sorted(episode)}, missing {sorted(missing)}")
        start, goal, cube = (np.asarray(episode[key], float) for key in ("start", "goal", "cube"))
        self._seed = int(str(episode["seed"]))
        self._env.randomize_appearance(self._seed)
        self._env.place(goal, {"cube": cube})
        picture = Goal(images=self._env.observe().images)
        self._goal_pose = self._env.proprio()
        self._env.place(start, {"cube": cube})
        return picture

    def judge(self) -> Judgement:
        """Measures the distance of the gripper to its place in the goal picture."""
        distance_m = float(np.linalg.norm(self._env.proprio()[:3] - self._goal_pose[:3]))
        measure = Measure(distance_m, "m", enough=self._success_m)
        return Judgement(measure.reached, {"distance": measure})

    def simulate(self, actions: FloatArray) -> FloatArray:
        """See `Task.simulate`."""
        return simulate(self._env, actions, self.judge)

    def look_ahead(self, actions: FloatArray) -> list[list[Mapping[str, ImageArray]]]:
        """See `Task.look_ahead`."""
        return look_ahead(self._env, actions)
