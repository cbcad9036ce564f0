"""Tasks whose goal is a picture of an object at another place: push it there, or carry it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from robot_wm.types import FloatArray, Goal, ImageArray, Judgement, Measure, UserError
from robot_wm.types.settings import Positive, checked
from sim_envs.placing import NUM_DRAWS, is_reached
from sim_envs.state import Displacement
from sim_envs.subgoals import carried_pictures, pushed_pictures
from sim_envs.tabletop import Tabletop
from sim_envs.trying import look_ahead, simulate

Goals = Literal["on", "far", "away", "moved", "around", "other", "turned15", "turned30"]

# Where the object starts and ends, x and y in the base frame, m.
REGION = np.array([[0.19, -0.11], [0.28, 0.11]])
# Where demonstrations park the arm, and where they never do: x, y, z and opening, m.
PARKED = np.array([[0.15, 0.0, 0.10, 0.0], [0.24, 0.15, 0.19, 0.05]])
AWAY = np.array([[0.24, -0.15, 0.05, 0.0], [0.32, 0.15, 0.09, 0.05]])
# Smallest distance of the tool from the object, seen from above, at the start and in the picture.
_CLEAR_M = 0.07
_DISC_M = 0.03  # radius of the forbidden disc of `around`
_DISPLACED_M = (0.04, 0.06)
_REACH_M = 0.03  # distance of the tool from the middle of an object that it pushes
_DONE_M = 0.01  # an object that is nearer to its goal is left alone


class MoveTask:
    """Judges where an object ends (robot_wm.types.Task).

    The goal picture shows the object at its goal, and the arm somewhere else: parked as in the
    demonstrations, or where none of them leaves it.

    Attributes:
        seed: Seed of the current episode.

    Args:
        env: The arm on its table, with one object.
        way: `push`: the object may be anywhere in the gripper's way; `carry`: it must also be let
            go.
        goals: List of episodes: `on`: as demonstrated; `far`: farther than any demonstration;
            `away`: the picture shows the arm where no demonstration leaves it; `moved`: the object
            is displaced in mid-episode; `around`: a forbidden disc lies on the straight way;
            `other`: a cube of another size or with less friction; `turned15`, `turned30`: the
            arm's x and y axes are turned by so many degrees.
        subgoals: Whether pictures of sub-goals come before the goal picture: halfway, or beside the
            disc; `carry`: in the gripper, and held over the goal, or beside the disc.
        success_m: An episode succeeds if the object ends nearer than this to its goal, m.

    Raises:
        UserError: the env has not exactly one object.
    """

    seed: int

    @checked
    def __init__(
        self,
        env: Tabletop,
        *,
        way: Literal["push", "carry"] = "push",
        goals: Goals = "on",
        subgoals: bool = False,
        success_m: Positive = 0.03,
    ) -> None:
        if len(env.objects) != 1:
            raise UserError(f"objects: got {', '.join(env.objects) or 'none'}, want 1 to move")
        self._env, self._way, self._goals, self._success_m = env, way, goals, success_m
        self._subgoals = subgoals
        (self._object,) = env.objects
        self._goal = np.zeros(3)
        self._arm = np.zeros(4)
        self._disc: FloatArray | None = None
        self._entered = False
        self.seed = 0

    @property
    def env(self) -> Tabletop:
        """See `Task.env`."""
        return self._env

    @property
    def goals(self) -> str:
        """Name of the list of episodes."""
        return self._goals

    @property
    def num_steps(self) -> int:
        """Actions per episode."""
        return 60 if self._way == "carry" else 55 if self._goals == "far" else 40

    @property
    def num_hold_steps(self) -> int:
        """Actions of no motion after them, before the object is judged."""
        return 3

    @property
    def way(self) -> str:
        """How the object is moved: `push` or `carry`."""
        return self._way

    @property
    def object_name(self) -> str:
        """Name of the object that is moved."""
        return self._object

    @property
    def object_goal(self) -> FloatArray:
        """True pose of the object in the goal picture `[3]`: x, y in m and yaw in rad."""
        return self._goal.copy()

    def retarget(self, goal: FloatArray) -> None:
        """Judges by another goal from now on: the object's x, y in m and yaw in rad, `[3]`."""
        self._goal = np.array(goal, np.float64)

    def episode(self, seed: int) -> dict[str, object]:
        """See `Task.episode`.

        Args:
            seed: Seed of the episode.

        Returns:
            `seed`; `start` and `arm`, the gripper's poses `[4]` at the start and in the goal
            picture, m; `cube` and `goal`, the object's `[3]` (x, y in m, yaw in rad); what makes
            the list: `displaced` (step; x and y in m), `disc` (x and y in m), `half_size_m`,
            `friction`, `turn_deg`.

        Raises:
            UserError: the region has no room for an episode.
        """
        lists = get_args(Goals)
        rng = np.random.default_rng((seed, lists.index(self._goals), self._way == "carry"))
        usual = _DISTANCES_M[self._way, "on"]
        nearest, farthest = _DISTANCES_M.get((self._way, self._goals), usual)
        robot = self._env.robot
        for _ in range(NUM_DRAWS):
            start = rng.uniform(robot.workspace_low, robot.workspace_high)
            cube, goal = (np.append(rng.uniform(*REGION), rng.uniform(-np.pi, np.pi))
                          for _ in range(2))  # fmt: skip
            arm = draw_parked(rng, AWAY if self._goals == "away" else PARKED)
            distance = np.linalg.norm(goal[:2] - cube[:2])
            clear = min(np.linalg.norm(start[:2] - cube[:2]), np.linalg.norm(arm[:2] - goal[:2]))
            if nearest <= distance <= farthest and clear >= _CLEAR_M and is_reached(robot, start):
                break
        else:
            raise UserError(
                f"episode: no room for a start and a goal {nearest} to {farthest} m apart in the "
                f"workspace of {robot.name}"
            )
        episode: dict[str, object] = {
            "seed": seed,
            **{name: value.round(5).tolist() for name, value in
               (("start", start), ("arm", arm), ("cube", cube), ("goal", goal))},
        }  # fmt: skip
        return {**episode, **self._draw_list(rng, cube, goal)}

    def _draw_list(
        self, rng: np.random.Generator, cube: FloatArray, goal: FloatArray
    ) -> dict[str, object]:
        """Draws what sets an episode apart from those that were demonstrated."""
        if self._goals == "moved":
            while True:
                angle, far = rng.uniform(-np.pi, np.pi), rng.uniform(*_DISPLACED_M)
                by = far * np.array([np.cos(angle), np.sin(angle)])
                if ((REGION[0] <= cube[:2] + by) & (cube[:2] + by <= REGION[1])).all():
                    return {"displaced": [int(rng.integers(8, 20)), *by.round(5).tolist()]}
        if self._goals == "around":
            return {"disc": ((cube[:2] + goal[:2]) / 2).round(5).tolist()}
        if self._goals == "other":
            kind = rng.integers(3)
            return {"friction": 0.25} if kind == 2 else {"half_size_m": (0.01, 0.02)[kind]}
        if self._goals.startswith("turned"):
            return {
                "turn_deg": float(self._goals.removeprefix("turned")) * int(rng.choice((-1, 1)))
            }
        return {}

    def start(self, episode: Mapping[str, object]) -> list[Goal]:
        """See `Task.start`."""
        missing = {"seed", "start", "arm", "cube", "goal"} - set(episode)
        if missing:
            raise UserError(f"episode: got keys {sorted(episode)}, missing {sorted(missing)}")
        start, arm, cube, goal = (
            np.asarray(episode[key], float) for key in ("start", "arm", "cube", "goal")
        )
        env, self.seed = self._env, int(str(episode["seed"]))
        env.randomize_appearance(self.seed)
        env.change_object(
            self._object,
            half_size_m=_number(episode, "half_size_m"),
            friction=_number(episode, "friction"),
        )
        disc, displaced = episode.get("disc"), episode.get("displaced")
        self._disc, self._entered = None if disc is None else np.asarray(disc, float), False
        env.turn(0.0)
        pictures: list[Goal] = []
        if self._subgoals:
            take = pushed_pictures if self._way == "push" else carried_pictures
            pictures = take(env, self._object, cube, goal, self._disc)
        env.turn(np.radians(_number(episode, "turn_deg") or 0.0))
        env.place(arm, {self._object: goal})
        pictures.append(Goal(images=env.observe().images))
        self._arm, self._goal = env.proprio(), goal
        env.place(start, {self._object: cube})
        if displaced is not None:
            step, *by = np.asarray(displaced, float)
            env.displacement = Displacement(self._object, int(step), np.array(by))
        return pictures

    def judge(self) -> Judgement:
        """Measures the distance of the object from its place in the goal picture."""
        env, place = self._env, self._env.object_pose(self._object)
        distance = Measure(_far(place, self._goal), "m", enough=self._success_m)
        measures = {"distance": distance, "arm": Measure(_far(env.proprio(), self._arm), "m")}
        success = distance.reached
        if self._disc is not None:
            apart = _far(place, self._disc)
            self._entered |= apart < _DISC_M
            measures["disc"] = Measure(apart, "m", enough=_DISC_M, rising=True)
            success &= not self._entered
        if self._way == "carry":
            success &= not env.is_touched(self._object)
        return Judgement(success, measures, to_go=self._to_go())

    def _to_go(self) -> float:
        """Estimates the way that is left, m, for oracles: without it, no search finds contact."""
        env, (x, y, z, _) = self._env, self._env.object_pose(self._object)
        place, tool = np.array([x, y, z]), env.proprio()
        ahead = self._goal[:2] - place[:2]
        far = float(np.linalg.norm(ahead))
        if self._way == "push":
            behind = place - np.append(_REACH_M * ahead / max(far, 1e-6), 0.0)
            approach = 0.0 if far < _DONE_M else float(np.linalg.norm(tool[:3] - behind))
            return far + 0.3 * approach + self._entered
        touching = {name for pair in env.contacts() for name in pair if self._object in pair}
        if far < _DONE_M:
            left = 0.01 * len(touching)
        elif len(touching) > 2:  # the object and two fingers
            left = 0.05
        else:
            left = 0.15 + float(np.linalg.norm(tool[:3] - place))
        return far + left + self._entered

    def simulate(self, actions: FloatArray) -> FloatArray:
        """See `Task.simulate`."""
        entered = self._entered

        def begin() -> None:
            self._entered = entered

        costs = simulate(self._env, actions, self.judge, begin)
        begin()
        return costs

    def look_ahead(self, actions: FloatArray) -> list[list[Mapping[str, ImageArray]]]:
        """See `Task.look_ahead`."""
        return look_ahead(self._env, actions)


# Smallest and largest distance of the object from its goal, m.
_DISTANCES_M = {
    ("push", "on"): (0.08, 0.16),
    ("push", "far"): (0.16, 0.24),
    ("push", "around"): (0.12, 0.16),
    ("carry", "on"): (0.08, 0.20),
    ("carry", "far"): (0.20, 0.24),
    ("carry", "around"): (0.12, 0.20),
}


def draw_parked(rng: np.random.Generator, region: FloatArray = PARKED) -> FloatArray:
    """Draws a pose of the gripper `[4]`, m, on either side of the arm, in a region `[2, 4]`."""
    pose = rng.uniform(*region)
    if region[0, 1] >= 0:  # given for one side
        pose[1] *= rng.choice((-1.0, 1.0))
    return pose


def _far(one: FloatArray, other: FloatArray) -> float:
    return float(np.linalg.norm(one[:2] - other[:2]))


def _number(episode: Mapping[str, object], key: str) -> float | None:
    value = episode.get(key)
    return None if value is None else float(str(value))


@checked
def push_task(
    env: Tabletop, *, goals: Goals = "on", subgoals: bool = False, success_m: Positive = 0.03
) -> MoveTask:
    """Makes the task of pushing an object to where the goal picture shows it.

    Args:
        env: The arm on its table, with one object.
        goals: List of episodes, as of `MoveTask`.
        subgoals: Whether pictures of sub-goals come before the goal picture.
        success_m: An episode succeeds if the object ends nearer than this to its goal, m.

    Returns:
        The task.
    """
    return MoveTask(env, way="push", goals=goals, subgoals=subgoals, success_m=success_m)


@checked
def pick_place_task(
    env: Tabletop, *, goals: Goals = "on", subgoals: bool = False, success_m: Positive = 0.03
) -> MoveTask:
    """Makes the task of grasping an object and putting it where the goal picture shows it.

    Args:
        env: The arm on its table, with one object.
        goals: List of episodes, as of `MoveTask`.
        subgoals: Whether pictures of sub-goals come before the goal picture.
        success_m: An episode succeeds if the object ends nearer than this to its goal, m, and is
            let go.

    Returns:
        The task.
    """
    return MoveTask(env, way="carry", goals=goals, subgoals=subgoals, success_m=success_m)
