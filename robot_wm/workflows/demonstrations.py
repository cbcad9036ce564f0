"""Records one demonstration in a simulation, in the worker processes of `collect`.

They import neither torch nor the report, so that a process starts in half of the time.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_wm.deployment.settings import SimulationSettings
from robot_wm.deployment.simulation import Simulation, build_simulation
from robot_wm.runtime import Step, run_episode
from robot_wm.types import FloatArray, ImageArray, Judgement, Observation


@dataclass(frozen=True, eq=False)
class Demonstration:
    """One recorded episode of T frames and T - 1 actions, up to where the expert was done.

    Attributes:
        instruction: What was demonstrated, in words.
        images: Pictures of each camera, `[T, height, width, 3]`, uint8 RGB.
        states: Proprioception, `[T, Q]`.
        actions: Actions that were applied, `[T - 1, A]`, in the robot's units.
        extras: Quantities that only a simulator knows, `[T, ...]`, by name.
        final: Judgement at the end.
    """

    instruction: str
    images: dict[str, ImageArray]
    states: FloatArray
    actions: FloatArray
    extras: dict[str, FloatArray]
    final: Judgement


@functools.lru_cache(maxsize=4)
def _simulation_of_process(settings: SimulationSettings) -> Simulation:
    """Builds a simulation of this process, once."""
    return build_simulation(settings)


class _Tape:
    """Records an episode, with the quantities that only a simulator knows."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.observations: list[Observation] = []
        self.applied: list[FloatArray] = []
        self.extras = [_extras(env)]
        self.num_steps = 0  # until the expert was done

    def record(self, step: Step) -> None:
        """Keeps a step."""
        self.observations.append(step.observation)
        self.applied.append(step.applied)
        self.extras.append(_extras(self._env))
        if step.decision.kind != "arrived":
            self.num_steps = len(self.applied)

    def finish(self, last: Observation) -> None:
        """Keeps the last observation."""
        self.observations.append(last)


def demonstrate(settings: SimulationSettings, seed: int) -> Demonstration:
    """Records the episode of a seed, driven by the expert."""
    simulation = _simulation_of_process(settings)
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
    num_frames = max(tape.num_steps, 1) + 1
    observations, extras = tape.observations[:num_frames], tape.extras[:num_frames]
    cameras = observations[0].images
    return Demonstration(
        instruction=settings.instruction,
        images={name: np.stack([o.images[name] for o in observations]) for name in cameras},
        states=np.stack([o.proprio for o in observations]),
        actions=np.stack(tape.applied[: num_frames - 1]),
        extras={name: np.stack([e[name] for e in extras]) for name in extras[0]},
        final=simulation.task.judge(),
    )


def _extras(env: Any) -> dict[str, FloatArray]:
    return {name: np.array([*values.values()]) for name, values in privileged(env).items()}


def privileged(env: Any) -> dict[str, dict[str, float]]:
    """Returns what a simulator knows beyond the Env protocol, for probes; empty for other envs."""
    return dict(env.privileged()) if hasattr(env, "privileged") else {}
