"""From configuration to objects: the only place that instantiates by name, from our own YAML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hydra.utils
import numpy as np
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from hardware.governor import Governor
from hardware.limits import Limits
from hardware.mjcf import load_chain
from robot_wm.types import Controller, Env, FloatArray, Task
from sim_envs.so100_env import SO100Env
from sim_envs.so100_scene import EE_SITE, JOINTS, so100_scene


@dataclass(frozen=True, eq=False)
class Simulation:
    """An env, the task on it, and what its configuration says about episodes."""

    name: str
    env: Env
    task: Task
    num_steps: int
    config: DictConfig

    def episodes(self, split: str, num_episodes: int) -> list[dict[str, object]]:
        """The first episodes of a split of the task's manifest."""
        return instantiate(self.config.manifest, split=split, num_episodes=num_episodes)

    def demonstrator(self) -> Controller:
        """The task's scripted expert."""
        return instantiate(self.config.demonstrator, task=self.task, num_steps=self.num_steps)


def build_simulation(config: DictConfig) -> Simulation:
    """The env and task of an `env` group.

    Raises:
        ValueError: a value that the env does not take.
    """
    if config.num_steps < 1:
        raise ValueError(f"env.num_steps: got {config.num_steps}, want at least 1")
    env = instantiate(config.robot)
    if config.governed:
        govern(env, config.governor)
    task = instantiate(config.task, env=env)
    return Simulation(config.name, env, task, config.num_steps, config)


def govern(env: SO100Env, config: DictConfig) -> None:
    """Puts the governor that drives the real arm between the env and its simulated motors.

    Raises:
        ValueError: limits that make no sense, or in which the arm does not stand.
    """
    chain = load_chain(*so100_scene(), joints=JOINTS, tool=EE_SITE)
    settings: Any = OmegaConf.to_container(config)
    low, high = chain.joint_range.T
    for name in ("max_speed", "max_acceleration"):
        settings[name] = np.broadcast_to(settings[name], low.shape)
    limits = Limits(low=low, high=high, **settings)

    def begin(joints: FloatArray) -> Callable[[FloatArray], FloatArray]:
        governor = Governor(limits, chain.corners, limits.seat(joints))
        return lambda target: governor.step(target).joints

    env.govern(begin, tick_s=settings["tick_s"])


def pick_device(name: str) -> torch.device:
    """`auto` is a CUDA device where there is one, else the processor.

    Raises:
        ValueError: not a device of this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device: got {name!r}, want auto, cpu, or a GPU of this machine"
        ) from error
    return device


def instantiate(config: DictConfig, **facts: Any) -> Any:
    """hydra's instantiate, with the constructor's own complaint as a ValueError.

    Raises:
        ValueError: the constructor refuses its arguments.
    """
    try:
        return hydra.utils.instantiate(config, **facts)
    except InstantiationException as error:
        raise ValueError(str(error.__cause__ or error)) from error
