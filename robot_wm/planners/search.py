"""What planners share: legal candidates, judged costs, the best so far, and when to give up."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from robot_wm.planners.protocol import Cost
from robot_wm.types import ActionSpec, FloatArray, Plan, PlanningError, UserError, check_counts

GRADIENT_COST = 2  # in evaluations: a pass back through a network costs two passes forward
_EDGE = 1e-4  # of the trust region's radius: nearer to its edge is at it
_DIFFERENCE = 0.05  # in units of the spec's scale: above what rendered pixels quantise


class Space:
    """An ActionSpec in torch: what sequences are legal, and how wide a search starts.

    Args:
        spec: legal actions.
        horizon: H.
        device: of the candidates.
    """

    def __init__(self, spec: ActionSpec, horizon: int, device: torch.device) -> None:
        def tensor(value: FloatArray) -> Tensor:
            return torch.tensor(value, dtype=torch.float32, device=device)

        self.spec, self.horizon, self.device = spec, horizon, device
        self.rest = tensor(spec.rest)
        # One whose range is nothing in float32 is fixed, too.
        free = spec.free & (spec.low.astype(np.float32) < spec.high.astype(np.float32))
        self.low = tensor(np.where(free, spec.low, spec.rest))
        self.high = tensor(np.where(free, spec.high, spec.rest))
        self.unit = tensor(spec.unit * free)  # nothing spreads along a fixed dimension
        self._divisor = tensor(spec.unit)

    def project(self, actions: Tensor) -> Tensor:
        """Sequences `[..., A]` to legal ones, as `ActionSpec.clip` does."""
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

    def ends(self, actions: Tensor, slope: Tensor, *, bounds: bool = True) -> tuple[Tensor, Tensor]:
        """What legal sequences `[..., A]` press against, where a cost falls beyond it.

        Descent without that (`along`) stays legal to first order: where nothing is left of it, a
        projected search may end, whatever it scales its steps by (Bertsekas 1982).

        Args:
            actions: legal sequences.
            slope: of the cost there, per unit of the spec's scale, `[..., A]`.
            bounds: whether bounds are looked at, beside the trust region.

        Returns:
            Numbers that are at an end `[..., A]`, and what points out of the trust region's ball,
            of length one where an action is at its edge and zero elsewhere, `[..., A]`.
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
        """A known beginning `[h, A]`, continued by rest: `[H, A]`."""
        start = np.tile(self.spec.rest, (self.horizon, 1))
        if actions is not None:
            known = min(self.horizon, len(actions))
            start[:known] = self.spec.clip(actions[:known])
        return torch.tensor(start, dtype=torch.float32, device=self.device)


class Searcher(Protocol):
    """What a search asks of its planner."""

    horizon: int
    num_samples: int
    num_elites: int


class Search:
    """One search: judges candidates, keeps the best, counts, and makes the Plan of it.

    Attributes:
        space: where it searches.
        mean: where it starts, `[H, A]`: the warm start, continued by rest.
        actions: the best sequences so far, `[K, H, A]`, best first.
        costs: theirs, `[K]`.

    Args:
        planner: keeps num_elites sequences, and asks as many finite costs of every batch of
            candidates.
        cost: what is minimised.
        spec: legal actions.
        init: the warm start.
        generator: of the noise, on the device to search on.
    """

    def __init__(
        self,
        planner: Searcher,
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
        self._course: list[float] = []
        self._num_evaluated = self._num_finite = self._num_gradients = 0

    def around(self, mean: Tensor, std: Tensor, num: int) -> Tensor:
        """A sequence `[H, A]` and normal noise about it: `[num, H, A]`, all legal."""
        noise = normal((num - 1, *mean.shape), self._generator)
        return self.space.project(torch.cat((mean[None], mean + std * noise)))

    def judge(self, candidates: Tensor, *, num_finite: int | None = None) -> Tensor:
        """Costs `[N]` of legal candidates `[N, H, A]`, +inf where they are not finite.

        Args:
            candidates: sequences.
            num_finite: as many finite costs are asked for; as many as elites where None, or all
                where there are fewer candidates.

        Raises:
            PlanningError: fewer finite costs than that.
            UserError: the cost has another shape.
        """
        costs = finite_costs(self._cost(candidates).detach(), len(candidates))
        self._note(candidates, costs, num_finite)
        return costs

    def judge_with_gradient(
        self, candidates: Tensor, *, num_finite: int | None = None, known: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As `judge`, with the gradients `[N, H, A]`; zero where they are not finite.

        Where the cost has no gradient, as that of a simulator, each is taken from differences
        along every free number of the sequence, `H * A` more evaluations.

        Args:
            candidates: sequences.
            num_finite: as in `judge`.
            known: they were judged before, and are not kept a second time.
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
        """Gradients `[N, H, A]` by one-sided differences, of legal sequences alone."""
        space, shape = self.space, candidates.shape
        free = space.unit.expand(shape[1:]).flatten().nonzero()[:, 0]
        width = torch.minimum(space.unit, (space.high - space.low) / 2)
        if space.spec.trust_radius is not None:
            width = torch.minimum(width, space.spec.trust_radius * space.unit)
        size, rest, low, high = (
            value.expand(shape[1:]).flatten()
            for value in (_DIFFERENCE * width, space.rest, space.low, space.high)
        )
        # Toward rest, where the trust region ends last, and away from a bound that is too near.
        flat = candidates.flatten(1)
        down = (flat > rest) & (flat - size >= low) | (flat + size > high)
        moved = flat[:, None].repeat(1, len(free), 1)  # [N, free, H * A]
        moved[:, torch.arange(len(free)), free] += torch.where(down, -size, size)[:, free]
        legal = space.project(moved.view(-1, *shape[1:]))
        there = finite_costs(self._cost(legal).detach(), len(legal))
        self._num_evaluated += len(legal)
        self._num_finite += int(there.isfinite().sum())
        # The steps that were made, not those that were meant: the trust region bends some.
        steps = (legal.flatten(1).view(moved.shape) - flat[:, None])[:, :, free]
        changes = there.view(len(costs), -1) - costs[:, None]
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
        self._course.append(float(self.costs[0]))

    def plan(self) -> Plan:
        """The best sequence, its cost judged once more, and how the search went.

        Raises:
            PlanningError: that cost is not finite.
        """
        kept = self.costs.isfinite()
        elites = self.space.spec.clip(self.actions[kept].cpu().numpy())
        if not len(elites):
            raise PlanningError("no candidate has a finite cost")
        best = torch.tensor(elites[:1], dtype=torch.float32, device=self.space.device)
        cost = float(finite_costs(self._cost(best).detach(), 1)[0])
        self._num_evaluated += 1
        if not math.isfinite(cost):
            raise PlanningError("the best sequence's cost is not finite when it is judged again")
        self._num_finite += 1
        return Plan(
            actions=elites[0],
            cost=cost,
            elites=elites,
            info={
                "cost_by_iteration": self._course,
                "num_evaluated": self._num_evaluated,
                "num_finite": self._num_finite,
                "num_gradients": self._num_gradients,
                "elite_costs": self.costs[kept].tolist(),
            },
        )


def along(vectors: Tensor, pressed: Tensor, outward: Tensor) -> Tensor:
    """Vectors `[..., A]` without what `Space.ends` found that sequences press against."""
    vectors = vectors - (vectors * outward).sum(-1, keepdim=True) * outward
    return vectors.masked_fill(pressed, 0.0)


def finite_costs(costs: Tensor, num_candidates: int) -> Tensor:
    """Costs `[N]` with every non-finite one turned into +inf.

    Raises:
        ValueError: the cost function returned another shape.
    """
    if tuple(costs.shape) != (num_candidates,):
        raise ValueError(f"cost: got shape {tuple(costs.shape)}, want ({num_candidates},)")
    return torch.where(costs.isfinite(), costs, torch.inf)


def normal(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers on the generator's device."""
    return torch.randn(size, generator=generator, device=generator.device)


def spread(num_evaluated: int, num_iterations: int, num_elites: int) -> dict[str, int]:
    """Settings of a search whose iterations are alike and come to so many evaluations."""
    samples = max(1, num_evaluated // num_iterations)
    return {"num_samples": samples, "num_elites": min(num_elites, samples)}


def check_sizes(planner: Searcher, **others: int) -> None:
    """Raises UserError unless all are at least 1 and the elites no more than the samples."""
    name, samples, elites = type(planner).__name__, planner.num_samples, planner.num_elites
    counts = {"horizon": planner.horizon, "num_samples": samples, "num_elites": elites, **others}
    check_counts(**{f"{name}.{key}": value for key, value in counts.items()})
    if elites > samples:
        raise UserError(f"num_elites: got {elites}, want at most num_samples={samples}")


def check_spread(planner: object, *, min_std: float, init_std: float) -> None:
    """Raises UserError unless 0 < min_std <= init_std, both finite."""
    if not 0 < min_std <= init_std < math.inf:
        raise UserError(
            f"{type(planner).__name__}: got min_std={min_std}, init_std={init_std}; "
            f"want 0 < min <= init"
        )


def check_positive(planner: object, **values: float) -> None:
    """Raises UserError unless every value is a number above zero, and finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise UserError(
                f"{type(planner).__name__}.{name}: got {value}, want a number above zero"
            )
