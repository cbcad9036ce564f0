from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from robot_wm.objectives import GoalEnergy
from robot_wm.planners import CEM, shift
from robot_wm.types import ActionSpec, Plan, PlanningError

PLANNERS = {"cem": CEM}


def spec(size=3, bound=1.0):
    names = tuple(f"a{i}" for i in range(size))
    return ActionSpec(names, np.full(size, -bound), np.full(size, bound), ("m",) * size)


def quadratic(optimum):
    optimum = torch.as_tensor(optimum, dtype=torch.float32)
    return lambda actions: (actions - optimum).square().sum((1, 2))


def plan(planner, cost, *, seed=0, init=None, space=None):
    generator = torch.Generator().manual_seed(seed)
    return planner.plan(cost, space or spec(), init=init, generator=generator)


@pytest.fixture(params=sorted(PLANNERS))
def make(request):
    return functools.partial(PLANNERS[request.param], horizon=2)


def test_finds_the_optimum_of_a_quadratic(make):
    optimum = np.array([[0.3, -0.5, 0.8], [0.0, 0.2, -0.7]])
    found = plan(
        make(num_samples=300, num_iterations=12, num_elites=20, min_std=0.005),
        quadratic(optimum),
    )
    np.testing.assert_allclose(found.actions, optimum, atol=0.03)
    assert found.cost < 3e-3


def test_stays_within_bounds_when_the_optimum_is_outside(make):
    seen = []

    def cost(actions):
        seen.append(actions)
        return quadratic(np.full((2, 3), 5.0))(actions)

    found = plan(make(num_samples=200, num_elites=20, num_iterations=8), cost)
    candidates = torch.cat(seen)
    assert candidates.min() >= -1 and candidates.max() <= 1
    np.testing.assert_allclose(found.actions, 1.0, atol=0.02)


def test_the_same_generator_gives_the_same_plan(make):
    cost = quadratic(np.full((2, 3), 0.4))
    a, b, c = (plan(make(), cost, seed=s) for s in (3, 3, 4))
    assert np.array_equal(a.actions, b.actions) and a.cost == b.cost
    assert not np.array_equal(a.actions, c.actions)


def test_more_iterations_never_cost_more(make):
    found = plan(make(num_iterations=6), quadratic(np.full((2, 3), 0.4)))
    course = found.info["cost_by_iteration"]
    assert all(later <= earlier for earlier, later in zip(course[:-1], course[1:], strict=True))
    assert found.cost == course[-1]


def test_a_good_warm_start_is_kept(make):
    optimum = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 3))
    start = Plan(actions=optimum, cost=0.0)
    found = plan(
        make(num_samples=8, num_elites=2, num_iterations=1), quadratic(optimum), init=start
    )
    np.testing.assert_allclose(found.actions, optimum, atol=1e-6)


def test_candidates_that_are_not_finite_are_never_chosen(make):
    def cost(actions):
        value = quadratic(np.zeros((2, 3)))(actions)
        return torch.where(actions[:, 0, 0] > 0, torch.nan, value)

    found = plan(make(), cost)
    assert found.actions[0, 0] <= 0
    assert np.isfinite(found.cost)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_finite_candidate_is_no_plan(make, value):
    with pytest.raises(PlanningError, match="finite"):
        plan(make(), lambda actions: torch.full((len(actions),), value))


def test_a_model_that_breaks_down_later_is_refused_too(make):
    calls = []

    def cost(actions):
        calls.append(len(actions))
        value = quadratic(np.zeros((2, 3)))(actions)
        return value if len(calls) == 1 else torch.full_like(value, torch.nan)

    with pytest.raises(PlanningError, match="finite"):
        plan(make(), cost)


def test_a_cost_of_another_shape_is_named(make):
    with pytest.raises(ValueError, match="cost: got shape"):
        plan(make(), lambda actions: torch.zeros(len(actions), 1))


@pytest.mark.parametrize(
    "bad",
    [{"horizon": 0}, {"num_samples": 5, "num_elites": 6}, {"min_std": 0.0}, {"min_std": 0.9}],
)
def test_impossible_settings_are_refused(make, bad):
    with pytest.raises(ValueError, match="|".join(bad)):
        make(**bad)


def test_shift_drops_what_was_executed():
    old = Plan(actions=np.arange(6.0).reshape(3, 2), cost=1.0)
    assert shift(old, 1).actions.tolist() == [[2.0, 3.0], [4.0, 5.0]]


def test_energy_is_the_distance_to_the_goal():
    goal = torch.randn(2, 3)
    latents = goal.expand(4, 5, 2, 3).clone()
    latents[1, -1] += 2.0
    latents[2, 0] += 2.0
    actions = torch.zeros(4, 5, 1)
    assert GoalEnergy(goal, distance="l2")(latents, actions).tolist() == [0, 4, 0, 0]
    assert GoalEnergy(goal, distance="l1")(latents, actions).tolist() == [0, 2, 0, 0]
    assert GoalEnergy(goal, horizon="mean")(latents, actions)[2] == pytest.approx(0.8)


def test_energy_refuses_another_encoders_latents():
    with pytest.raises(ValueError, match="goal has"):
        GoalEnergy(torch.zeros(2, 3))(torch.zeros(4, 5, 2, 4), torch.zeros(4, 5, 1))
    with pytest.raises(ValueError, match="distance"):
        GoalEnergy(torch.zeros(2, 3), distance="cosine")  # pyright: ignore[reportArgumentType]
