"""Draws the pictures of the README, by the checkpoint that ships or another.

docs/images/reach.png and moves.png show the start of `robot-wm plan` and `robot-wm deploy`, the
goal picture and the end; goal.png, push.png and pick.png are those goal pictures, as a model sees
them.

usage: python scripts/readme_picture.py [CHECKPOINT] [SEED of the goal's pose]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.config import load_command
from robot_wm.controller import MPC
from robot_wm.deployment.control import make_controller
from robot_wm.deployment.simulation import build_simulation
from robot_wm.proposals import load_prior
from robot_wm.robots import make_arm
from robot_wm.runtime import run_episode
from robot_wm.types import FloatArray, Goal
from robot_wm.workflows.evaluate import env_of
from robot_wm.workflows.record_goal import save_goal
from sim_envs.manifest import DEV_SEED
from sim_envs.reach import ReachTask
from sim_envs.tabletop import Tabletop

SIZE_PX = 360
START_SEED = 0  # of `robot-wm plan`'s default
PARKED_M = (0.20, -0.08, 0.15)


class Move(NamedTuple):
    """How the cube is moved: its name, the change of x, y (m) and yaw (rad), and what is said."""

    name: str
    shift: FloatArray
    said: str


MOVES = {
    "so100_push": Move("push", np.array([0.0, -0.10, 0.0]), "pushed"),
    "so100_pick_place": Move("pick", np.array([-0.02, -0.12, 0.0]), "picked up and put down"),
}
Row = tuple[Sequence[np.ndarray], str]  # start, goal picture and end, and what is said of the end


def picture_of(env: Tabletop, pose: FloatArray) -> np.ndarray:
    """Renders the arm at a pose `[4]`, m, with the cube where the start has it."""
    env.reset(START_SEED)
    env.place(pose)
    picture = env.observe().images["front"]
    env.reset(START_SEED)
    return picture


def controller_of(checkpoint: str, env: Tabletop, instruction: str, *words: str) -> MPC:
    """Makes the controller that `eval` would have."""
    directory = find_checkpoint(checkpoint)
    model, _ = load_checkpoint(directory)
    prior, settings = (
        load_prior(directory, model.info),
        load_command("eval", [f"checkpoint={checkpoint}", *words]),
    )
    return make_controller(model, env, settings, prior=prior, instruction=instruction)


def reach(checkpoint: str, seed: int) -> tuple[Row, np.ndarray]:
    """Reaches one goal picture; returns its row and the goal picture as the model sees it."""
    env, large = Tabletop(make_arm("so100")), Tabletop(make_arm("so100"), image_size=SIZE_PX)
    pose = np.asarray(ReachTask(env).episode(seed)["goal"], float)
    goal = picture_of(env, pose)
    pictures = [large.reset(START_SEED).images["front"], picture_of(large, pose)]
    controller = controller_of(checkpoint, env, "reach the pose in the goal picture")
    last = run_episode(env, controller, Goal({"front": goal}), num_steps=20)
    print(controller.outcome(last))
    large.restore(env.snapshot())
    pictures.append(large.observe().images["front"])
    away_cm = 100 * float(np.linalg.norm(env.proprio()[:3] - pose[:3]))
    return (pictures, f"after 20 actions: {away_cm:.1f} cm away"), goal


def move(checkpoint: str, name: str) -> tuple[Row, np.ndarray]:
    """Moves the cube to another place; returns as `reach` does."""
    words = [f"checkpoint={checkpoint}", f"env={name}"]
    large_words = [*words, f"env.simulator.image_size={SIZE_PX}"]
    simulation, large = (
        build_simulation(env_of(load_command("eval", w))) for w in (words, large_words)
    )
    env, shown, (cube,) = simulation.env, large.env, simulation.env.objects
    pictures = [shown.reset(START_SEED).images["front"]]
    env.reset(START_SEED)
    target = env.object_pose(cube)[[0, 1, 3]] + MOVES[name].shift
    arm = np.array([*PARKED_M[:3], env.proprio()[3]])
    for each in (env, shown):
        each.place(arm, {cube: target})
    goal = env.observe().images["front"]
    pictures.append(shown.observe().images["front"])
    env.reset(START_SEED)
    controller = controller_of(checkpoint, env, simulation.settings.instruction, *words[1:])
    last = run_episode(env, controller, Goal({"front": goal}), num_steps=simulation.num_steps)
    print(controller.outcome(last))
    shown.restore(env.snapshot())
    pictures.append(shown.observe().images["front"])
    away_cm = 100 * float(np.linalg.norm(env.object_pose(cube)[:2] - target[:2]))
    return (pictures, f"{MOVES[name].said}: {away_cm:.1f} cm away"), goal


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws rows of three pictures, each with a word above it."""
    height = SIZE_PX + 44
    sheet = Image.new("RGB", (3 * SIZE_PX + 40, height * len(rows)), "white")
    font = ImageFont.load_default(18)
    for number, (pictures, end) in enumerate(rows):
        for i, (picture, label) in enumerate(
            zip(pictures, ("start", "goal picture", end), strict=True)
        ):
            x, y = 10 + i * (SIZE_PX + 10), number * height
            sheet.paste(Image.fromarray(np.asarray(picture)), (x, y + 34))
            ImageDraw.Draw(sheet).text((x, y + 8), label, "black", font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def main() -> None:
    """Runs the episodes and draws them."""
    checkpoint = sys.argv[1] if len(sys.argv) > 1 else "so100_tabletop"
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else DEV_SEED + 1
    images = Path(__file__).parents[1] / "docs" / "images"
    row, goal = reach(checkpoint, seed)
    draw([row], images / "reach.png")
    save_goal(images / "goal.png", goal, "front")
    rows = []
    for name, how in MOVES.items():
        row, goal = move(checkpoint, name)
        rows.append(row)
        save_goal(images / f"{how.name}.png", goal, "front")
    draw(rows, images / "moves.png")
    print(images)


if __name__ == "__main__":
    main()
