"""Draws docs/images/reach.png (start, goal picture, end) and docs/images/goal.png.

The start is the one of `robot-wm plan` and `robot-wm deploy`, and the cube stays where it is: the
goal picture is one that they reach.

usage: python scripts/readme_picture.py [CHECKPOINT] [SEED of the goal's pose]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.config import load_command
from robot_wm.deployment.control import make_controller
from robot_wm.proposals import load_prior
from robot_wm.robots import make_arm
from robot_wm.runtime import run_episode
from robot_wm.types import FloatArray, Goal
from robot_wm.workflows.record_goal import save_goal
from sim_envs.manifest import DEV_SEED
from sim_envs.reach import ReachTask
from sim_envs.tabletop import Tabletop

SIZE_PX = 360
START_SEED = 0  # of `robot-wm plan`'s default


def picture_of(env: Tabletop, pose: FloatArray) -> np.ndarray:
    """Renders the arm at a pose `[4]`, m, with the cube where the start has it."""
    env.reset(START_SEED)
    env.place(pose)
    picture = env.observe().images["front"]
    env.reset(START_SEED)
    return picture


def main() -> None:
    """Runs one episode and draws three large pictures of it."""
    checkpoint = sys.argv[1] if len(sys.argv) > 1 else "so100_reach"
    directory = find_checkpoint(checkpoint)
    model, _ = load_checkpoint(directory)
    env, large = Tabletop(make_arm("so100")), Tabletop(make_arm("so100"), image_size=SIZE_PX)
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else DEV_SEED + 1
    pose = np.asarray(ReachTask(env).episode(seed)["goal"], float)
    goal = picture_of(env, pose)
    pictures = [large.reset(START_SEED).images["front"], picture_of(large, pose)]
    settings = load_command("eval", [f"checkpoint={checkpoint}"])
    prior = load_prior(directory, model.info)
    controller = make_controller(model, env, settings, prior=prior)
    last = run_episode(env, controller, Goal({"front": goal}), num_steps=20)
    print(controller.outcome(last))
    large.restore(env.snapshot())
    pictures.append(large.observe().images["front"])
    away_cm = 100 * float(np.linalg.norm(env.proprio()[:3] - pose[:3]))

    sheet = Image.new("RGB", (3 * SIZE_PX + 40, SIZE_PX + 44), "white")
    font = ImageFont.load_default(18)
    labels = ("start", "goal picture", f"after 20 actions: {away_cm:.1f} cm away")
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x = 10 + i * (SIZE_PX + 10)
        sheet.paste(Image.fromarray(np.asarray(picture)), (x, 34))
        ImageDraw.Draw(sheet).text((x, 8), label, "black", font)
    out = Path(__file__).parents[1] / "docs" / "images" / "reach.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)
    save_goal(out.with_name("goal.png"), goal, "front")
    print(out)


if __name__ == "__main__":
    main()
