"""One demonstration in a simulation: what the workers of `robot-wm collect` do.

They import neither torch nor the report: a process is there in half of the time.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from robot_wm.cli.build import Simulation, build_simulation
from robot_wm.runtime import Step, run_episode
from robot_wm.types import FloatArray, ImageArray, Judgement, Observation


@dataclass(frozen=True, eq=False)
class Demonstration:
    """One recorded episode: T frames, T - 1 actions, and how it ended."""

    images: dict[str, ImageArray]
    states: FloatArray
    actions: FloatArray
    extras: dict[str, FloatArray]
    final: Judgement


@functools.cache
def _worker_simulation(env: str) -> Simulation:
    """One simulation per process, from its configuration as YAML."""
    config = OmegaConf.create(env)
    assert isinstance(config, DictConfig)
    return build_simulation(config)


class _Tape:
    """Keeps an episode, and what only a simulator knows of it."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.observations: list[Observation] = []
        self.applied: list[FloatArray] = []
        self.extras = [_extras(env)]

    def record(self, step: Step) -> None:
        self.observations.append(step.observation)
        self.applied.append(step.applied)
        self.extras.append(_extras(self._env))

    def finish(self, last: Observation) -> None:
        self.observations.append(last)


def demonstrate(env: str, seed: int) -> Demonstration:
    """The episode of a seed, as the expert does it; `env` is the group as YAML."""
    simulation = _worker_simulation(env)
    (episode,) = simulation.episodes(str(seed), 1)
    goal = simulation.task.start(episode)
    tape = _Tape(simulation.env)
    run_episode(
        simulation.env,
        simulation.demonstrator(),
        goal,
        num_steps=simulation.num_steps,
        recorders=[tape],
    )
    observations = tape.observations
    cameras = observations[0].images
    return Demonstration(
        images={name: np.stack([o.images[name] for o in observations]) for name in cameras},
        states=np.stack([o.proprio for o in observations]),
        actions=np.stack(tape.applied),
        extras={name: np.stack([e[name] for e in tape.extras]) for name in tape.extras[0]},
        final=simulation.task.judge(),
    )


def _extras(env: Any) -> dict[str, FloatArray]:
    return {name: np.array([*values.values()]) for name, values in privileged(env).items()}


def privileged(env: Any) -> dict[str, dict[str, float]]:
    """What a simulator knows beyond the Env protocol, for probes; nothing for other envs."""
    return dict(env.privileged()) if hasattr(env, "privileged") else {}
