"""Planners that descend along the gradient of the cost, through the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robot_wm.planners.cem import refit
from robot_wm.planners.protocol import Cost
from robot_wm.planners.search import (
    GRADIENT_COST,
    GaussianSettings,
    Search,
    SearchSettings,
    Space,
    along,
)
from robot_wm.types import ActionSpec, Count, Plan, Positive, UserError


@dataclass(kw_only=True)
class GradientDescent(SearchSettings):
    """Gradient descent by Adam on several sequences at once, each step projected to legal actions.

    Attributes:
        num_samples: Number of starts: the warm start, and others drawn around it.
        num_elites: Number of the best sequences that are kept.
        num_iterations: Number of gradient steps.
        step: Adam's learning rate, in units of the spec's scale; it falls to zero as half a cosine.
        init_std: Standard deviation of the starts, in the same units.
    """

    num_samples: Count = 8
    num_elites: Count = 4
    num_iterations: Count = 24
    step: Positive = 0.2
    init_std: Positive = 0.6

    def with_budget(self, num_evaluated: int) -> GradientDescent:
        """See `Planner.with_budget`."""
        steps = num_evaluated / (1 + GRADIENT_COST)  # of all starts together
        starts = max(1, round((steps / 4) ** 0.5))
        return replace(
            self,
            num_samples=starts,
            num_iterations=max(1, round(steps / starts)),
            num_elites=min(self.num_elites, starts),
        )

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`."""
        search = Search(self, cost, spec, init, generator)
        space, mean = search.space, search.mean
        at = search.around(mean, self.init_std * space.unit, self.num_samples)
        first, second = torch.zeros_like(at), torch.zeros_like(at)
        for i in range(1, self.num_iterations + 1):
            num_finite = None if i == 1 else 0
            _, gradient = search.judge_with_gradient(at, num_finite=num_finite)
            # In units of the spec's scale, and without what points out of the trust region.
            gradient = gradient * space.unit
            gradient = along(gradient, *space.ends(at, gradient, bounds=False))
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            direction = first / (1 - 0.9**i) / ((second / (1 - 0.999**i)).sqrt() + 1e-12)
            rate = self.step * 0.5 * (1 + math.cos(math.pi * (i - 1) / self.num_iterations))
            at = space.project(at - rate * space.unit * direction)
        search.judge(at, num_finite=0)
        return search.plan()


@dataclass(kw_only=True)
class GradientCEM(GaussianSettings):
    """CEM whose best candidates take gradient steps before the refit (as in arXiv 2112.10751).

    Attributes:
        num_samples: Number of sequences drawn per iteration, N.
        num_elites: Number of the best sequences that are kept.
        num_iterations: Number of refits of the Gaussian.
        min_std: Lower bound of the standard deviation, in units of the spec's scale.
        num_refined: Number of the best sequences of an iteration, which descend.
        num_steps: Number of gradient steps of each.
        step: Length of the first step, in units of the spec's scale; steps shrink linearly to zero.
    """

    num_samples: Count = 24
    num_elites: Count = 6
    num_iterations: Count = 2
    min_std: Positive = 0.02
    num_refined: Count = 4
    num_steps: Count = 3
    step: Positive = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_refined > self.num_samples:
            raise UserError(
                f"num_refined: got {self.num_refined}, want at most num_samples={self.num_samples}"
            )

    def with_budget(self, num_evaluated: int) -> GradientCEM:
        """See `Planner.with_budget`."""
        descent = (1 + GRADIENT_COST) * self.num_steps + 1  # of one sequence
        each, refined = num_evaluated // self.num_iterations, self.num_refined
        samples = each - refined * descent
        if samples < self.num_samples // 2:  # no room for so many descents
            samples = max(8, each // 2)
            refined = max(1, (each - samples) // descent)
        elites = min(self.num_elites, samples)
        return replace(self, num_samples=samples, num_refined=refined, num_elites=elites)

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`."""
        search, std = self.begin(cost, spec, init, generator)
        space, mean = search.space, search.mean
        for _ in range(self.num_iterations):
            candidates = search.around(mean, std, self.num_samples)
            costs = search.judge(candidates)
            at = candidates[costs.argsort(stable=True)[: self.num_refined]]
            for i in range(self.num_steps):
                _, gradient = search.judge_with_gradient(at, num_finite=0, known=i == 0)
                gradient = gradient * space.unit
                gradient = along(gradient, *space.ends(at, gradient, bounds=False))
                size = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]
                rate = self.step * (1 - i / self.num_steps)
                at = space.project(at - rate * space.unit * gradient / size)
            search.judge(at, num_finite=0)
            mean, std = refit(search.actions, self.min_std * space.unit)
        search.judge(space.project(mean[None]), num_finite=0)
        return search.plan()


@dataclass(kw_only=True)
class QuasiNewton(SearchSettings):
    """Random candidates, of which the best descend by projected BFGS.

    A latent that is pretrained so that equal motions are equal steps makes the energy nearly
    quadratic in the actions, and a few gradients determine a quadratic. Bounds are kept by
    projection, and components that point out of them are left out of the step (Bertsekas 1982); a
    step that does not descend is not taken, and the next is shorter.

    Attributes:
        num_samples: Number of sequences drawn, N, the warm start among them.
        num_elites: Number of the best of these, which descend.
        num_iterations: Number of steps of each.
        step: Largest length of the first step, in units of the spec's scale.
        init_std: Standard deviation of the drawn sequences, in the same units.
    """

    num_samples: Count = 16
    num_elites: Count = 2
    num_iterations: Count = 6
    step: Positive = 0.5
    init_std: Positive = 0.6

    def with_budget(self, num_evaluated: int) -> QuasiNewton:
        """See `Planner.with_budget`."""
        starts = 1 if num_evaluated < 64 else 2 if num_evaluated < 256 else 4
        samples = max(starts, min(64, num_evaluated // 4))
        steps = (num_evaluated - samples) // ((1 + GRADIENT_COST) * starts)
        return replace(self, num_samples=samples, num_elites=starts, num_iterations=max(1, steps))

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """See `Planner.plan`."""
        search = Search(self, cost, spec, init, generator)
        space, mean = search.space, search.mean
        search.judge(search.around(mean, self.init_std * space.unit, self.num_samples))
        at = search.actions
        value, gradient = search.judge_with_gradient(at, known=True)
        bfgs = _BFGS(at, value, gradient, search.space, self.step)
        for i in range(self.num_iterations):
            candidates = bfgs.ask()
            if i + 1 == self.num_iterations:
                search.judge(candidates, num_finite=0)
            else:
                bfgs.tell(candidates, *search.judge_with_gradient(candidates, num_finite=0))
        return search.plan()


class _BFGS:
    """Projected BFGS (Nocedal and Wright 2006, chapter 6) on K independent sequences.

    Numbers are in units of the spec's scale. A step is no longer than a radius, which doubles after
    a step that descends and becomes a third of one that does not.
    """

    def __init__(
        self, at: Tensor, value: Tensor, gradient: Tensor, space: Space, step: float
    ) -> None:
        self._space, self._shape = space, at.shape
        self._unit = space.unit.expand(at.shape[1:]).flatten()  # [d], d = H * A
        self._at, self._value = at.flatten(1), value  # [K, d], [K]
        self._gradient = gradient.flatten(1) * self._unit
        self._inverse = torch.eye(len(self._unit)).to(at).repeat(len(at), 1, 1)  # [K, d, d]
        self._has_curvature = torch.zeros_like(value, dtype=torch.bool)
        self._radius = torch.full_like(value, step)

    def ask(self) -> Tensor:
        """Returns the points to evaluate next, `[K, H, A]`."""
        ends = self._ends(self._at, self._gradient)
        slope = self._along(self._gradient, ends)
        step = -torch.einsum("kij,kj->ki", self._inverse, slope)
        step = self._along(step, ends)
        steepest = -slope / _length(slope) * self._radius[:, None]
        downhill = self._has_curvature & ((step * slope).sum(1) < 0)
        step = torch.where(downhill[:, None], step, steepest)
        step = step * (self._radius[:, None] / _length(step)).clamp(max=1)
        return self._space.project((self._at + step * self._unit).view(self._shape))

    def _ends(self, at: Tensor, slope: Tensor, *, bounds: bool = True) -> tuple[Tensor, Tensor]:
        return self._space.ends(at.view(self._shape), slope.view(self._shape), bounds=bounds)

    def _along(self, vectors: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
        return along(vectors.view(self._shape), *ends).flatten(1)

    def _edge_slope(self, at: Tensor, slope: Tensor) -> Tensor:
        return self._along(slope, self._ends(at, slope, bounds=False))

    def tell(self, points: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Updates the curvature from evaluated points, and moves to those of lower cost."""
        points, gradient = points.flatten(1), gradient.flatten(1) * self._unit
        step = (points - self._at) / self._unit.clamp(min=1e-12)
        # On the edge of a ball the slope turns with the edge, and not with the cost alone.
        change = self._edge_slope(points, gradient) - self._edge_slope(self._at, self._gradient)
        curvature = (step * change).sum(1)
        usable = curvature > 1e-6 * _length(step)[:, 0] * _length(change)[:, 0]
        usable &= value.isfinite()
        curvature = torch.where(usable, curvature, 1.0)
        eye = torch.eye(step.shape[1]).to(step)
        first = (curvature / _length(change)[:, 0].square())[:, None, None] * eye
        before = torch.where(self._has_curvature[:, None, None], self._inverse, first)
        across = eye - torch.einsum("ki,kj->kij", step, change) / curvature[:, None, None]
        outer = torch.einsum("ki,kj->kij", step, step) / curvature[:, None, None]
        updated = across @ before @ across.transpose(1, 2) + outer
        self._inverse = torch.where(usable[:, None, None], updated, self._inverse)
        self._has_curvature |= usable
        lower = value < self._value
        length = _length(step)[:, 0]
        self._radius = torch.where(lower, self._radius.maximum(2 * length), length / 3)
        self._at = torch.where(lower[:, None], points, self._at)
        self._gradient = torch.where(lower[:, None], gradient, self._gradient)
        self._value = torch.where(lower, value, self._value)


def _length(rows: Tensor) -> Tensor:
    """Returns the norms `[K, 1]` of rows `[K, d]`, never zero."""
    return rows.norm(dim=1, keepdim=True).clamp(min=1e-20)
