"""The cost of imagined futures: where work is saved, what remains is exact."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import SPEC, PointEnv, make_model
from test_loop import PointModel

from robot_wm.controller import MPC
from robot_wm.imagination import (
    EXACT,
    ImaginedCost,
    SearchBudget,
    continued,
    elite_agreement,
    ranking_survives,
)
from robot_wm.objectives import GoalEnergy
from robot_wm.planners import CEM
from robot_wm.predictor import Predictor, PredictorConfig
from robot_wm.types import Futures, Goal, PlanningError


@pytest.fixture(scope="module")
def scene():
    """A model, where it is, what it wants, and 64 candidates of horizon 4."""
    model, env = make_model(context_frames=2), PointEnv()
    goal = GoalEnergy(model.embed(env.reset(1).images))
    state = model.observe(model.initial(), env.reset(0), None)
    state = model.observe(state, env.observe(), env.apply(np.array([0.05, 0.0])))
    generator = torch.Generator().manual_seed(0)
    actions = 0.2 * torch.rand((64, 4, 2), generator=generator) - 0.1
    return model, state, goal, actions


def cost(scene, **search_budget):
    model, state, goal, actions = scene
    with torch.inference_mode():
        return ImaginedCost(model, state, goal, replace(EXACT, **search_budget))(actions)


def test_without_economy_it_is_the_objective_of_the_rollout(scene):
    model, state, goal, actions = scene
    with torch.inference_mode():
        assert torch.equal(cost(scene), goal(model.rollout(state, actions), actions))


def test_survivors_cost_what_they_cost_and_the_dropped_cost_more(scene):
    exact, saved = cost(scene), cost(scene, keep_share=0.5)
    assert saved.isfinite().all()
    survivors = torch.isclose(exact, saved, rtol=1e-5, atol=1e-7)
    assert survivors.sum() == 64 * 0.25
    assert saved[~survivors].min() > saved[survivors].max()


def test_a_future_goes_on_as_its_actions_say():
    generator = torch.Generator().manual_seed(0)
    actions = torch.randn((32, 4, 2), generator=generator)
    effect = torch.randn((2, 6), generator=generator)
    truth = (1.0 + actions.cumsum(1) @ effect).view(32, 4, 3, 2)
    torch.testing.assert_close(continued(truth[:, :1], actions), truth, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(continued(truth[:, :3], actions), truth, rtol=1e-2, atol=1e-2)
    units = torch.tensor([1e-2, 1e2])  # metres beside percent, say
    torch.testing.assert_close(
        continued(truth[:, :1], actions * units), truth, rtol=1e-2, atol=1e-2
    )
    still = torch.zeros(32, 4, 2)  # nothing to learn from, and nothing to divide by
    assert torch.equal(continued(truth[:, :1], still)[:, 1:], truth[:, :1].expand(-1, 3, -1, -1))


def test_halving_keeps_what_ends_well_not_what_hurries():
    class Point(PointModel):
        def rollout(self, state, actions, generator=None, *, select=None):
            latents, index = self.imagine(state, actions), torch.arange(len(actions))
            for h in range(1, actions.shape[1] if select else 0):
                chosen = select(latents[index][:, :h])
                index = index if chosen is None else index[chosen]
            return Futures(latents[index], kept=index)

    generator = torch.Generator().manual_seed(0)
    actions = 0.2 * torch.rand((64, 4, 2), generator=generator) - 0.1
    state, goal = SimpleNamespace(position=torch.zeros(2)), GoalEnergy(torch.tensor([[0.1, 0.0]]))
    exact = ImaginedCost(Point(), state, goal)(actions)
    saved = ImaginedCost(Point(), state, goal, SearchBudget(keep_share=0.5))(actions)
    assert set(saved.argsort()[:6].tolist()) == set(exact.argsort()[:6].tolist())


def test_batches_change_nothing(scene):
    torch.testing.assert_close(cost(scene, batch_size=7), cost(scene), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("at_least", [2, 16])
def test_what_is_dropped_in_one_batch_stays_behind_what_is_exact_in_another(scene, at_least):
    exact = cost(scene)
    saved = cost(scene, keep_share=0.5, batch_size=32, at_least=at_least)
    survivors = torch.isclose(exact, saved, rtol=1e-5, atol=1e-7)
    assert survivors.sum() == 2 * max(8, at_least)
    assert saved[~survivors].min() > saved[survivors].max()


def test_a_controller_imagines_all_of_its_planners_elites_exactly():
    model, env = make_model(context_frames=2), PointEnv()
    planner = CEM(horizon=3, num_samples=24, num_elites=12)
    controller = MPC(model, planner, GoalEnergy, SPEC, search_budget=SearchBudget(keep_share=0.1))
    controller.reset(Goal(env.reset(1).images))
    assert controller.act(env.reset(0), None).kind in ("plan", "hold")
    assert controller.search_budget.at_least == 12


def test_gradients_flow_through_all_of_it(scene):
    model, state, goal, actions = scene
    actions = actions.clone().requires_grad_()
    total = ImaginedCost(model, state, goal, SearchBudget(keep_share=0.5))(actions).sum()
    (gradient,) = torch.autograd.grad(total, actions)
    bump = torch.zeros_like(actions)
    bump[3, 1, 0] = 1e-2
    with torch.no_grad():
        exact = ImaginedCost(model, state, goal)
        slope = (exact(actions + bump) - exact(actions - bump))[3] / 2e-2
    assert float(gradient[3, 1, 0]) == pytest.approx(float(slope), rel=0.05, abs=1e-5)


def test_a_latent_that_is_not_finite_is_refused_on_the_way(scene):
    model, state, goal, actions = scene
    bad = actions.clone()
    bad[5, 0] = torch.nan
    for search_budget in (EXACT, SearchBudget(keep_share=0.5)):
        with pytest.raises(PlanningError, match="not finite"), torch.inference_mode():
            ImaginedCost(model, state, goal, search_budget)(bad)


def test_a_model_that_goes_on_with_all_candidates_is_judged_on_all():
    actions = 0.2 * torch.rand((64, 4, 2), generator=torch.Generator().manual_seed(0)) - 0.1
    state, goal = SimpleNamespace(position=torch.zeros(2)), GoalEnergy(torch.tensor([[0.1, 0.0]]))
    exact = ImaginedCost(PointModel(), state, goal)(actions)
    saved = ImaginedCost(PointModel(), state, goal, SearchBudget(keep_share=0.5))(actions)
    torch.testing.assert_close(exact, saved)


def test_what_a_model_draws_is_the_same_at_every_call():
    class Noisy(PointModel):
        def rollout(self, state, actions, generator=None, *, select=None):
            latents = self.imagine(state, actions)
            return Futures(latents + torch.randn(latents.shape, generator=generator))

    actions = torch.zeros(6, 2, 2)
    state, goal = SimpleNamespace(position=torch.zeros(2)), GoalEnergy(torch.zeros(1, 2))
    cost = ImaginedCost(Noisy(), state, goal, seed=1)
    assert torch.equal(cost(actions), cost(actions)) and cost(actions).std() > 0
    assert not torch.equal(ImaginedCost(Noisy(), state, goal, seed=2)(actions), cost(actions))


@pytest.mark.parametrize(
    "bad",
    [
        {"keep_share": 0.0},
        {"keep_share": 1.5},
        {"batch_size": 0},
        {"at_least": 0},
        {"precision": "int8"},
    ],
    ids=str,
)
def test_impossible_economies_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        SearchBudget(**bad)


def test_elite_agreement_is_the_rank_correlation_of_the_best():
    exact = torch.arange(40.0)
    assert elite_agreement(exact, exact * 2 + 1) == pytest.approx(1.0)
    upside_down = exact.clone()
    upside_down[:10] = upside_down[:10].flip(0)
    assert elite_agreement(exact, upside_down) == pytest.approx(-1.0)
    worst_shuffled = exact.clone()
    worst_shuffled[10:] = worst_shuffled[10:].flip(0)
    assert elite_agreement(exact, worst_shuffled) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="want 16 or more"):
        elite_agreement(exact[:8], exact[:8])


def test_bfloat16_is_given_up_where_the_elite_does_not_survive_it(scene):
    model, state, goal, actions = scene
    search_budget = SearchBudget(precision="bfloat16")

    def judged(model, state, objective, horizon=4):
        device = torch.device("cpu")
        found = ranking_survives(
            search_budget, model, state, objective, SPEC, horizon=horizon, device=device
        )
        return found.precision == "bfloat16"

    class Coarse(PointModel):
        """Its differences drown in a constant when they are rounded."""

        def imagine(self, state, actions):
            far = 100.0 + super().imagine(state, actions)
            return far.bfloat16().float() if torch.is_autocast_enabled("cpu") else far

    centre = GoalEnergy(torch.full((1, 2), 100.0))
    with torch.inference_mode():
        state = SimpleNamespace(position=torch.zeros(2))
        assert not judged(Coarse(), state, centre)
        assert judged(PointModel(), state, GoalEnergy(torch.zeros(1, 2)))


def test_bfloat16_imagines_nearly_the_same(scene):
    exact, low = cost(scene), cost(scene, precision="bfloat16")
    assert not torch.equal(exact, low)
    torch.testing.assert_close(low, exact, rtol=0.05, atol=1e-3)


def test_a_controller_plans_with_an_economy():
    model, env = make_model(context_frames=2), PointEnv()
    goal = Goal(env.reset(1).images)
    planner = CEM(horizon=4, num_samples=32, num_iterations=2)
    controller = MPC(model, planner, GoalEnergy, SPEC, search_budget=SearchBudget(keep_share=0.5))
    controller.reset(goal)
    assert np.isfinite(controller.act(env.reset(0), None).action).all()


def test_heads_disagree_where_they_were_not_trained():
    """Of one function on half of a line; on the other half nobody told them."""
    torch.manual_seed(0)
    shape = PredictorConfig(
        token_dim=2,
        grid=(1, 1),
        action_dim=1,
        width=32,
        depth=1,
        num_heads=2,
        num_outputs=4,
        conditioning="tokens",
        residual=False,
    )
    predictor = Predictor(shape, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(predictor.parameters(), 3e-3)
    tokens = torch.zeros(128, 1, 1, 2)
    for _ in range(300):
        actions = torch.rand(128, 1, 1)
        wanted = torch.stack((actions, actions.square()), dim=-1)[:, :, None]  # for every head
        loss = (predictor(tokens, actions) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        known = predictor(tokens, torch.rand(128, 1, 1)).var(2).mean()
        unknown = predictor(tokens, -1 - torch.rand(128, 1, 1)).var(2).mean()
    assert unknown > 5 * known


def test_a_model_with_heads_trains_imagines_and_plans():
    model, env = make_model(context_frames=2, num_outputs=3), PointEnv()
    state = model.observe(model.initial(), env.reset(0), None)
    actions = torch.zeros(5, 3, 2)
    futures = model.rollout(state, actions)
    assert futures.latents.shape == (5, 3, 3, 2, 6) and futures.mean.shape == (5, 3, 2, 6)

    def objective(latent):
        return GoalEnergy(latent, disagreement_weight=1.0)

    controller = MPC(model, CEM(horizon=2), objective, SPEC)
    controller.reset(Goal(env.reset(1).images))
    assert np.isfinite(controller.act(env.reset(0), None).action).all()
