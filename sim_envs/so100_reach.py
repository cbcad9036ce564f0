"""Reach: the goal is a picture of the SO-100 with its gripper elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robot_wm.types import Decision, FloatArray, Goal, ImageArray, Observation
from sim_envs.so100_env import (
    CUBE_CLEARANCE_M,
    CUBE_HIGH,
    CUBE_LOW,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    SO100Env,
)

TEST_MANIFEST = Path(__file__).parent / "manifests" / "so100_reach_test_v1.json"
DEV_SEED = 8_000_000  # demonstrations stay below
TEST_SEED = 9_000_000
MIN_START_DISTANCE_M = 0.08


def reach_episode(seed: int) -> dict[str, object]:
    """One episode that `seed` alone decides, as a manifest holds it.

    Returns:
        `seed`; `start` and `goal`, poses `[4]` (ee x, y, z and opening, m) at least 8 cm apart;
        `cube` `[3]` (x, y in m, yaw in rad), clear of the gripper at both ends.
    """
    rng = np.random.default_rng(seed)
    while True:
        start, goal = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH, (2, 4))
        cube = rng.uniform(CUBE_LOW, CUBE_HIGH)
        clearance = min(np.linalg.norm(pose[:2] - cube[:2]) for pose in (start, goal))
        if (
            np.linalg.norm(goal[:3] - start[:3]) >= MIN_START_DISTANCE_M
            and clearance >= CUBE_CLEARANCE_M
        ):
            return {
                "seed": seed,
                "start": start.tolist(),
                "goal": goal.tolist(),
                "cube": cube.tolist(),
            }


class ReachTask:
    """Judges reaching on an SO100Env (robot_wm.types.Task).

    Args:
        env: the arm.
        success_m: an episode that ends nearer than this to its goal succeeds, m.
    """

    def __init__(self, env: SO100Env, *, success_m: float = 0.04) -> None:
        if not 0 < success_m < np.inf:
            raise ValueError(f"success_m: got {success_m}, want metres above 0")
        self._env = env
        self._success_m = success_m
        self._goal_pose = np.zeros(4)
        self._seed = 0

    @property
    def env(self) -> SO100Env:
        return self._env

    @property
    def success_m(self) -> float:
        return self._success_m

    @property
    def goal_pose(self) -> FloatArray:
        """How the gripper stands in the goal picture `[4]`, m: for demonstrators and judges."""
        return self._goal_pose.copy()

    @property
    def seed(self) -> int:
        """The running episode's seed."""
        return self._seed

    def start(self, episode: Mapping[str, object]) -> Goal:
        """Takes the goal picture, then puts the arm at the start.

        Raises:
            ValueError: the episode lacks a pose, or the arm cannot be there.
        """
        missing = {"seed", "start", "goal", "cube"} - set(episode)
        if missing:
            raise ValueError(f"episode: got keys {sorted(episode)}, missing {sorted(missing)}")
        start, goal, cube = (np.asarray(episode[key], float) for key in ("start", "goal", "cube"))
        self._seed = int(str(episode["seed"]))
        self._env.dress(self._seed)
        self._env.place(goal, cube)
        picture = Goal(images=self._env.observe().images)
        self._goal_pose = self._env.proprio()
        self._env.place(start, cube)
        return picture

    def distance_m(self) -> float:
        return float(np.linalg.norm(self._env.proprio()[:3] - self._goal_pose[:3]))

    def simulate(self, actions: FloatArray) -> FloatArray:
        """True distances `[N, H]`, m, under `actions` `[N, H, 4]` from here; the env is unmoved."""
        return np.array(self._try(actions, self.distance_m)).reshape(actions.shape[:2])

    def look_ahead(self, actions: FloatArray) -> list[list[Mapping[str, ImageArray]]]:
        """What the camera would see under `actions` `[N, H, 4]` from here; the env is unmoved."""
        return self._try(actions, lambda: self._env.observe().images)

    def _try(self, actions: FloatArray, look: Callable[[], Any]) -> list[list[Any]]:
        """What `look` says after each action of each sequence."""
        before = self._env.snapshot()
        seen: list[list[Any]] = []
        for sequence in actions:
            self._env.restore(before)
            seen.append([])
            for action in sequence:
                self._env.apply(action)
                seen[-1].append(look())
        self._env.restore(before)
        return seen


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
            raise ValueError(f"num_steps: got {num_steps}, want at least 6")
        self._task = task
        self._num_steps = num_steps
        self._noise_m = noise_m
        self._detour_share = detour_share

    def reset(self, goal: Goal) -> None:
        """Begins the task's running episode."""
        self._rng = rng = np.random.default_rng((self._task.seed, 1))
        self._step = 0
        self._speed_m = rng.uniform(0.02, 0.04)
        self._detour = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH)
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


def reach_manifest(split: str, num_episodes: int) -> list[dict[str, object]]:
    """The first episodes of a fixed list.

    Args:
        split: `"test"` (100 episodes in a file, version 1, never used for tuning), `"dev"`, or a
            number: the first seed of a list of one's own.
        num_episodes: how many.

    Raises:
        ValueError: an unknown split, or a number of episodes that it does not have.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes: got {num_episodes}, want at least 1")
    if split == "test":
        episodes = json.loads(TEST_MANIFEST.read_text())["episodes"]
        if num_episodes > len(episodes):
            raise ValueError(
                f"num_episodes: got {num_episodes}, the test split has {len(episodes)}"
            )
        return episodes[:num_episodes]
    if split != "dev" and not split.isdecimal():
        raise ValueError(f"split: got {split!r}, want test, dev or a first seed")
    first = DEV_SEED if split == "dev" else int(split)
    return [reach_episode(first + i) for i in range(num_episodes)]
