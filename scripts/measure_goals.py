"""Measures what becomes of goal pictures that nobody took: pasted together, or under another light.

usage: python scripts/measure_goals.py checkpoint=DIR [env=so100_push ...] [NUM_EPISODES] [KIND ...]

Kinds: `taken` (as the list has it), `pasted` (the start's picture, with the cube cut out and put
where it is to be), `recoloured` (taken under other colours and another light), `two_cubes` (a
second cube is pasted in), `on_base` (the cube is pasted onto the robot's base). A picture is
refused as `plan` and `deploy` refuse it, before the arm moves. Otherwise the episode runs, and is
`worked`; or `gave up`, where the controller does not say that it has arrived; or `wrong`, where it
does and the task is not solved. Prints a table, and one line of JSON.
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
from robot_wm.deployment.control import check_cameras, check_same_arm, make_controller
from robot_wm.deployment.novelty import check_views
from robot_wm.deployment.simulation import Simulation, build_simulation
from robot_wm.monitors import Monitors, MonitorSettings, load_reference
from robot_wm.precision import pick_device
from robot_wm.proposals import load_prior
from robot_wm.runtime import run_episode
from robot_wm.types import FloatArray, Goal, ImageArray, PlanningError, list_goals
from robot_wm.workflows.evaluate import env_of

KINDS = ("taken", "pasted", "recoloured", "two_cubes", "on_base")
_AWAY = np.array([-1.0, 0.0, 0.0])  # an object's pose that no camera sees


def main() -> None:
    """Runs every kind on the same episodes, and prints the table."""
    words = [word for word in sys.argv[1:] if "=" in word]
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    kinds = [word for word in sys.argv[1:] if "=" not in word and not word.isdigit()]
    if not set(kinds) <= set(KINDS):
        raise SystemExit(f"kind: got {' '.join(kinds)}, want some of {', '.join(KINDS)}")
    settings = load_command("eval", words)
    if settings.env.task.name not in ("push", "pick_place") or settings.subgoals != "none":
        raise SystemExit("env: want so100_push or so100_pick_place, and no sub-goals")
    directory = find_checkpoint(settings.checkpoint)
    model, _ = load_checkpoint(directory)
    model.to(pick_device(settings.device))
    prior = load_prior(directory, model.info)
    plain = build_simulation(env_of(settings))
    recoloured = build_simulation(
        env_of(load_command("eval", [*words, "env.simulator.vary=[colours,light]"]))
    )
    check_same_arm(model.info, plain.robot)
    check_cameras(model.info, plain.env.observe().images)
    instruction = settings.env.instruction
    controller = make_controller(model, plain.env, settings, prior=prior, instruction=instruction)
    reference = load_reference(directory, model.info)
    if reference is None:
        raise SystemExit("checkpoint: it has no reference statistics, which refuse pictures")
    monitors = Monitors(reference, MonitorSettings(), step_energy=None)
    episodes = plain.episodes(str(settings.split), numbers[0] if numbers else 50)
    results: dict[str, dict[str, int]] = {}
    for kind in kinds or KINDS:
        counts: Counter[str] = Counter()
        for episode in episodes:
            goals = goals_of(kind, plain, recoloured, episode)
            start = plain.env.observe().images
            named = {f"goal {i}": goal.images for i, goal in enumerate(goals)}
            if check_views(monitors, model, start, named):
                counts["refused"] += 1
                continue
            try:
                last = run_episode(plain.env, controller, goals, num_steps=plain.num_steps)
                arrived = controller.outcome(last).kind == "arrived"
            except PlanningError:
                arrived = False
            for _ in range(plain.num_hold_steps):
                plain.env.apply(plain.env.action_spec.rest)
            solved = plain.task.judge().success
            counts["worked" if solved else "wrong" if arrived else "gave up"] += 1
        results[kind] = {key: counts[key] for key in ("worked", "refused", "gave up", "wrong")}
        print(
            f"{kind:12}", "  ".join(f"{key} {n:3}" for key, n in results[kind].items()), flush=True
        )
    print(json.dumps({"episodes": len(episodes), "kinds": results}))


def goals_of(
    kind: str, plain: Simulation, recoloured: Simulation, episode: Mapping[str, object]
) -> list[Goal]:
    """Makes the goals of an episode, and leaves the scene at its start."""
    if kind == "recoloured":
        goals = list_goals(recoloured.task.start(episode))
        plain.task.start(episode)
        return goals
    goals = list_goals(plain.task.start(episode))
    if kind == "taken":
        return goals
    env: Any = plain.env
    start, cube, goal = (np.asarray(episode[key], float) for key in ("start", "cube", "goal"))
    if kind == "pasted":
        base, target = start, goal[:2]
    elif kind == "two_cubes":
        base, target = np.asarray(episode["arm"], float), cube[:2]
    else:
        base, target = start, np.zeros(2)
    pictures = {}
    for name, (empty, here, there) in _views(env, base, cube, target).items():
        onto = goals[-1].images[name] if kind == "two_cubes" else empty
        pictures[name] = paste(onto, empty, here, there)
    plain.task.start(episode)
    return [Goal(images=pictures)]


def _views(
    env: Any, arm: FloatArray, cube: FloatArray, target: FloatArray
) -> dict[str, tuple[ImageArray, ImageArray, ImageArray]]:
    """Returns each camera's picture without the cube, with it, and with it at the target."""
    (name,) = env.objects
    seen = []
    for place in (_AWAY, cube, np.append(target, cube[2])):
        env.place(arm, {name: cube})
        env.place_object(name, place)
        env.physics.forward()
        seen.append(env.observe().images)
    return {key: (seen[0][key], seen[1][key], seen[2][key]) for key in seen[0]}


def paste(onto: ImageArray, empty: ImageArray, here: ImageArray, there: ImageArray) -> ImageArray:
    """Pastes the cube of a picture to where it is in another, as one does by hand."""
    cut, wanted = (np.abs(p.astype(int) - empty).max(2) > 12 for p in (here, there))
    if not cut.any() or not wanted.any():
        return onto.copy()
    rows, columns = np.nonzero(cut)
    shift = [round(float(np.mean(a) - np.mean(b))) for a, b in zip(
        np.nonzero(wanted), (rows, columns), strict=True)]  # fmt: skip
    height, width = onto.shape[:2]
    to = rows + shift[0], columns + shift[1]
    inside = (to[0] >= 0) & (to[0] < height) & (to[1] >= 0) & (to[1] < width)
    picture = onto.copy()
    picture[to[0][inside], to[1][inside]] = here[rows[inside], columns[inside]]
    return picture


if __name__ == "__main__":
    main()
