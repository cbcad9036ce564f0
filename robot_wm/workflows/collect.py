"""Collects demonstrations of a scripted expert in simulation as a LeRobot v3 dataset."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Annotated

import numpy as np
from msgspec import Meta

from robot_wm.data import DatasetWriter
from robot_wm.deployment.settings import SimulationSettings
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
        num_episodes: Number of demonstrations.
        seed: Seed of everything that is random; its episodes are never those of a manifest.
        num_workers: Number of processes that simulate.
    """

    out: str
    env: SimulationSettings = SimulationSettings()
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
        UserError: the control rate is not a whole number of frames per second, or the task has no
            expert.
        FileExistsError: `out` is not empty.
    """
    out = output_dir(settings.out)
    simulation = build_simulation(settings.env)
    env = simulation.env
    observation = env.observe()
    cameras = {name: (im.shape[0], im.shape[1]) for name, im in observation.images.items()}
    spec, fps = env.action_spec, round(1 / env.control_dt)
    if abs(fps * env.control_dt - 1) > 1e-6:
        raise UserError(
            f"control_dt: the env's is {env.control_dt:g} s; a LeRobot dataset needs a whole "
            f"number of frames per second"
        )
    names = {name: tuple(values) for name, values in privileged(env).items()}
    env.close()
    first = settings.seed * SEEDS_PER_RUN
    seeds = range(first, first + settings.num_episodes)
    progress = Progress("collect", "episode")
    ends = []
    with DatasetWriter(
        out,
        fps=fps,
        robot_type=simulation.robot.name,
        cameras=cameras,
        state_names=spec.names,
        action_names=spec.names,
        extra=names,
    ) as writer:
        for demonstration in _demonstrations(settings, seeds):
            num_frames = len(demonstration.states)
            # No action follows the last frame: its action is to stay.
            actions = np.concatenate((demonstration.actions, np.zeros((1, spec.size))))
            for t in range(num_frames):
                writer.add(
                    {name: images[t] for name, images in demonstration.images.items()},
                    demonstration.states[t],
                    actions[t],
                    {name: values[t] for name, values in demonstration.extras.items()},
                )
            writer.end_episode(settings.env.instruction)
            ends.append(demonstration.final)
            progress(len(ends), settings.num_episodes)
    write_run(out, "collect", settings)
    return ends


def _demonstrations(settings: CollectSettings, seeds: range) -> Iterator[Demonstration]:
    """Yields demonstrations in the order of their seeds, whichever process makes them."""
    make = functools.partial(demonstrate, settings.env)
    yield from map_in_order(make, seeds, num_workers=settings.num_workers)
