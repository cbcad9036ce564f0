from __future__ import annotations

import pytest
import torch

from robot_wm.objectives import GoalEnergy, region_weights
from robot_wm.types import Futures


def test_energy_is_the_distance_to_the_goal():
    goal = torch.randn(2, 3)
    latents = goal.expand(4, 5, 2, 3).clone()
    latents[1, -1] += 2.0
    latents[2, 0] += 2.0
    actions = torch.zeros(4, 5, 1)
    assert GoalEnergy(goal, distance="l2")(Futures(latents), actions).tolist() == [0, 4, 0, 0]
    assert GoalEnergy(goal, distance="l1")(Futures(latents), actions).tolist() == [0, 2, 0, 0]
    assert GoalEnergy(goal, horizon="mean")(Futures(latents), actions)[2] == pytest.approx(0.8)


def test_a_discount_weighs_the_steps():
    goal = torch.zeros(1, 1)
    latents = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    actions = torch.zeros(1, 3, 1)
    early = GoalEnergy(goal, horizon="mean", discount=0.5)(Futures(latents), actions)
    assert float(early) == pytest.approx(1 / 1.75)
    late = GoalEnergy(goal, horizon="mean", discount=2.0)(Futures(latents), actions)
    assert float(late) == pytest.approx(1 / 7)


def test_token_weights_choose_a_region():
    goal = torch.zeros(4, 2)
    latents = torch.zeros(1, 1, 4, 2)
    latents[0, 0, 3] = 1.0
    actions = torch.zeros(1, 1, 1)
    corner = GoalEnergy(goal, token_weights=region_weights((1, 2, 2), (0.5, 0.5, 1.0, 1.0)))
    assert float(corner(Futures(latents), actions)) == 1.0
    top = GoalEnergy(goal, token_weights=region_weights((1, 2, 2), (0.0, 0.0, 0.5, 1.0)))
    assert float(top(Futures(latents), actions)) == 0.0
    assert region_weights((1, 2, 2), (0, 0, 0.75, 1)) == [1.0, 1.0, 0.5, 0.5]
    assert region_weights((2, 2, 2), (0, 0, 0.75, 1)) == 2 * [1.0, 1.0, 0.5, 0.5]


def test_large_and_jerky_actions_cost_what_they_are_told_to():
    goal, latents = torch.zeros(1, 1), torch.zeros(2, 2, 1, 1)
    actions = torch.tensor([[[2.0], [2.0]], [[2.0], [0.0]]])
    assert GoalEnergy(goal, action_weight=3.0)(Futures(latents), actions).tolist() == [12.0, 6.0]
    assert GoalEnergy(goal, smoothness_weight=3.0)(Futures(latents), actions).tolist() == [
        0.0,
        12.0,
    ]
    unit = GoalEnergy(goal, action_weight=3.0, action_unit=[2.0])
    assert unit(Futures(latents), actions).tolist() == [3.0, 1.5]


def test_heads_that_disagree_cost_more():
    goal = torch.zeros(1, 1)
    agree, apart = torch.zeros(1, 1, 2, 1, 1), torch.tensor([-1.0, 1.0]).view(1, 1, 2, 1, 1)
    latents, actions = torch.cat((agree, apart)), torch.zeros(2, 1, 1)
    assert GoalEnergy(goal)(Futures(latents), actions).tolist() == [0.0, 0.0]
    assert GoalEnergy(goal, disagreement_weight=0.5)(Futures(latents), actions).tolist() == [
        0.0,
        0.5,
    ]


def test_the_beginning_of_a_future_is_judged_like_a_shorter_one():
    goal, latents, actions = torch.randn(2, 3), torch.randn(4, 5, 2, 3), torch.randn(4, 5, 2)
    whole = GoalEnergy(goal, horizon="mean", action_weight=0.1, smoothness_weight=0.1)
    torch.testing.assert_close(
        whole(Futures(latents[:, :1]), actions[:, :1]),
        (latents[:, 0] - goal).square().mean((1, 2)) + 0.1 * actions[:, 0].square().mean(1),
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"distance": "cosine"},
        {"horizon": "first"},
        {"discount": 0.0},
        {"discount": 1e30},
        {"token_weights": "most"},
        {"action_unit": ["a"]},
        {"discount": float("nan")},
        {"token_weights": [1.0]},
        {"token_weights": [0.0, 0.0]},
        {"token_weights": [1.0, float("nan")]},
        {"action_weight": -1.0},
        {"smoothness_weight": float("inf")},
        {"disagreement_weight": float("nan")},
        {"action_unit": [0.0]},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        GoalEnergy(torch.zeros(2, 3), **bad)


def test_another_encoders_latents_are_refused():
    with pytest.raises(ValueError, match="goal has"):
        GoalEnergy(torch.zeros(2, 3))(Futures(torch.zeros(4, 5, 2, 4)), torch.zeros(4, 5, 1))


def test_a_region_needs_tokens_with_a_place():
    with pytest.raises(ValueError, match="no place in the picture"):
        region_weights((1, 1, 4), (0, 0, 1, 1))
    for region in ((0.5, 0, 0.5, 1), (0, 0, 1, 2), (0, 0, 1), 5, ("a", 0, 1, 1)):
        with pytest.raises(ValueError, match="region"):
            region_weights((1, 2, 2), region)
