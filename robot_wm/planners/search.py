"""What planners share: legal candidates, evaluated costs, the best so far, and failure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from robot_wm.planners.protocol import Cost
from robot_wm.types import (
    ActionSpec,
    Count,
    FloatArray,
    Plan,
    PlanningError,
    Positive,
    UserError,
    check_fields,
)

_Gaussian = TypeVar("_Gaussian", bound="GaussianSettings")
GRADIENT_COST = 2  # in evaluations: a pass back through a network costs two passes forward
_EDGE = 1e-4  # of the trust region's radius: an action nearer to its edge counts as on it
_DIFFERENCE = 0.05  # of the spec's scale; a smaller step drowns in rendered pixels' quantisation


class Space:
    """An ActionSpec in torch: which sequences are legal, and how wide a search starts.

    Args:
        spec: The legal actions.
        horizon: Number of actions per sequence, H.
        device: Device of the candidates.
    """

    def __init__(self, spec: ActionSpec, horizon: int, device: torch.device) -> None:
        def tensor(value: FloatArray) -> Tensor:
            return torch.tensor(value, dtype=torch.float32, device=device)

        self.spec, self.horizon, self.device = spec, horizon, device
        self.rest = tensor(spec.rest)
        # A dimension whose range vanishes in float32 is fixed, too.
        free = spec.free & (spec.low.astype(np.float32) < spec.high.astype(np.float32))
        self.low = tensor(np.where(free, spec.low, spec.rest))
        self.high = tensor(np.where(free, spec.high, spec.rest))
        self.unit = tensor(spec.unit * free)  # nothing spreads along a fixed dimension
        self._divisor = tensor(spec.unit)

    def project(self, actions: Tensor) -> Tensor:
        """Projects sequences `[..., A]` to legal ones, as `ActionSpec.clip` does."""
        actions = actions.clamp(self.low, self.high)
        radius = self.spec.trust_radius
        if radius is None:
            return actions
        away = (actions - self.rest) / self._divisor
        if self.spec.trust_norm == "box":
            away = away.clamp(-radius, radius)
        else:
            away = away / (away.norm(dim=-1, keepdim=True) / radius).clamp(min=1)
        return self.rest + away * self._divisor

    def scaled(self, actions: Tensor) -> Tensor:
        """Returns the way of actions `[..., A]` from rest, in units of the spec's scale."""
        return (actions - self.rest) / self._divisor

    def ends(self, actions: Tensor, slope: Tensor, *, bounds: bool = True) -> tuple[Tensor, Tensor]:
        """Finds active constraints: bounds and trust-region edges that descent would push against.

        Descent without these components (`along`) stays legal to first order: where nothing is left
        of it, a projected search may end, whatever it scales its steps by (Bertsekas 1982).

        Args:
            actions: Legal sequences `[..., A]`.
            slope: Gradient of the cost there, per unit of the spec's scale, `[..., A]`.
            bounds: Whether the bounds are included, beside the trust region.

        Returns:
            Which components are at an active bound `[..., A]`, bool; and the outward normal of the
            trust region's ball, of length one where an action is on its edge and zero elsewhere,
            `[..., A]`.
        """
        pressed = torch.zeros_like(slope, dtype=torch.bool)
        if bounds:
            pressed = (actions <= self.low) & (slope > 0) | (actions >= self.high) & (slope < 0)
        radius, outward = self.spec.trust_radius, torch.zeros_like(slope)
        if radius is None:
            return pressed, outward
        away = (actions - self.rest) / self._divisor
        if self.spec.trust_norm == "box":
            return pressed | (away.abs() >= radius * (1 - _EDGE)) & (slope * away < 0), outward
        length = away.norm(dim=-1, keepdim=True)
        beyond = (slope * away).sum(-1, keepdim=True) < 0
        at_edge = (length >= radius * (1 - _EDGE)) & beyond
        return pressed, torch.where(at_edge, away / length.clamp(min=1e-20), outward)

    def sequence(self, actions: FloatArray | None) -> Tensor:
        """Returns first actions `[h, A]` continued by no-ops, `[H, A]`; None: no-ops alone."""
        start = np.tile(self.spec.rest, (self.horizon, 1))
        if actions is not None:
            num_given = min(self.horizon, len(actions))
            start[:num_given] = self.spec.clip(actions[:num_given])
        return torch.tensor(start, dtype=torch.float32, device=self.device)


@dataclass(kw_only=True)
class SearchSettings:
    """Settings that every planner has.

    Attributes:
        horizon: Number of actions per sequence, H.
        num_samples: Number of sequences per iteration, N.
        num_elites: Number of the best sequences that are kept.

    Raises:
        UserError: a value is out of range, `num_elites` is above `num_samples`, or `min_std` above
            `init_std`.
    """

    horizon: Count = 1
    num_samples: Count = 64
    num_elites: Count = 8

    def __post_init__(self) -> None:
        check_fields(self)
        samples, elites = self.num_samples, self.num_elites
        if elites > samples:
            raise UserError(f"num_elites: got {elites}, want at most num_samples={samples}")
        min_std, init_std = getattr(self, "min_std", 0.0), getattr(self, "init_std", math.inf)
        if min_std > init_std:
            raise UserError(f"min_std: got {min_std}, want at most init_std={init_std}")


@dataclass(kw_only=True)
class GaussianSettings(SearchSettings):
    """Settings of a planner that narrows a Gaussian over equal iterations.

    Attributes:
        num_iterations: Number of updates of the Gaussian.
        init_std: First standard deviation, in units of the spec's scale.
        min_std: Lower bound of the standard deviation, in the same units.
    """

    num_iterations: Count = 3
    init_std: Positive = 0.6
    min_std: Positive = 0.05

    def begin(
        self, cost: Cost, spec: ActionSpec, init: Plan | None, generator: torch.Generator
    ) -> tuple[Search, Tensor]:
        """Returns a search, and the first standard deviation `[H, A]` around its mean."""
        search = Search(self, cost, spec, init, generator)
        return search, (self.init_std * search.space.unit).expand_as(search.mean)

    def with_budget(self: _Gaussian, num_evaluated: int) -> _Gaussian:
        """See `Planner.with_budget`."""
        return replace(self, **spread(num_evaluated, self.num_iterations, self.num_elites))


class Searching(Protocol):
    """What a search must know of its planner."""

    @property
    def horizon(self) -> int:
        """Number of actions per sequence, H."""
        ...

    @property
    def num_elites(self) -> int:
        """Number of the best sequences that are kept, K."""
        ...


class Search:
    """One search: evaluates candidates, keeps the best, counts, and makes the Plan.

    `space` is where it searches. `mean` `[H, A]` is its start, the warm start continued by no-ops.
    `actions` `[K, H, A]` and `costs` `[K]` are the best sequences so far, best first.

    Args:
        planner: Settings of the planner; `num_elites` sequences are kept, and as many costs must be
            finite in every batch.
        cost: The cost function that is minimised.
        spec: The legal actions.
        init: The warm start.
        generator: Generator of the noise, on the device to search on.
    """

    def __init__(
        self,
        planner: Searching,
        cost: Cost,
        spec: ActionSpec,
        init: Plan | None,
        generator: torch.Generator,
    ) -> None:
        self.space = Space(spec, planner.horizon, generator.device)
        self.mean = self.space.sequence(None if init is None else init.actions)
        self.actions = self.mean[None][:0]
        self.costs = self.mean.new_zeros(0)
        self._cost, self._num_elites, self._generator = cost, planner.num_elites, generator
        self._best_costs: list[float] = []
        self._num_evaluated = self._num_finite = self._num_gradients = 0

    def around(self, mean: Tensor, std: Tensor, num: int) -> Tensor:
        """Returns `mean` `[H, A]` and normal noise about it, `[num, H, A]`, all legal."""
        noise = normal((num - 1, *mean.shape), self._generator)
        return self.space.project(torch.cat((mean[None], mean + std * noise)))

    def judge(self, candidates: Tensor, *, num_finite: int | None = None) -> Tensor:
        """Evaluates legal candidates.

        Args:
            candidates: Sequences `[N, H, A]`.
            num_finite: Number of costs that must be finite, at most N; None: as many as elites.

        Returns:
            Costs `[N]`, +inf where they are not finite.

        Raises:
            PlanningError: fewer costs than that are finite.
            ValueError: the cost has the wrong shape.
        """
        costs = finite_costs(self._cost(candidates).detach(), len(candidates))
        self._note(candidates, costs, num_finite)
        return costs

    def judge_with_gradient(
        self, candidates: Tensor, *, num_finite: int | None = None, known: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Evaluates legal candidates and the cost's gradients.

        Where the cost has no gradient, as that of a simulator, each is taken from finite
        differences along every free number of the sequence: up to `H * A` more evaluations.

        Args:
            candidates: Sequences `[N, H, A]`.
            num_finite: Number of costs that must be finite, as in `judge`.
            known: Whether the candidates were evaluated before, and are not kept a second time.

        Returns:
            Costs `[N]` as `judge`, and gradients `[N, H, A]`, zero where they are not finite.
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf = candidates.detach().requires_grad_()
            raw = self._cost(leaf)
            costs = finite_costs(raw.detach(), len(leaf))
            differentiable = raw.requires_grad
            if differentiable:
                (gradient,) = torch.autograd.grad(raw[costs.isfinite()].sum(), leaf)
                self._num_gradients += len(leaf)
        self._note(candidates, costs, num_finite, keep=not known)
        if not differentiable:
            gradient = self._differences(candidates, costs)
        return costs, gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def _differences(self, candidates: Tensor, costs: Tensor) -> Tensor:
        """Returns gradients `[N, H, A]` by one-sided differences between legal sequences."""
        space, shape = self.space, candidates.shape
        free = space.unit.expand(shape[1:]).flatten().nonzero()[:, 0]
        width = torch.minimum(space.unit, (space.high - space.low) / 2)
        if space.spec.trust_radius is not None:
            width = torch.minimum(width, space.spec.trust_radius * space.unit)
        size, rest, low, high = (
            value.expand(shape[1:]).flatten()
            for value in (_DIFFERENCE * width, space.rest, space.low, space.high)
        )
        # Toward rest, away from the trust region's edge, and away from a bound that is too near.
        flat = candidates.flatten(1)
        down = (flat > rest) & (flat - size >= low) | (flat + size > high)
        moved = flat[:, None].repeat(1, len(free), 1)  # [N, free, H * A]
        moved[:, torch.arange(len(free)), free] += torch.where(down, -size, size)[:, free]
        legal = space.project(moved.view(-1, *shape[1:]))
        moved_costs = finite_costs(self._cost(legal).detach(), len(legal))
        self._num_evaluated += len(legal)
        self._num_finite += int(moved_costs.isfinite().sum())
        # The steps as projected, not as intended: the trust region bends some.
        steps = (legal.flatten(1).view(moved.shape) - flat[:, None])[:, :, free]
        changes = moved_costs.view(len(costs), -1) - costs[:, None]
        changes = torch.where(changes.isfinite(), changes, 0.0)
        gradient = torch.zeros_like(flat)
        gradient[:, free] = torch.linalg.solve(steps, changes)
        return gradient.view(shape)

    def _note(
        self, candidates: Tensor, costs: Tensor, num_finite: int | None, *, keep: bool = True
    ) -> None:
        finite = int(costs.isfinite().sum())
        needed = min(self._num_elites if num_finite is None else num_finite, len(costs))
        if finite < needed:
            raise PlanningError(
                f"{finite} of {len(costs)} candidates have a finite cost; {needed} are needed"
            )
        if keep:
            pool, pool_costs = torch.cat((self.actions, candidates)), torch.cat((self.costs, costs))
            best = pool_costs.argsort(stable=True)[: self._num_elites]
            self.actions, self.costs = pool[best], pool_costs[best]
        self._num_evaluated += len(costs)
        self._num_finite += finite
        self._best_costs.append(float(self.costs[0]))

    def plan(self, chosen: Tensor | None = None) -> Plan:
        """Makes the plan: the best sequence, evaluated once more, the elites, and diagnostics.

        Args:
            chosen: A sequence `[H, A]` that is taken instead of the best one.

        Returns:
            The plan.

        Raises:
            PlanningError: no candidate has a finite cost, or the best one has none when it is
                evaluated again.
        """
        kept = self.costs.isfinite()
        elites = self.space.spec.clip(self.actions[kept].cpu().numpy())
        if not len(elites):
            raise PlanningError("no candidate has a finite cost")
        best = elites[:1]
        if chosen is not None:
            best = self.space.spec.clip(chosen[None].cpu().numpy())
        judged = torch.tensor(best, dtype=torch.float32, device=self.space.device)
        cost = float(finite_costs(self._cost(judged).detach(), 1)[0])
        self._num_evaluated += 1
        if not math.isfinite(cost):
            raise PlanningError("the best sequence's cost is not finite when it is judged again")
        self._num_finite += 1
        return Plan(
            actions=best[0],
            cost=cost,
            elites=elites,
            info={
                "cost_by_iteration": self._best_costs,
                "num_evaluated": self._num_evaluated,
                "num_finite": self._num_finite,
                "num_gradients": self._num_gradients,
                "elite_costs": self.costs[kept].tolist(),
            },
        )


def along(vectors: Tensor, pressed: Tensor, outward: Tensor) -> Tensor:
    """Removes from vectors `[..., A]` the components that `Space.ends` found blocked."""
    vectors = vectors - (vectors * outward).sum(-1, keepdim=True) * outward
    return vectors.masked_fill(pressed, 0.0)


def finite_costs(costs: Tensor, num_candidates: int) -> Tensor:
    """Turns non-finite costs into +inf.

    Args:
        costs: Costs of the candidates.
        num_candidates: Number of the candidates, N.

    Returns:
        Costs `[N]`.

    Raises:
        ValueError: the cost function returned the wrong shape.
    """
    if tuple(costs.shape) != (num_candidates,):
        raise ValueError(f"cost: got shape {tuple(costs.shape)}, want ({num_candidates},)")
    return torch.where(costs.isfinite(), costs, torch.inf)


def normal(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws standard normal numbers on the generator's device."""
    return torch.randn(size, generator=generator, device=generator.device)


def spread(num_evaluated: int, num_iterations: int, num_elites: int) -> dict[str, int]:
    """Returns `num_samples` and `num_elites` of equal iterations with so many evaluations."""
    samples = max(1, num_evaluated // num_iterations)
    return {"num_samples": samples, "num_elites": min(num_elites, samples)}
