"""Collects demonstrations of a scripted expert in simulation as a LeRobot v3 dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from robot_wm.data import DatasetWriter
from robot_wm.deployment.settings import ENVS, SimulationSettings
from robot_wm.deployment.simulation import SEEDS_PER_RUN, RunSeed, build_simulation
from robot_wm.files import output_dir
from robot_wm.progress import Progress
from robot_wm.provenance import write_run
from robot_wm.types import Count, Judgement, Settings, UserError
from robot_wm.workflows.demonstrations import Demonstration, demonstrate, privileged
from robot_wm.workflows.workers import map_in_order


class CollectSettings(Settings, frozen=True, kw_only=True):
    """What is demonstrated, and where it is written.

    Attributes:
        out: Directory of the dataset.
        env: The arm and the task.
        also: Names of further environments of ours whose tasks take turns with it, episode by
            episode; on the same arm, with the simulator of `env`.
        num_episodes: Number of demonstrations.
        seed: Seed of everything that is random; its episodes are never those of a manifest.
        num_workers: Number of processes that simulate.
    """

    out: str
    env: SimulationSettings = SimulationSettings()
    also: tuple[str, ...] = ()
    num_episodes: Annotated[int, Meta(ge=1, le=SEEDS_PER_RUN)] = 250
    seed: RunSeed = 0
    num_workers: Count = 2


def collect(settings: CollectSettings) -> list[Judgement]:
    """Writes a dataset of demonstrations.

    Each episode is on disk before the next begins: an interrupted collection loses at most one.

    Args:
        settings: What is demonstrated, and where it is written.

    Returns:
        The judgement at the end of every episode.

    Raises:
        UserError: the control rate is not a whole number of frames per second, a task has no
            expert, or the environments do not fit into one dataset.
        FileExistsError: `out` is not empty.
    """
    out = output_dir(settings.out)
    envs = (settings.env, *(_beside(settings.env, name) for name in settings.also))
    recording, *others = map(_recording, envs)
    for name, other in zip(settings.also, others, strict=True):
        if other != recording:
            raise UserError(
                f"also: {name} has other pictures, actions, numbers or another rate than `env` has"
            )
    first = settings.seed * SEEDS_PER_RUN
    seeds = range(first, first + settings.num_episodes)
    progress = Progress("collect", "episode")
    ends = []
    with DatasetWriter(
        out,
        fps=recording.fps,
        robot_type=recording.robot,
        cameras=recording.cameras,
        state_names=recording.names,
        action_names=recording.names,
        extra=recording.extra,
    ) as writer:
        for demonstration in _demonstrations(settings, envs, seeds):
            num_frames = len(demonstration.states)
            # No action follows the last frame: its action is to stay.
            actions = np.concatenate((demonstration.actions, np.zeros((1, len(recording.names)))))
            for t in range(num_frames):
                writer.add(
                    {name: images[t] for name, images in demonstration.images.items()},
                    demonstration.states[t],
                    actions[t],
                    {name: values[t] for name, values in demonstration.extras.items()},
                )
            writer.end_episode(demonstration.instruction)
            ends.append(demonstration.final)
            progress(len(ends), settings.num_episodes)
    write_run(out, "collect", settings)
    return ends


@dataclass(frozen=True)
class _Recording:
    """What the episodes of one dataset share: what an env's pictures and numbers are."""

    robot: str
    fps: int
    cameras: dict[str, tuple[int, int]]
    names: tuple[str, ...]
    actions: tuple[tuple[float, float], ...]
    extra: dict[str, tuple[str, ...]]


def _beside(env: SimulationSettings, name: str) -> SimulationSettings:
    """Returns an environment of ours, by its name, on the arm and in the simulator of another."""
    if name not in ENVS:
        raise UserError(f"also: got {name!r}, want one of {', '.join(ENVS)}")
    if ENVS[name].arm != env.arm:
        raise UserError(f"also: {name} is of a {ENVS[name].arm}, `env` of a {env.arm}")
    return msgspec.structs.replace(ENVS[name], simulator=env.simulator, governed=env.governed)


def _recording(settings: SimulationSettings) -> _Recording:
    if settings.demonstrator is None:
        raise UserError(f"env.demonstrator: {settings.name} has none")
    simulation = build_simulation(settings)
    env = simulation.env
    try:
        spec = env.action_spec
        images, fps = env.observe().images, round(1 / env.control_dt)
        if abs(fps * env.control_dt - 1) > 1e-6:
            raise UserError(
                f"control_dt: the env's is {env.control_dt:g} s; a LeRobot dataset needs a whole "
                f"number of frames per second"
            )
        return _Recording(
            robot=simulation.robot.name,
            fps=fps,
            cameras={name: (im.shape[0], im.shape[1]) for name, im in images.items()},
            names=spec.names,
            actions=tuple(zip(spec.low.tolist(), spec.high.tolist(), strict=True)),
            extra={name: tuple(values) for name, values in privileged(env).items()},
        )
    finally:
        env.close()


def _demonstrations(
    settings: CollectSettings, envs: Sequence[SimulationSettings], seeds: range
) -> Iterator[Demonstration]:
    """Yields demonstrations in the order of their seeds, whichever process makes them."""
    jobs = [(envs[i % len(envs)], seed) for i, seed in enumerate(seeds)]
    yield from map_in_order(_demonstrate, jobs, num_workers=settings.num_workers)


def _demonstrate(job: tuple[SimulationSettings, int]) -> Demonstration:
    return demonstrate(*job)
