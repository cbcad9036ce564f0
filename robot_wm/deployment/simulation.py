"""Makes a simulation from settings: env, task and demonstrator."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from hardware.governor import Governor
from robot_wm.contracts import check_env, check_task, hold_to, is_ours
from robot_wm.deployment.extensions import check_parts
from robot_wm.deployment.robots import build_arm
from robot_wm.deployment.settings import SimulationSettings
from robot_wm.kinematics import RobotModel
from robot_wm.types import Controller, Env, FloatArray, Task, UserError
from sim_envs.manifest import DEV_SEED, episodes_of
from sim_envs.move import pick_place_task, push_task
from sim_envs.move_demonstrator import MoveDemonstrator
from sim_envs.play import Play
from sim_envs.reach import ReachTask
from sim_envs.reach_demonstrator import ReachDemonstrator
from sim_envs.scene import SCENE_VERSION as SCENE_VERSION
from sim_envs.tabletop import Tabletop

# Episode seeds of one `seed` of demonstrations; those of all are below the manifests'.
SEEDS_PER_RUN = 100_000
NUM_RUN_SEEDS = DEV_SEED // SEEDS_PER_RUN
RunSeed = Annotated[int, Meta(ge=0, lt=NUM_RUN_SEEDS)]
SIMULATORS = {"tabletop": Tabletop}
TASKS = {"reach": ReachTask, "push": push_task, "pick_place": pick_place_task}
DEMONSTRATORS = {
    "reach": ReachDemonstrator,
    "push": MoveDemonstrator,
    "pick_place": MoveDemonstrator,
}
PLAYERS = {"play": Play}
_NUM_STEPS = 20  # actions per episode of a task that asks for no other number


@dataclass(frozen=True, eq=False)
class Simulation:
    """An env, the task on it, and what its settings say about episodes.

    Attributes:
        name: Name of the arm and the task, such as `"so100_reach"`.
        robot: The arm.
        env: The env that actions are applied to.
        task: The task, which judges.
        num_steps: Actions per episode.
        num_hold_steps: Actions of no motion after them, before the episode is judged.
        settings: The settings that it was built from.
    """

    name: str
    robot: RobotModel
    env: Env
    task: Task
    num_steps: int
    num_hold_steps: int
    settings: SimulationSettings

    def episodes(self, split: str, num_episodes: int) -> list[Mapping[str, object]]:
        """Returns the first episodes of a split of the task's manifest."""
        return episodes_of(self.name, self.task.episode, split, num_episodes)

    def demonstrator(self) -> Controller:
        """Makes the task's scripted expert.

        Returns:
            The expert.

        Raises:
            UserError: the task has none.
        """
        part = self.settings.demonstrator
        if part is None:
            raise UserError(f"env.demonstrator: {self.name} has none")
        expert = part.make(
            DEMONSTRATORS, "env.demonstrator", task=self.task, num_steps=self.num_steps
        )
        return check_parts(expert, part.name, ("reset", "act"))


def resolved_simulation(settings: SimulationSettings) -> SimulationSettings:
    """Returns the same settings with every plain default of the parts filled in."""
    demonstrator = settings.demonstrator
    return msgspec.structs.replace(
        settings,
        simulator=settings.simulator.resolved(SIMULATORS),
        task=settings.task.resolved(TASKS),
        demonstrator=demonstrator and demonstrator.resolved(DEMONSTRATORS),
    )


def build_simulation(settings: SimulationSettings) -> Simulation:
    """Builds the env and the task of a simulation.

    Args:
        settings: Settings of the simulation.

    Returns:
        The simulation.

    Raises:
        UserError: the env or the task does not take a setting, or breaks its contract.
    """
    robot = build_arm(settings.arm, settings.limits)
    simulator, task_part = settings.simulator, settings.task

    def make_env() -> Env:
        env = simulator.make(SIMULATORS, "env.simulator", robot=robot)
        if settings.governed and not hasattr(env, "govern"):
            raise UserError(
                f"env.governed: {simulator.name} has no governor; want env.governed=false"
            )
        if settings.governed:
            govern(env, robot)
        return env

    env = make_env()
    hold_to(lambda: check_env(make_env), env)
    task = task_part.make(TASKS, "env.task", env=env)
    parts = ("env", "episode", "start", "judge", "simulate", "look_ahead")
    check_parts(task, task_part.name, parts)
    hold_to(lambda: check_task(lambda: task_part.make(TASKS, "env.task", env=make_env())), task)
    if settings.name == "reach" and not is_ours(task):
        raise UserError(f"env.name: got reach, want a name for {task_part.name}")
    goals = getattr(task, "goals", "on")  # a list of episodes of its own, beside the usual one
    name = f"{robot.name}_{settings.name}" + ("" if goals == "on" else f"_{goals}")
    num_steps = settings.num_steps or getattr(task, "num_steps", _NUM_STEPS)
    num_hold_steps = getattr(task, "num_hold_steps", 0)
    return Simulation(name, robot, env, task, num_steps, num_hold_steps, settings)


def govern(env: Tabletop, robot: RobotModel) -> None:
    """Puts the governor that drives the real arm between the env and its simulated motors.

    Args:
        env: The env; changed in place.
        robot: The arm, whose limits hold.

    Raises:
        UserError: the limits do not allow a pose in which an episode may begin.
    """
    limits = robot.limits
    probe = Governor(limits, robot.chain.corners, limits.clip_within_tolerance(robot.home))
    for share in itertools.product(
        (0.0, 1.0), repeat=4
    ):  # corners of the workspace, where an episode may begin
        pose = robot.workspace_low + share * (robot.workspace_high - robot.workspace_low)
        joints, _ = robot.reach(pose[:3], robot.home)
        problem = probe.problem(limits.clip_within_tolerance(robot.opened(joints, pose[3])))
        if problem:
            raise UserError(f"env.limits: the arm may not stand at {pose.round(3)} m: {problem}")

    def begin(joints: FloatArray) -> GovernedTicks:
        return GovernedTicks(
            Governor(limits, robot.chain.corners, limits.clip_within_tolerance(joints))
        )

    env.govern(begin, tick_s=float(limits.tick_s))


class GovernedTicks:
    """Adapts the governor to Tabletop (sim_envs.state.TickGovernor)."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor

    def step(self, target: FloatArray) -> FloatArray:
        """Returns the joints that the governor commands in one tick toward a target, `[J]`, rad."""
        return self._governor.step(target).joints

    def copy(self) -> GovernedTicks:
        """Copies the governor, so that actions can be tried on the copy."""
        return GovernedTicks(
            copy.copy(self._governor)
        )  # shallow: the governor changes no array in place
