"""The interface of planners: minimise a cost over action sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from robot_wm.types import ActionSpec, Plan

Cost = Callable[[Tensor], Tensor]


class Planner(Protocol):
    """Minimises a cost over action sequences. It sees a function, never a model."""

    @property
    def horizon(self) -> int:
        """Actions per sequence, H."""
        ...

    def with_budget(self, num_evaluated: int) -> Planner:
        """Returns the same search, sized so that a plan evaluates about so many sequences.

        Args:
            num_evaluated: sequences per plan; a gradient counts as `search.GRADIENT_COST` more.

        Returns:
            A planner of the same kind.
        """
        ...

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """Searches for the action sequence of the lowest cost.

        Args:
            cost: maps action sequences `[N, H, A]`, float32, robot's units, to costs `[N]`.
            spec: legal actions.
            init: a plan to start from, already shifted to now; its horizon may be shorter.
            generator: the only source of randomness, on the device to plan on.

        Returns:
            The best sequence, its cost, and diagnostics.

        Raises:
            PlanningError: too few candidates with a finite cost.
            UserError: the cost has the wrong shape.
        """
        ...


def shift(plan: Plan, num_executed: int) -> Plan:
    """Returns the rest of a plan after `num_executed` actions: the warm start of the next one."""
    elites = None if plan.elites is None else plan.elites[:, num_executed:]
    return replace(plan, actions=plan.actions[num_executed:], elites=elites)
