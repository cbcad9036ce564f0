"""Planners that descend through the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robot_wm.planners.cem import refit
from robot_wm.planners.protocol import Cost
from robot_wm.planners.search import (
    GRADIENT_COST,
    Search,
    Space,
    along,
    check_positive,
    check_sizes,
    check_spread,
)
from robot_wm.types import ActionSpec, Plan, UserError, check_counts


@dataclass(kw_only=True)
class GradientDescent:
    """Adam on several sequences at once, each step projected to what is legal.

    Args:
        horizon: actions per sequence, H.
        num_samples: starts: the warm start, and others drawn around it.
        num_iterations: steps.
        num_elites: best sequences that are kept.
        step: Adam's rate, in units of the spec's scale; it falls to zero as half a cosine.
        init_std: standard deviation of the starts, in the same units.

    Raises:
        UserError: a size below one, more elites than samples, or a step or spread that is not
            above zero.
    """

    horizon: int = 1
    num_samples: int = 8
    num_iterations: int = 24
    num_elites: int = 4
    step: float = 0.2
    init_std: float = 0.6

    def __post_init__(self) -> None:
        check_sizes(self, num_iterations=self.num_iterations)
        check_positive(self, step=self.step, init_std=self.init_std)

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
            needed = None if i == 1 else 0
            _, gradient = search.judge_with_gradient(at, num_finite=needed)
            # So that a step means the same in all dimensions, and none presses against an end.
            gradient = gradient * space.unit
            gradient = along(gradient, *space.ends(at, gradient, bounds=False))
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            ahead = first / (1 - 0.9**i) / ((second / (1 - 0.999**i)).sqrt() + 1e-12)
            rate = self.step * 0.5 * (1 + math.cos(math.pi * (i - 1) / self.num_iterations))
            at = space.project(at - rate * space.unit * ahead)
        search.judge(at, num_finite=0)
        return search.plan()


@dataclass(kw_only=True)
class GradientCEM:
    """CEM whose best candidates take gradient steps before the refit (as in arXiv 2112.10751).

    Args:
        horizon: actions per sequence, H.
        num_samples: sequences drawn per iteration, N.
        num_iterations: refits of the Gaussian.
        num_elites: best sequences the Gaussian is refitted to.
        num_refined: the best of an iteration's sequences that descend.
        num_steps: steps that they take.
        step: length of the first, in units of the spec's scale; they shrink to nothing linearly.
        init_std: first standard deviation, in the same units.
        min_std: floor of the standard deviation, in the same units.

    Raises:
        UserError: a size below one, more elites or refined sequences than samples, or a step or
            spread out of order.
    """

    horizon: int = 1
    num_samples: int = 24
    num_iterations: int = 2
    num_elites: int = 6
    num_refined: int = 4
    num_steps: int = 3
    step: float = 0.3
    init_std: float = 0.6
    min_std: float = 0.02

    def __post_init__(self) -> None:
        check_sizes(self, num_iterations=self.num_iterations, num_steps=self.num_steps)
        check_counts(num_refined=self.num_refined)
        if self.num_refined > self.num_samples:
            raise UserError(
                f"num_refined: got {self.num_refined}, want at most num_samples={self.num_samples}"
            )
        check_spread(self, min_std=self.min_std, init_std=self.init_std)
        check_positive(self, step=self.step)

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
        search = Search(self, cost, spec, init, generator)
        space, mean = search.space, search.mean
        std = (self.init_std * space.unit).expand_as(mean)
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
class QuasiNewton:
    """Random candidates, the best of which descend by projected BFGS.

    A latent that is pretrained so that equal motions are equal steps makes the energy close to a
    quadratic of the actions, and a few gradients tell all about a quadratic. Bounds are kept by
    projection, with what presses against them left out of the step (Bertsekas 1982); a step that
    does not descend is not taken, and the next is shorter.

    Args:
        horizon: actions per sequence, H.
        num_samples: sequences drawn, N, the warm start among them.
        num_elites: the best of them, which descend.
        num_iterations: steps.
        step: length of the longest first step, in units of the spec's scale.
        init_std: standard deviation of what is drawn, in the same units.

    Raises:
        UserError: a size below one, more starts than samples, or a step or spread that is not
            above zero.
    """

    horizon: int = 1
    num_samples: int = 16
    num_elites: int = 2
    num_iterations: int = 6
    step: float = 0.5
    init_std: float = 0.6

    def __post_init__(self) -> None:
        check_sizes(self, num_iterations=self.num_iterations)
        check_positive(self, step=self.step, init_std=self.init_std)

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
            ahead = bfgs.propose()
            if i + 1 == self.num_iterations:
                search.judge(ahead, num_finite=0)
            else:
                bfgs.learn(ahead, *search.judge_with_gradient(ahead, num_finite=0))
        return search.plan()


class _BFGS:
    """Projected BFGS (Nocedal and Wright 2006, chapter 6) on K sequences that share nothing.

    Numbers are in units of the spec's scale. Steps are no longer than a radius, which doubles with
    a step that descends and shrinks to a third of one that does not.
    """

    def __init__(
        self, at: Tensor, value: Tensor, gradient: Tensor, space: Space, step: float
    ) -> None:
        self._space, self._shape = space, at.shape
        self._unit = space.unit.expand(at.shape[1:]).flatten()  # [d], d = H * A
        self._at, self._value = at.flatten(1), value  # [K, d], [K]
        self._gradient = gradient.flatten(1) * self._unit
        self._inverse = torch.eye(len(self._unit)).to(at).repeat(len(at), 1, 1)  # [K, d, d]
        self._knows = torch.zeros_like(value, dtype=torch.bool)  # a curvature
        self._radius = torch.full_like(value, step)

    def propose(self) -> Tensor:
        """Where to look next, `[K, H, A]`."""
        ends = self._ends(self._at, self._gradient)
        slope = self._along(self._gradient, ends)
        step = -torch.einsum("kij,kj->ki", self._inverse, slope)
        step = self._along(step, ends)
        steepest = -slope / _length(slope) * self._radius[:, None]
        downhill = self._knows & ((step * slope).sum(1) < 0)
        step = torch.where(downhill[:, None], step, steepest)
        step = step * (self._radius[:, None] / _length(step)).clamp(max=1)
        return self._space.project((self._at + step * self._unit).view(self._shape))

    def _ends(self, at: Tensor, slope: Tensor, *, bounds: bool = True) -> tuple[Tensor, Tensor]:
        return self._space.ends(at.view(self._shape), slope.view(self._shape), bounds=bounds)

    def _along(self, vectors: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
        return along(vectors.view(self._shape), *ends).flatten(1)

    def _on_edge(self, at: Tensor, slope: Tensor) -> Tensor:
        return self._along(slope, self._ends(at, slope, bounds=False))

    def learn(self, there: Tensor, value: Tensor, gradient: Tensor) -> None:
        """What was found there; moves there where it is lower."""
        there, gradient = there.flatten(1), gradient.flatten(1) * self._unit
        step = (there - self._at) / self._unit.clamp(min=1e-12)
        # On the edge of a ball, what turns the slope is the edge as well as the cost.
        change = self._on_edge(there, gradient) - self._on_edge(self._at, self._gradient)
        curvature = (step * change).sum(1)
        usable = curvature > 1e-6 * _length(step)[:, 0] * _length(change)[:, 0]
        usable &= value.isfinite()
        curvature = torch.where(usable, curvature, 1.0)
        eye = torch.eye(step.shape[1]).to(step)
        first = (curvature / _length(change)[:, 0].square())[:, None, None] * eye
        before = torch.where(self._knows[:, None, None], self._inverse, first)
        across = eye - torch.einsum("ki,kj->kij", step, change) / curvature[:, None, None]
        outer = torch.einsum("ki,kj->kij", step, step) / curvature[:, None, None]
        updated = across @ before @ across.transpose(1, 2) + outer
        self._inverse = torch.where(usable[:, None, None], updated, self._inverse)
        self._knows |= usable
        lower = value < self._value
        far = _length(step)[:, 0]
        self._radius = torch.where(lower, self._radius.maximum(2 * far), far / 3)
        self._at = torch.where(lower[:, None], there, self._at)
        self._gradient = torch.where(lower[:, None], gradient, self._gradient)
        self._value = torch.where(lower, value, self._value)


def _length(rows: Tensor) -> Tensor:
    """Norms `[K, 1]` of `[K, d]`, never zero."""
    return rows.norm(dim=1, keepdim=True).clamp(min=1e-20)
