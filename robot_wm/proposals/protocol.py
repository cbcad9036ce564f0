"""The interface of proposers: where candidate actions come from before any search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robot_wm.planners import Space, likeness
from robot_wm.types import Plan, PlanningError


@dataclass(frozen=True, eq=False)
class Situation:
    """What a proposer is told.

    Attributes:
        latent: Latent of the last observation `[P, D]`.
        goal: Latent of the goal `[P, D]`.
        proprio: Proprioception of the last observation `[Q]`, float32, in the robot's units.
    """

    latent: Tensor
    goal: Tensor
    proprio: Tensor


class Proposer(Protocol):
    """Proposes actions that lead from a situation toward its goal."""

    def propose(self, situation: Situation, num: int, generator: torch.Generator) -> Tensor:
        """Proposes sequences of actions.

        Args:
            situation: What the robot sees, and what it is to see.
            num: Number of sequences, N.
            generator: The only source of randomness, on the device of the latents.

        Returns:
            Sequences `[N, h, A]` in the robot's units; fewer than N where there are no more. They
            need not be legal.
        """
        ...


@dataclass(frozen=True)
class Proposals:
    """All that is proposed in a situation, and what to do without a search.

    Attributes:
        proposers: The proposers, which share the number of sequences equally.
        num: Number of sequences of all together, N.
        keep_last: Whether the rest of the last plan is among them.
        commitment: Weight of the last plan among all proposals where one is chosen that most
            resemble: at 0.5 it counts as much as half of them. Between several ways to a goal, a
            policy that draws one anew at every step dithers.
        search: Whether a planner searches from there; otherwise what most proposals resemble is
            executed as it is.
    """

    proposers: tuple[Proposer, ...]
    num: int = 64
    keep_last: bool = False
    commitment: float = 0.5
    search: bool = True

    def propose(
        self,
        situation: Situation,
        space: Space,
        *,
        last: Plan | None,
        generator: torch.Generator,
    ) -> Plan:
        """Collects the proposals.

        Args:
            situation: What the robot sees, and what it is to see.
            space: The legal sequences of H actions; shorter proposals go on without motion.
            last: The rest of the last plan.
            generator: The only source of randomness.

        Returns:
            A plan whose elites are all legal proposals, of which its actions are the densest. Its
            cost is not known, and stands as 0.

        Raises:
            PlanningError: nothing is proposed, or an action that is not finite.
        """
        kept = None if last is None else space.sequence(last.actions)
        proposed = [kept[None]] if self.keep_last and kept is not None else []
        for i, proposer in enumerate(self.proposers):
            share = self.num // len(self.proposers) + (i < self.num % len(self.proposers))
            actions = proposer.propose(situation, share, generator)[:, : space.horizon]
            missing = space.horizon - actions.shape[1]
            proposed.append(torch.cat((actions, space.rest.expand(len(actions), missing, -1)), 1))
        # One of each in turn, as a planner may begin with the first ones alone.
        turns = [torch.arange(len(actions)) * len(proposed) + i
                 for i, actions in enumerate(proposed)]  # fmt: skip
        candidates = torch.cat(proposed)[torch.cat(turns).argsort().to(space.device)]
        if not len(candidates) or not candidates.isfinite().all():  # a projection passes NaN
            raise PlanningError("nothing is proposed, or what is not finite")
        candidates = space.project(candidates)
        actions = space.spec.clip(candidates.cpu().numpy())
        weight = self.commitment * len(candidates)
        chosen = densest(
            space.scaled(candidates), None if kept is None else space.scaled(kept), weight
        )
        return Plan(actions[chosen], 0.0, elites=actions)


def densest(candidates: Tensor, last: Tensor | None = None, weight: float = 0.0) -> int:
    """Returns the index of the candidate that most others resemble.

    Where there are several ways to a goal, the mean of a policy's samples lies between them and is
    none of them (Chi et al. 2023, arXiv 2303.04137); their mode is one.

    Args:
        candidates: Sequences `[N, H, A]`, in units in which the actions' dimensions compare.
        last: A further sequence `[H, A]`, which is not chosen; None: there is none.
        weight: Number of candidates that it counts as.

    Returns:
        The index.
    """
    if last is None:
        return int(likeness(candidates).sum(1).argmax())
    alike = likeness(torch.cat((candidates, last[None])))[:-1]
    return int((alike[:, :-1].sum(1) + weight * alike[:, -1]).argmax())
