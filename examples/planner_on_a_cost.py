"""Use a planner on a cost of your own: it sees a function, never a model."""

from __future__ import annotations

import numpy as np
import torch

from robot_wm import CEM, ICEM, ActionSpec, QuasiNewton


def main() -> None:
    """Lets three planners push a puck along a line so that it stops at 0.3 m."""
    spec = ActionSpec(("push",), np.array([-0.1]), np.array([0.1]), ("m/s",))

    def cost(actions: torch.Tensor) -> torch.Tensor:  # [N, H, 1] -> [N]
        speed = torch.cumsum(actions[..., 0], dim=1)
        place = torch.cumsum(speed * 0.5, dim=1)
        effort = actions.square().sum(dim=(1, 2))
        return (place[:, -1] - 0.3) ** 2 + speed[:, -1] ** 2 + 0.01 * effort

    for planner in (CEM(horizon=6), ICEM(horizon=6), QuasiNewton(horizon=6)):
        generator = torch.Generator().manual_seed(0)
        plan = planner.plan(cost, spec, init=None, generator=generator)
        pushes = plan.actions[:, 0].round(3).tolist()
        print(f"{type(planner).__name__:12} cost {plan.cost:.5f} with pushes {pushes}")


if __name__ == "__main__":
    main()
