"""Checks that an Objective keeps its interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from robot_wm.types import Futures

if TYPE_CHECKING:  # torch takes a second, and whoever checks an env needs none
    from torch import Tensor

    from robot_wm.objectives import Objective


def check_objective(
    make: Callable[[Tensor], Objective], *, num_tokens: int = 4, dim: int = 6, action_size: int = 3
) -> None:
    """Checks an Objective against what planner, controller and search budget expect of it.

    Args:
        make: A function that makes the objective from a goal's latent `[P, D]`.
        num_tokens: Number of tokens of a latent, P.
        dim: Length of a token, D.
        action_size: Length of an action, A.

    Raises:
        AssertionError: the interface is broken; the message says where.
    """
    import torch

    draw = torch.Generator().manual_seed(0)
    goal = torch.randn(num_tokens, dim, generator=draw)
    objective, (num, horizon) = make(goal), (5, 3)
    away = torch.randn(num, horizon, num_tokens, dim, generator=draw)
    latents = goal + torch.linspace(0, 1, num).view(num, 1, 1, 1) * away  # the first is the goal
    actions = torch.randn(num, horizon, action_size, generator=draw) * 0.01
    still = torch.zeros_like(actions)

    def cost(latents: Tensor, actions: Tensor) -> Tensor:
        return objective(Futures(latents), actions)

    before = latents.clone()
    costs = cost(latents, actions)
    assert torch.equal(latents, before), "cost: the futures were changed"
    assert costs.shape == (num,), f"cost: got shape {tuple(costs.shape)}, want [N]"
    assert costs.isfinite().all(), f"cost: {costs.tolist()} of finite futures"
    assert torch.equal(cost(latents, actions), costs), "cost: another one of the same futures"
    turned = cost(latents.flip(0), actions.flip(0)).flip(0)
    assert torch.allclose(turned, costs), "cost: depends on the other candidates or their order"
    alone = torch.cat([cost(latents[i : i + 1], actions[i : i + 1]) for i in range(num)])
    assert torch.allclose(alone, costs), "cost: depends on the other candidates or their order"
    by_distance = cost(latents, still)
    assert by_distance[0] == by_distance.min(), (
        f"cost: being at the goal costs {by_distance[0]}, others {by_distance}"
    )
    heads = latents[:, :, None].expand(-1, -1, 2, -1, -1)
    same = cost(heads, actions)
    assert torch.allclose(same, costs), "cost: two heads that agree cost other than one"
    leaf = latents.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cost(leaf, actions).sum(), leaf)
    assert slope.isfinite().all(), "cost: a gradient that is not finite"
    assert slope[1:].any(), "cost: no gradient with respect to the futures"

    energies = objective.energy(latents)
    assert energies.shape == (num, horizon), f"energy: got shape {tuple(energies.shape)}"
    assert (energies >= 0).all(), f"energy: below zero: {energies.min()}"
    assert (energies[0] <= 1e-6).all(), f"energy: {energies[0].max()} at the goal itself"
    assert (energies[1:] > 0).all(), "energy: nothing away from the goal"
    one = objective.energy(latents[2, 0])
    assert one.shape == () and torch.allclose(one, energies[2, 0]), "energy: of one latent"
