"""Draws docs/images/reach.png (start, goal picture, end) and docs/images/goal.png.

usage: python scripts/readme_picture.py CHECKPOINT [SEED]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robot_wm.checkpoint import load_checkpoint
from robot_wm.controller import MPC
from robot_wm.objectives import GoalEnergy
from robot_wm.planners import CEM
from robot_wm.runtime import run_episode
from sim_envs.so100_env import SO100Env
from sim_envs.so100_reach import ReachTask, reach_episode

SIZE_PX = 360


def main() -> None:
    """Runs one episode and draws three large pictures of it."""
    model, _ = load_checkpoint(Path(sys.argv[1]))
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 8_000_001
    env = SO100Env()
    task = ReachTask(env)
    bounds = env.action_spec.within(model.spec.action_spec)
    goal = task.start(reach_episode(seed))
    large = SO100Env(image_size=SIZE_PX)
    pictures = [ReachTask(large).start(reach_episode(seed)).images["front"]]
    pictures.insert(0, large.observe().images["front"])
    run_episode(env, MPC(model, CEM(), GoalEnergy, bounds), goal, num_steps=20)
    large.restore(env.snapshot())
    pictures.append(large.observe().images["front"])

    sheet = Image.new("RGB", (3 * SIZE_PX + 40, SIZE_PX + 44), "white")
    font = ImageFont.load_default(18)
    labels = ("start", "goal picture", f"after 20 actions: {task.distance_m() * 100:.1f} cm away")
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x = 10 + i * (SIZE_PX + 10)
        sheet.paste(Image.fromarray(np.asarray(picture)), (x, 34))
        ImageDraw.Draw(sheet).text((x, 8), label, "black", font)
    out = Path(__file__).parents[1] / "docs" / "images" / "reach.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)
    Image.fromarray(np.asarray(goal.images["front"])).save(out.with_name("goal.png"))
    print(out)


if __name__ == "__main__":
    main()
