"""A scripted expert that moves an object, by pushing it or carrying it, and then parks the arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from robot_wm.types import (
    Count,
    Decision,
    FloatArray,
    Goal,
    NonNegative,
    Observation,
    Share,
    checked,
)
from sim_envs.move import REGION, MoveTask, draw_parked
from sim_envs.placing import GRASP_M, OPEN_M, OVER_M, between_fingers

_DOWN_M = 0.02  # height of the tool that pushes
_BEHIND_M = (0.04, 0.065)  # distance of the tool from the object's middle where a push begins
_BESIDE_M = 0.012  # a pushing tool that is farther from the line approaches anew
_STEP_M = 0.02  # of a push
_NEAR_M = 0.008  # an object that is nearer to its goal is left alone
_GOAL_STEPS = {"push": 32, "carry": 38}  # a new goal takes fewer
_RETRY_STEPS = {"push": 16, "carry": 34}  # another try after a miss takes fewer
_CALM = 0.3  # share of the noise where the gripper is about to touch the object


class MoveDemonstrator:
    """An expert that gets the true poses (robot_wm.types.Controller).

    It moves the object to the task's goal, then to new goals while there is time for one, as a
    person goes on; the task then judges the last of them. After a goal it may park the arm, as
    before a picture is taken; with no time left it says that it has arrived, and does nothing more.
    Its way is noisy, and some of its approaches and placements miss on purpose: a model needs to
    see what does not move an object, and a policy what to do about an object that is nearly there.

    Args:
        task: The task, with the object's goal and the episode's seed, from which all randomness
            here is drawn.
        num_steps: Number of actions in an episode.
        noise_m: Standard deviation of the noise of every action, m.
        miss_share: Share of the approaches that miss the object, and of the placements that miss
            the goal.
        park_share: Share of the goals after which the arm is parked.
    """

    @checked
    def __init__(
        self,
        task: MoveTask,
        *,
        num_steps: Count = 40,
        noise_m: NonNegative = 0.004,
        miss_share: Share = 0.15,
        park_share: Share = 1.0,
    ) -> None:
        self._task, self._noise_m = task, noise_m
        self._miss_share, self._park_share = miss_share, park_share
        self._num_steps = num_steps

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """Begins the task's current episode; the goal pictures are not used."""
        self._rng = np.random.default_rng((self._task.seed, 16))  # no list has this number
        self._goal = self._task.object_goal[:2]
        self._noise, self._is_free = np.zeros(4), True
        self._moves, self._step = self._live(), 0

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """Decides on the next action `[4]`, m, within the env's bounds."""
        self._tool = obs.proprio
        self._object = self._task.env.object_pose(self._task.object_name)
        target = next(self._moves, None)
        if target is None:
            return Decision(self._task.env.action_spec.rest, kind="arrived")
        self._step += 1
        self._noise = 0.5 * self._noise + self._rng.normal(0, self._noise_m, 4)
        self._noise *= 1.0 if self._is_free else _CALM
        return Decision(self._task.env.action_spec.clip(target - self._tool + self._noise))

    def _live(self) -> Iterator[FloatArray]:
        """Yields the next pose of the tool `[4]`, m, action by action, until there is no time."""
        work = self._push if self._task.way == "push" else self._carry
        while True:
            yield from work()
            if self._rng.random() < self._park_share:
                yield from self._park()
            if self._num_steps - self._step < _GOAL_STEPS[self._task.way]:
                return
            self._goal = self._draw_goal()
            self._task.retarget(np.append(self._goal, self._task.object_goal[2]))

    def _draw_goal(self) -> FloatArray:
        while True:
            goal = self._rng.uniform(*REGION)
            if 0.06 < np.linalg.norm(goal - self._object[:2]) < 0.2:
                return goal

    def _misses(self) -> bool:
        """Draws whether to miss on purpose, if there is time for another try."""
        misses = self._rng.random() < self._miss_share
        return misses and self._num_steps - self._step > _RETRY_STEPS[self._task.way]

    def _far(self) -> float:
        return float(np.linalg.norm(self._goal - self._object[:2]))

    def _park(self) -> Iterator[FloatArray]:
        self._is_free = True
        pose = draw_parked(self._rng)
        yield from self._lift()
        yield from self._go(pose)
        for _ in range(self._rng.integers(1, 3)):
            yield pose

    def _lift(self) -> Iterator[FloatArray]:
        self._is_free = True
        if self._tool[2] < OVER_M:
            yield from self._go(np.array([*self._tool[:2], OVER_M, self._tool[3]]))

    def _go(
        self, pose: FloatArray, within_m: float = 0.01, max_steps: int = 12
    ) -> Iterator[FloatArray]:
        """Goes straight to a pose, or as near as it comes in some steps."""
        for _ in range(max_steps):
            if np.linalg.norm(self._tool[:3] - pose[:3]) < within_m:
                return
            yield pose

    def _push(self) -> Iterator[FloatArray]:
        while self._far() > _NEAR_M:
            way = (self._goal - self._object[:2]) / self._far()
            miss = self._misses()
            aside = self._rng.choice((-1, 1)) * self._rng.uniform(0.02, 0.035) if miss else 0.0
            behind = self._rng.uniform(*_BEHIND_M)
            begin = self._object[:2] - behind * way + aside * np.array([-way[1], way[0]])
            yield from self._lift()
            yield from self._go(np.array([*begin, OVER_M, 0.0]), 0.015)
            self._is_free = False
            yield from self._go(np.array([*begin, _DOWN_M, 0.0]), 0.008, 5)
            yield from self._follow(way, miss)

    def _follow(self, way: FloatArray, miss: bool) -> Iterator[FloatArray]:
        """Pushes until the object is there, or is no longer in front of the tool."""
        for step in range(12):
            if self._far() < _NEAR_M or (miss and step > 4):
                break
            way = way if miss else (self._goal - self._object[:2]) / self._far()
            offset = self._tool[:2] - self._object[:2]
            beside = float(offset @ (-way[1], way[0]))
            if not miss and (abs(beside) > _BESIDE_M or offset @ way > 0):
                return
            length = min(_STEP_M, self._far() + 0.004) if offset @ way > -0.035 else _STEP_M
            ahead = self._tool[:2] + length * way
            ahead = ahead - (0.0 if miss else beside) * np.array([-way[1], way[0]])
            yield np.array([*ahead, _DOWN_M, 0.0])
        back = self._tool[:2] - 0.02 * way
        yield np.array([*back, _DOWN_M + 0.01, 0.0])

    def _carry(self) -> Iterator[FloatArray]:
        while self._far() > 2 * _NEAR_M:
            miss = self._misses()
            aside = self._rng.normal(0, 0.025, 2) if miss else np.zeros(2)
            place = between_fingers(self._object[:2] + aside)
            yield from self._lift()
            yield from self._go(np.array([*place, OVER_M, OPEN_M]))
            place, self._is_free = between_fingers(self._object[:2] + aside), False
            yield from self._go(np.array([*place, GRASP_M, OPEN_M]), 0.006, 6)
            for _ in range(2):
                yield np.array([*self._tool[:2], GRASP_M, 0.0])
            yield from self._go(np.array([*self._tool[:2], OVER_M, 0.0]))
            if self._object[2] < 0.03:  # it slipped, or was missed
                yield np.array([*self._tool[:3], OPEN_M])
                continue
            aside = self._rng.normal(0, 0.03, 2) if self._misses() else np.zeros(2)
            goal = np.clip(self._goal + aside, *REGION)
            place = between_fingers(goal)
            yield from self._go(np.array([*place, OVER_M, 0.0]))
            place = goal - (self._object[:2] - self._tool[:2])  # where it is held
            yield from self._go(np.array([*place, GRASP_M + 0.002, 0.0]), 0.008, 6)
            for _ in range(2):
                yield np.array([*self._tool[:3], OPEN_M])
            yield from self._go(np.array([*self._tool[:2], OVER_M, OPEN_M]))
