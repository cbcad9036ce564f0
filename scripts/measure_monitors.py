"""Measures what the monitors of a checkpoint say of runs that are normal, and of some that are not.

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
from robot_wm.cli.build import Simulation, build_simulation
from robot_wm.cli.config import load_config, planning_settings
from robot_wm.controller import GoalSequence
from robot_wm.deployment.control import make_controller
from robot_wm.monitors import MonitorGuard, Monitors, MonitorSettings, load_reference
from robot_wm.runtime import GuardError, Step, run_episode
from robot_wm.types import Env, FloatArray, Observation

KINDS = {"as it is": 1.0, "stands": 0.0, "half": 0.5}


class Lying:
    """An env whose arm does a share of what is asked, and claims all of it (robot_wm.types.Env)."""

    def __init__(self, env: Env, share: float) -> None:
        self._env, self._share = env, share
        self.action_spec, self.control_dt = env.action_spec, env.control_dt

    def reset(self, seed: int) -> Observation:
        return self._env.reset(seed)

    def observe(self) -> Observation:
        return self._env.observe()

    def apply(self, action: FloatArray) -> FloatArray:
        applied = self._env.apply(self._share * np.asarray(action))
        return applied if self._share == 1 else self.action_spec.clip(action)

    def stop(self) -> None:
        self._env.stop()

    def close(self) -> None:
        self._env.close()


class _Count:
    """Looks, and p-values of what was predicted."""

    def __init__(self) -> None:
        self.num_looks, self.p_values = 0, []

    def record(self, step: Step) -> None:
        self.num_looks += 1
        if "p_value" in step.numbers:
            self.p_values.append(step.numbers["p_value"])

    def finish(self, last: Observation) -> None:
        pass


def run(
    simulation: Simulation,
    controller: GoalSequence,
    monitors: Monitors,
    episode: Mapping[str, object],
    share: float,
) -> tuple[int | None, list[float]]:
    """The look at which it was stopped, None where it was not, and the p-values before that."""
    goal = simulation.task.start(episode)
    env, count = Lying(simulation.env, share), _Count()
    # Of the joints, only whether they moved is looked at: the state tells that as well.
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
        return count.num_looks + 1, count.p_values
    return None, count.p_values


def main() -> None:
    """Runs all, prints the table."""
    words = [word for word in sys.argv[1:] if "=" in word]
    numbers = [int(word) for word in sys.argv[1:] if "=" not in word]
    num_episodes, first_seed = (*numbers, *(12, 8_000_000)[len(numbers) :])
    config = load_config("eval", ["checkpoint=so100_reach", *words])
    directory = find_checkpoint(config.checkpoint)
    model, _ = load_checkpoint(directory)
    normal = load_reference(directory, model.info)
    if normal is None:
        raise SystemExit(f"{directory}: knows nothing of demonstrations (robot-wm monitors)")
    simulation = build_simulation(config.env)
    controller = make_controller(model, simulation.env, planning_settings(config))
    told: dict[str, object] = {"episodes": num_episodes}
    print(f"{'arm':>10}{'stopped':>10}{'at look':>18}{'p <= .01':>10}{'p <= .05':>10}")
    for kind, share in KINDS.items():
        looks, p_values = [], []
        for episode in simulation.episodes(str(first_seed), num_episodes):
            energy = model.info.step_energy
            monitors = Monitors(
                normal, MonitorSettings(), step_energy=energy and energy[config.objective.distance]
            )
            look, own = run(simulation, controller, monitors, episode, share)
            looks += [] if look is None else [look]
            p_values += own
        shares = [float(np.mean(np.array(p_values) <= p)) for p in (0.01, 0.05)]
        middle = [min(looks), float(np.median(looks)), max(looks)] if looks else None
        print(
            f"{kind:>10}{len(looks):>4} of {num_episodes:<3}{str(middle or '-'):>17}"
            f"{shares[0]:>10.3f}{shares[1]:>10.3f}"
        )
        told[kind] = {
            "stopped": len(looks),
            "look_least_median_most": middle,
            "p_at_most_01_05": shares,
        }
    view = model.info.views[0]
    black = np.zeros((view.height, view.width, 3), np.uint8)
    told["black_by_encoder"], told["black_by_picture"] = normal.far(
        model.embed({view.camera: black}), [black]
    )
    print(
        f"a black picture: {told['black_by_encoder']:.2f} times as far as the farthest held-out "
        f"frame by the encoder alone, {told['black_by_picture']:.2f} times by small pictures"
    )
    print(json.dumps(told))


if __name__ == "__main__":
    main()
