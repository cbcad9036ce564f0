"""From configuration to objects: the only place that instantiates by name, from our own YAML."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from hardware.governor import Governor
from robot_wm.cli.config import plain
from robot_wm.contracts import check_env, check_task, hold_to, is_ours
from robot_wm.deployment.extensions import check_parts
from robot_wm.deployment.robots import build_arm
from robot_wm.deployment.settings import LimitSettings
from robot_wm.kinematics import RobotModel
from robot_wm.types import Controller, Env, FloatArray, Task, UserError, read_settings
from sim_envs.manifest import episodes_of
from sim_envs.tabletop import Tabletop


@dataclass(frozen=True, eq=False)
class Simulation:
    """An env, the task on it, and what its configuration says about episodes.

    Attributes:
        name: of the arm and the task, such as `"so100_reach"`.
        robot: the arm.
        env: what is acted on.
        task: judges.
        num_steps: actions in an episode.
        config: the `env` group.
    """

    name: str
    robot: RobotModel
    env: Env
    task: Task
    num_steps: int
    config: DictConfig

    def episodes(self, split: str, num_episodes: int) -> list[Mapping[str, object]]:
        """The first episodes of a split of the task's manifest."""
        return episodes_of(self.name, self.task.episode, split, num_episodes)

    def demonstrator(self) -> Controller:
        """The task's scripted expert.

        Raises:
            UserError: it has none.
        """
        if self.config.demonstrator is None:
            raise UserError(f"env.demonstrator: {self.name} has none")
        expert = instantiate(self.config.demonstrator, task=self.task, num_steps=self.num_steps)
        return check_parts(expert, str(self.config.demonstrator._target_), ("reset", "act"))


def build_simulation(config: DictConfig) -> Simulation:
    """The env and task of an `env` group.

    Raises:
        UserError: a value that the env does not take.
    """
    if config.num_steps < 1:
        raise UserError(f"env.num_steps: got {config.num_steps}, want at least 1")
    limits = read_settings("env.limits", plain(config.limits), LimitSettings)
    robot = build_arm(str(config.arm), limits)

    def make_env() -> Env:
        env = instantiate(config.robot, robot=robot)
        if config.governed and not hasattr(env, "govern"):
            raise UserError(
                f"env.governed: {config.robot._target_} has no governor; want env.governed=false"
            )
        if config.governed:
            govern(env, robot)
        return env

    env = make_env()
    hold_to(lambda: check_env(make_env), env)
    task = instantiate(config.task, env=env)
    parts = ("env", "episode", "start", "judge", "simulate", "look_ahead")
    check_parts(task, str(config.task._target_), parts)
    hold_to(lambda: check_task(lambda: instantiate(config.task, env=make_env())), task)
    if config.name == "reach" and not is_ours(task):
        raise UserError(f"env.name: got reach, want a name for {config.task._target_}")
    return Simulation(f"{robot.name}_{config.name}", robot, env, task, config.num_steps, config)


def govern(env: Tabletop, robot: RobotModel) -> None:
    """Puts the governor that drives the real arm between the env and its simulated motors.

    Raises:
        UserError: the arm stands where its limits do not let it.
    """
    limits = robot.limits
    probe = Governor(limits, robot.chain.corners, limits.seat(robot.home))
    for share in itertools.product((0.0, 1.0), repeat=4):  # an episode may begin at any of them
        wish = robot.workspace_low + share * (robot.workspace_high - robot.workspace_low)
        joints, _ = robot.reach(wish[:3], robot.home)
        problem = probe.problem(limits.seat(robot.opened(joints, wish[3])))
        if problem:
            raise UserError(f"env.limits: the arm may not stand at {wish.round(3)} m: {problem}")

    def begin(joints: FloatArray) -> GovernedTicks:
        return GovernedTicks(Governor(limits, robot.chain.corners, limits.seat(joints)))

    env.govern(begin, tick_s=float(limits.tick_s))


class GovernedTicks:
    """The governor of the real arm as a Tabletop takes one (sim_envs.tabletop.TickGovernor)."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor

    def step(self, target: FloatArray) -> FloatArray:
        return self._governor.step(target).joints

    def copy(self) -> GovernedTicks:
        return GovernedTicks(copy.copy(self._governor))  # it changes none of its arrays in place


def instantiate(config: DictConfig, **facts: Any) -> Any:
    """hydra's instantiate, with the constructor's own complaint as a ValueError.

    Raises:
        UserError: the constructor refuses its arguments.
    """
    try:  # hydra would make configurations of facts that are dataclasses
        make = hydra.utils.instantiate(config, _partial_=True)
        return functools.partial(make, **facts) if config.get("_partial_") else make(**facts)
    except InstantiationException as error:
        raise UserError(str(error.__cause__ or error)) from error
    except TypeError as error:
        raise UserError(f"{config.get('_target_')}: {error}") from error
