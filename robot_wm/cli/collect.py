"""`robot-wm collect`: a scripted demonstrator in simulation, a LeRobot v3 dataset out."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from robot_wm.cli.build import build_simulation
from robot_wm.cli.console import Progress, finish, output_dir, say
from robot_wm.cli.demonstrating import Demonstration, demonstrate, privileged
from robot_wm.cli.provenance import write_run
from robot_wm.cli.workers import map_in_order
from robot_wm.data import DatasetWriter
from robot_wm.types import Judgement, UserError

SEEDS_PER_RUN = 100_000  # episodes of one `seed`; the manifests begin above 80 of them


def run(config: DictConfig) -> None:
    """Collects, then says how well the demonstrator did."""
    out = output_dir(config.out)
    ends = collect(config, out)
    write_run(out, "collect", config)
    from robot_wm.report.units import show  # Matplotlib takes a second

    name, measure = ends[0].first
    values = [end.first[1].value for end in ends]
    success, median = float(np.mean([end.success for end in ends])), float(np.median(values))
    say(
        f"{len(ends)} episodes in {config.out}; the demonstrator succeeds in {success:.1%}, "
        f"median {name} {show(median, measure.unit)}"
    )
    finish(
        {
            "episodes": len(ends),
            "demonstrator_success": success,
            f"demonstrator_{name}_{measure.unit}_median": median,
        }
    )


def collect(config: DictConfig, out: Path) -> list[Judgement]:
    """Writes the dataset; returns how every episode ended.

    Each episode is on disk before the next begins: an interrupted collection loses at most one.

    Raises:
        UserError: a number out of range, or a control rate that no whole fps says.
        FileExistsError: `out` is not empty.
    """
    check_collection(config.num_episodes, config.seed)
    simulation = build_simulation(config.env)
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
    first = config.seed * SEEDS_PER_RUN
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
        for demonstration in _demonstrations(config, range(first, first + config.num_episodes)):
            num_frames = len(demonstration.states)
            # The last frame has nothing after it: its action is to stay.
            actions = np.concatenate((demonstration.actions, np.zeros((1, spec.size))))
            for t in range(num_frames):
                writer.add(
                    {name: images[t] for name, images in demonstration.images.items()},
                    demonstration.states[t],
                    actions[t],
                    {name: values[t] for name, values in demonstration.extras.items()},
                )
            writer.end_episode(config.env.instruction)
            ends.append(demonstration.final)
            progress(len(ends), config.num_episodes)
    return ends


def check_collection(num_episodes: int, seed: int) -> None:
    """Keeps demonstrations apart from the manifests.

    Raises:
        UserError: a number out of range.
    """
    if not 1 <= num_episodes <= SEEDS_PER_RUN:
        raise UserError(f"num_episodes: got {num_episodes}, want 1 to {SEEDS_PER_RUN}")
    if not 0 <= seed < 80:
        raise UserError(f"seed: got {seed}, want 0 to 79: the manifests lie beyond")


def _demonstrations(config: DictConfig, seeds: range) -> Iterator[Demonstration]:
    """Demonstrations in the order of their seeds, whoever makes them."""
    make = functools.partial(demonstrate, OmegaConf.to_yaml(config.env, resolve=True))
    yield from map_in_order(make, seeds, num_workers=config.num_workers)
