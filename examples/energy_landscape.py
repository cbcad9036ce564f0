"""Draw the energy that a planner descends: distance to the goal after one action (dx, dy)."""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
import torch

from robot_wm import GoalEnergy, ImaginedCost, load, simulation


def main(file: str, side: int = 41) -> None:
    """Draws the landscape around the start of an episode.

    Args:
        file: File of the picture.
        side: Number of actions along each axis.
    """
    model, sim = load("so100_tabletop"), simulation("so100_reach")
    goal = sim.task.start(sim.episodes("dev", 1)[0])
    observation, spec = sim.env.observe(), model.info.action_spec
    dx, dy = (np.linspace(spec.low[i], spec.high[i], side) for i in (0, 1))
    actions = torch.zeros(side, side, 1, spec.size)
    actions[..., 0, 0], actions[..., 0, 1] = torch.tensor(dx), torch.tensor(dy)[:, None]
    with torch.no_grad():
        state = model.observe(model.initial(), observation, None)
        cost = ImaginedCost(model, state, GoalEnergy(model.embed(goal.images)))
        energy = cost(actions.flatten(0, 1)).reshape(side, side)
    figure, axes = plt.subplots(figsize=(5, 4))
    shown = axes.contourf(100 * dx, 100 * dy, energy, levels=30)
    figure.colorbar(shown, label="energy")
    to_goal = 100 * (sim.task.goal_pose - observation.proprio)[:2]
    axes.arrow(0, 0, *(2 * to_goal / np.linalg.norm(to_goal)), color="w", width=0.05)
    axes.set(xlabel="dx, cm", ylabel="dy, cm", title="Energy; the arrow points to the goal")
    figure.savefig(file, dpi=150, bbox_inches="tight")
    least = divmod(int(energy.argmin()), side)
    print(f"least energy at dx {100 * dx[least[1]]:+.1f} cm, dy {100 * dy[least[0]]:+.1f} cm")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "landscape.png")
