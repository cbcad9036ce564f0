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
        """Number of actions per sequence, H."""
        ...

    def with_budget(self, num_evaluated: int) -> Planner:
        """Returns the same search, sized so that a plan evaluates about so many sequences.

        Args:
            num_evaluated: Number of sequences per plan; a gradient counts as
                `search.GRADIENT_COST` more.

        Returns:
            A planner of the same kind.
        """
        ...

    def plan(
        self, cost: Cost, spec: ActionSpec, *, init: Plan | None, generator: torch.Generator
    ) -> Plan:
        """Searches for the action sequence of the lowest cost.

        Args:
            cost: A function that maps action sequences `[N, H, A]`, float32, in the robot's units,
                to costs `[N]`.
            spec: The legal actions.
            init: The plan to start from, already shifted to now; it may be shorter than H.
            generator: The only source of randomness, on the device to plan on.

        Returns:
            The best sequence, its cost, and diagnostics.

        Raises:
            PlanningError: too few candidates have a finite cost.
            ValueError: the cost has the wrong shape.
        """
        ...


def shift(plan: Plan, num_executed: int) -> Plan:
    """Returns the rest of a plan after `num_executed` actions: the warm start of the next one."""
    elites = None if plan.elites is None else plan.elites[:, num_executed:]
    return replace(plan, actions=plan.actions[num_executed:], elites=elites)
