"""Measures how runs end whose cube was moved after the goal picture was taken.

usage: python scripts/measure_endings.py [NUM_EPISODES] [FIRST_SEED] [checkpoint=... key=value ...]

Every episode runs twice: as it ships, and with `controller.patience=0`, which never stops. What the
controller says from pictures alone is then judged on the true distance of the gripper:
"arrived" is right where the episode succeeded; "stalled" where the arm stands, and stands no more
than a centimetre farther off than the nearest that the run without an end ever came in its last
five steps; "out of time" where neither holds. Prints a table, and one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.config import load_command
from robot_wm.controller import GoalSequence
from robot_wm.deployment.control import make_controller
from robot_wm.deployment.simulation import Simulation, build_simulation
from robot_wm.proposals import load_prior
from robot_wm.runtime import Step, run_episode
from robot_wm.types import FloatArray, Observation, Outcome
from sim_envs.manifest import DEV_SEED
from sim_envs.placing import CLEARANCE_M
from sim_envs.tabletop import Tabletop

MOVED_M = (0.02, 0.08)
NUM_LAST = 5  # steps at the end whose motion counts
STANDS_M = 0.003  # net motion over them
SLACK_M = 0.01


def moved_cube(env: Tabletop, episode: Mapping[str, object]) -> FloatArray:
    """Draws where the cube `[3]` (x, y in m, yaw in rad) of an episode stands at the start."""
    start, goal, cube = (np.asarray(episode[key], float) for key in ("start", "goal", "cube"))
    rng = np.random.default_rng((int(str(episode["seed"])), 3))
    low, high = env.robot.table_low, env.robot.table_high
    while True:
        distance, angle = rng.uniform(*MOVED_M), rng.uniform(-np.pi, np.pi)
        moved = cube + distance * np.array([np.cos(angle), np.sin(angle), 0.0])
        clear = min(np.linalg.norm(pose[:2] - moved[:2]) for pose in (start, goal))
        on_table = (low <= moved[:2]).all() and (moved[:2] <= high).all()
        if on_table and abs(moved[2]) <= np.pi and clear >= CLEARANCE_M:
            return moved


class _Places:
    """Records where the gripper was at every observation, the last one included."""

    def __init__(self) -> None:
        self.poses: list[FloatArray] = []

    def record(self, step: Step) -> None:
        """Keeps the gripper's pose."""
        self.poses.append(step.observation.proprio)

    def finish(self, last: Observation) -> None:
        """Keeps the gripper's last pose."""
        self.poses.append(last.proprio)


def run_moved(
    simulation: Simulation, controller: GoalSequence, episode: Mapping[str, object]
) -> tuple[Outcome, FloatArray, FloatArray]:
    """Runs an episode with a moved cube.

    Returns:
        The outcome, the gripper's distances to the goal `[T]`, m, and its positions `[T, 3]`, m.
    """
    goal = simulation.task.start(episode)
    goal_m = simulation.task.goal_pose[:3]  # pyright: ignore[reportAttributeAccessIssue]
    start = np.asarray(episode["start"], float)
    env: Any = simulation.env
    env.place(start, {"cube": moved_cube(env, episode)})
    places = _Places()
    last = run_episode(
        simulation.env, controller, goal, num_steps=simulation.num_steps, recorders=[places]
    )
    poses_m = np.array(places.poses)[:, :3]
    return controller.outcome(last), np.linalg.norm(poses_m - goal_m, axis=1), poses_m


def main() -> None:
    """Runs all episodes, and prints the table."""
    words = [word for word in sys.argv[1:] if "=" in word]
    numbers = [int(word) for word in sys.argv[1:] if "=" not in word]
    num_episodes, first_seed = (*numbers, *(40, DEV_SEED)[len(numbers) :])
    if not any(word.startswith("checkpoint=") for word in words):
        words = ["checkpoint=so100_tabletop", *words]
    config = load_command("eval", words)
    directory = find_checkpoint(config.checkpoint)
    model, _ = load_checkpoint(directory)
    prior = load_prior(directory, model.info)
    simulation = build_simulation(config.env)
    ships = make_controller(model, simulation.env, config, prior=prior)
    restless = make_controller(
        model,
        simulation.env,
        load_command("eval", [*words, "controller.patience=0"]),
        prior=prior,
    )
    counts, rights, nets_m, ends_m, lefts = Counter(), 0, [], [], []
    print(f"{'seed':>8}{'outcome':>13}{'steps left':>12}{'end':>9}{'nearest':>9}{'net':>8}  right")
    for episode in simulation.episodes(str(first_seed), num_episodes):
        outcome, distances_m, poses_m = run_moved(simulation, ships, episode)
        arrived = simulation.task.judge().success
        _, on_m, _ = run_moved(simulation, restless, episode)
        net_m = float(np.linalg.norm(poses_m[-1] - poses_m[-1 - NUM_LAST]))
        end_m, nearest_m = float(distances_m[-1]), float(on_m[-NUM_LAST:].min())
        stands = net_m < STANDS_M and end_m < nearest_m + SLACK_M
        right = {"arrived": arrived, "stalled": stands, "out of time": not (arrived or stands)}
        counts[outcome.kind] += 1
        rights += right[outcome.kind]
        nets_m.append(net_m)
        ends_m.append(end_m)
        lefts.append(outcome.steps_left or 0.0)
        print(
            f"{episode['seed']:>8}{outcome.kind:>13}{lefts[-1]:12.2f}{end_m * 1e3:6.1f} mm"
            f"{nearest_m * 1e3:6.1f} mm{net_m * 1e3:5.1f} mm  "
            f"{'yes' if right[outcome.kind] else 'NO'}"
        )
    print(
        json.dumps(
            {
                "episodes": num_episodes,
                "outcomes": counts,
                "right": rights,
                "net_motion_m_max": max(nets_m),
                "end_m_median": float(np.median(ends_m)),
                "end_m_max": max(ends_m),
                "steps_left_min": min(lefts),
            }
        )
    )


if __name__ == "__main__":
    main()
