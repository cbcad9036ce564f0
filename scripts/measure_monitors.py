"""Measures what the monitors of a checkpoint report of runs as they are, and with a broken arm.

usage: python scripts/measure_monitors.py [NUM_EPISODES] [FIRST_SEED] [checkpoint=... key=value ...]

Every episode runs three times: as it is, with an arm that stands, and with one that does half;
both say that they did all that was asked of them. Then a black picture is held beside the training
frames, by the encoder alone. Prints a table, and one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

import numpy as np

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.config import load_command
from robot_wm.controller import GoalSequence
from robot_wm.deployment.control import make_controller, step_energy
from robot_wm.deployment.simulation import Simulation, build_simulation
from robot_wm.monitors import MonitorGuard, Monitors, MonitorSettings, load_reference
from robot_wm.proposals import load_prior
from robot_wm.runtime import GuardError, Step, run_episode
from robot_wm.types import Env, FloatArray, Observation
from sim_envs.manifest import DEV_SEED

KINDS = {"as it is": 1.0, "stands": 0.0, "half": 0.5}


class Lying:
    """An env whose arm does a share of the action, and reports all of it (robot_wm.types.Env)."""

    def __init__(self, env: Env, share: float) -> None:
        self._env, self._share = env, share
        self.action_spec, self.control_dt = env.action_spec, env.control_dt

    def reset(self, seed: int) -> Observation:
        """Resets the env."""
        return self._env.reset(seed)

    def observe(self) -> Observation:
        """Observes the env."""
        return self._env.observe()

    def apply(self, action: FloatArray) -> FloatArray:
        """Applies a share of an action; returns what the arm claims to have done."""
        applied = self._env.apply(self._share * np.asarray(action))
        return applied if self._share == 1 else self.action_spec.clip(action)

    def stop(self) -> None:
        """Stops the arm."""
        self._env.stop()

    def close(self) -> None:
        """Closes the env."""
        self._env.close()


class _Count:
    """Counts decisions, and keeps the p-values of predictions."""

    def __init__(self) -> None:
        self.num_decisions, self.p_values = 0, []

    def record(self, step: Step) -> None:
        """Counts a step."""
        self.num_decisions += 1
        if "p_value" in step.numbers:
            self.p_values.append(step.numbers["p_value"])

    def finish(self, last: Observation) -> None:
        """Does nothing."""
        pass


def run(
    simulation: Simulation,
    controller: GoalSequence,
    monitors: Monitors,
    episode: Mapping[str, object],
    share: float,
) -> tuple[int | None, list[float]]:
    """Runs an episode.

    Returns:
        The decision at which it was stopped, None if it was not, and the p-values before that.
    """
    goal = simulation.task.start(episode)
    env, count = Lying(simulation.env, share), _Count()
    # Of the joints, only whether they moved is checked: the state tells that as well.
    guard = MonitorGuard(monitors, ["front"], lambda: simulation.env.observe().proprio)
    try:
        run_episode(
            env,
            controller,
            goal,
            num_steps=simulation.num_steps,
            guards=[guard],
            recorders=[count],
        )
    except GuardError:
        return count.num_decisions + 1, count.p_values
    return None, count.p_values


def main() -> None:
    """Runs all episodes, and prints the table."""
    words = [word for word in sys.argv[1:] if "=" in word]
    if not any(word.startswith("checkpoint=") for word in words):
        words = ["checkpoint=so100_tabletop", *words]
    numbers = [int(word) for word in sys.argv[1:] if "=" not in word]
    num_episodes, first_seed = (*numbers, *(12, DEV_SEED)[len(numbers) :])
    config = load_command("eval", words)
    directory = find_checkpoint(config.checkpoint)
    model, _ = load_checkpoint(directory)
    prior = load_prior(directory, model.info)
    reference = load_reference(directory, model.info)
    if reference is None:
        raise SystemExit(f"{directory}: no reference statistics; robot-wm monitors computes them")
    simulation = build_simulation(config.env)
    controller = make_controller(model, simulation.env, config, prior=prior)
    figures: dict[str, object] = {"episodes": num_episodes}
    print(f"{'arm':>10}{'stopped':>10}{'at decision':>18}{'p <= .01':>10}{'p <= .05':>10}")
    for kind, share in KINDS.items():
        stopped_at, p_values = [], []
        for episode in simulation.episodes(str(first_seed), num_episodes):
            energy = step_energy(model, config.objective)
            monitors = Monitors(reference, MonitorSettings(), step_energy=energy)
            decision, episode_p = run(simulation, controller, monitors, episode, share)
            stopped_at += [] if decision is None else [decision]
            p_values += episode_p
        shares = [float(np.mean(np.array(p_values) <= p)) for p in (0.01, 0.05)]
        middle = None
        if stopped_at:
            middle = [min(stopped_at), float(np.median(stopped_at)), max(stopped_at)]
        print(
            f"{kind:>10}{len(stopped_at):>4} of {num_episodes:<3}{str(middle or '-'):>17}"
            f"{shares[0]:>10.3f}{shares[1]:>10.3f}"
        )
        figures[kind] = {
            "stopped": len(stopped_at),
            "decision_least_median_most": middle,
            "p_at_most_01_05": shares,
        }
    view = model.info.views[0]
    black = np.zeros((view.height, view.width, 3), np.uint8)
    figures["black_by_encoder"], figures["black_by_picture"] = reference.distances(
        model.embed({view.camera: black}), [black]
    )
    print(
        f"a black picture: {figures['black_by_encoder']:.2f} times as far as the farthest held-out "
        f"frame by the encoder alone, {figures['black_by_picture']:.2f} times by thumbnails"
    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
