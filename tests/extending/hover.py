"""A task from outside: the gripper above the cube, wherever that lies."""

import numpy as np

from robot_wm.types import Decision, Goal, Judgement, Measure
from sim_envs.trying import look_ahead, simulate

ABOVE_M = 0.08


class Hover:
    """Done within 3 cm of the place above the cube, gripper open (robot_wm.types.Task)."""

    def __init__(self, env, *, within_m=0.03):
        self.env, self._within_m = env, within_m

    def episode(self, seed):
        rng, robot = np.random.default_rng(seed), self.env.robot
        start = rng.uniform(robot.workspace_low, robot.workspace_high)
        return {"seed": seed, "start": start.tolist(), "cube": [*self._place(rng), 0.0]}

    def start(self, episode):
        cube = np.array(episode["cube"])
        self.env.place(np.array([*cube[:2], ABOVE_M, 0.05]), {"cube": cube})
        goal = Goal(self.env.observe().images)
        self.env.place(np.array(episode["start"]), {"cube": cube})
        return goal

    def judge(self):
        away = self.env.proprio()[:3] - [*self.env.object_pose("cube")[:2], ABOVE_M]
        distance = Measure(float(np.linalg.norm(away)), "m", enough=self._within_m)
        opening = Measure(float(self.env.proprio()[3]), "m", enough=0.03, rising=True)
        success = distance.reached and opening.reached
        return Judgement(success, {"distance": distance, "opening": opening})

    def simulate(self, actions):
        return simulate(self.env, actions, self.judge)

    def look_ahead(self, actions):
        return look_ahead(self.env, actions)

    def _place(self, rng):
        robot = self.env.robot
        low = np.maximum(robot.table_low, robot.workspace_low[:2])
        return rng.uniform(low, np.minimum(robot.table_high, robot.workspace_high[:2])).tolist()


class Expert:
    """Goes there, with some noise (robot_wm.types.Controller)."""

    def __init__(self, task, *, num_steps):
        self._env, self._rng = task.env, np.random.default_rng(0)

    def reset(self, goal):
        self._rng = np.random.default_rng(0)

    def act(self, obs, applied):
        there = np.array([*self._env.object_pose("cube")[:2], ABOVE_M, 0.05])
        move = there - obs.proprio + self._rng.normal(0, 0.01, 4)
        return Decision(self._env.action_spec.clip(move))
