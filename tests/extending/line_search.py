"""A planner from outside: along the straight lines between the bounds, one at a time."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from robot_wm.types import Plan, PlanningError


@dataclass(frozen=True)
class LineSearch:
    """Improves one number after the other (robot_wm.planners.Planner)."""

    horizon: int = 1
    num_places: int = 9
    num_rounds: int = 2

    def with_budget(self, num_evaluated):
        each = max(2, round(num_evaluated / (self.num_rounds * self.horizon * 3)))
        return replace(self, num_places=each)

    def plan(self, cost, spec, *, init=None, generator):
        best = np.tile(spec.rest, (self.horizon, 1))
        if init is not None:
            known = min(len(init.actions), self.horizon)
            best[:known] = spec.clip(init.actions[:known])
        least, num = self._costs(cost, best[None], generator)[0], 1
        for _ in range(self.num_rounds):
            for step, axis in np.ndindex(*best.shape):
                tried = np.repeat(best[None], self.num_places, axis=0)
                tried[:, step, axis] = np.linspace(spec.low[axis], spec.high[axis], self.num_places)
                tried = spec.clip(tried)
                costs, num = self._costs(cost, tried, generator), num + len(tried)
                if costs.min() < least:
                    best, least = tried[costs.argmin()], costs.min()
        if not np.isfinite(least):
            raise PlanningError("no action sequence has a finite cost")
        info = {"num_evaluated": num, "num_gradients": 0, "num_finite": num}
        return Plan(best, float(least), elites=best[None], info=info)

    def _costs(self, cost, actions, generator):
        told = cost(torch.tensor(actions, dtype=torch.float32, device=generator.device))
        if told.shape != (len(actions),):
            raise ValueError(f"cost: got {tuple(told.shape)}, want [{len(actions)}]")
        return torch.nan_to_num(told.detach(), nan=float("inf")).double().cpu().numpy()
