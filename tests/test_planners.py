from __future__ import annotations

import dataclasses
import functools
import inspect
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.optimize
import torch

from robot_wm.planners import (
    CEM,
    ICEM,
    MPPI,
    GradientCEM,
    GradientDescent,
    PredictiveSampling,
    QuasiNewton,
    RandomShooting,
    shift,
)
from robot_wm.planners.cem import coloured_noise
from robot_wm.planners.sampling import spline_basis
from robot_wm.planners.search import Search
from robot_wm.types import ActionSpec, Plan, PlanningError

PLANNERS = {
    "cem": CEM,
    "icem": ICEM,
    "mppi": MPPI,
    "random_shooting": RandomShooting,
    "predictive_sampling": PredictiveSampling,
    "gradient": GradientDescent,
    "gradient_cem": GradientCEM,
    "quasi_newton": QuasiNewton,
}
# What each may spend (or near it) in `num_evaluated`, gradients thrice, where its regret is stated.
THOROUGH = {
    "cem": {"num_samples": 200, "num_iterations": 20, "num_elites": 20, "min_std": 0.005},
    "icem": {
        "num_samples": 300,
        "num_iterations": 20,
        "num_elites": 20,
        "min_std": 0.005,
        "decay": 1.05,
    },
    "mppi": {
        "num_samples": 300,
        "num_iterations": 20,
        "num_elites": 60,
        "temperature": 1.0,
        "min_std": 0.005,
    },
    "random_shooting": {"num_samples": 4000},
    "predictive_sampling": {
        "num_samples": 200,
        "num_iterations": 20,
        "num_knots": 5,
        "min_std": 0.005,
    },
    "gradient": {"num_samples": 12, "num_iterations": 100},
    "gradient_cem": {"num_samples": 100, "num_iterations": 12, "num_steps": 6},
    "quasi_newton": {"num_samples": 64, "num_elites": 4, "num_iterations": 40},
}


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


def regret(name, horizon, size, cost, best):
    """The cost above the least there is, as a share of what rest costs."""
    found = plan(PLANNERS[name](horizon=horizon, **THOROUGH[name]), cost, space=spec(size))
    rest = float(cost(torch.zeros(1, horizon, size))[0])
    return (found.cost - best) / (rest - best)


@pytest.mark.parametrize("horizon, size", [(1, 2), (2, 3), (3, 5), (5, 6)])
@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_finds_the_optimum_of_a_bounded_quadratic(name, horizon, size):
    """2 to 30 numbers, up to ten times as steep along some, a third of the optima out of bounds."""
    rng = np.random.default_rng(horizon)
    steep = torch.tensor(rng.uniform(1, 10, (horizon, size)), dtype=torch.float32)
    centre = torch.tensor(rng.uniform(-1.5, 1.5, (horizon, size)), dtype=torch.float32)

    def cost(actions):
        return (steep * (actions - centre).square()).sum((1, 2))

    least = float(cost(centre.clamp(-1, 1)[None])[0])
    allowed = 0.02
    if name == "random_shooting":  # knows no better than to try: it covers few dimensions
        allowed = {2: 0.02, 6: 0.2, 15: 0.6, 30: 0.9}[horizon * size]
    elif name == "predictive_sampling":
        allowed = 0.1
    assert regret(name, horizon, size, cost, least) < allowed


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_finds_the_deeper_of_two_wells(name):
    deep, shallow = torch.tensor([0.6, -0.4]), torch.tensor([-0.5, 0.5])

    def well(actions, centre):
        return torch.exp(-(actions[:, 0] - centre).square().sum(1) / 0.1)

    def cost(actions):
        return 1 - well(actions, deep) - 0.7 * well(actions, shallow)

    assert regret(name, 1, 2, cost, float(cost(deep.view(1, 1, 2))[0])) < 0.02


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_brings_a_double_integrator_to_rest_at_its_goal(name):
    """Against the exact optimum of the linear quadratic problem; the bounds do not touch it."""
    dt, horizon, goal, effort = 0.5, 6, 1.0, 0.01
    steps = torch.arange(horizon)
    # Place and speed after H accelerations are linear in them.
    speed = torch.full((horizon,), dt)
    place = dt**2 * (horizon - 0.5 - steps)

    def cost(actions):
        a = actions[:, :, 0]
        return (a @ place - goal).square() + (a @ speed).square() + effort * a.square().sum(1)

    rows = torch.cat((torch.stack((place, speed)), effort**0.5 * torch.eye(horizon)))
    wanted = torch.cat((torch.tensor([goal, 0.0]), torch.zeros(horizon)))
    best = torch.linalg.lstsq(rows, wanted[:, None]).solution.view(1, horizon, 1)
    assert best.abs().max() < 1
    allowed = {"random_shooting": 0.3}.get(name, 0.02)
    assert regret(name, horizon, 1, cost, float(cost(best)[0])) < allowed


def test_stays_within_bounds_when_the_optimum_is_outside(make):
    seen = []

    def cost(actions):
        seen.append(actions.detach())
        return quadratic(np.full((2, 3), 5.0))(actions)

    found = plan(make(), cost)
    candidates = torch.cat(seen)
    assert candidates.min() >= -1 and candidates.max() <= 1
    assert np.abs(found.actions).max() <= 1


def test_a_fixed_dimension_is_never_moved(make):
    space = dataclasses.replace(spec(), fixed={"a1": 0.25})
    seen = []

    def cost(actions):
        seen.append(actions.detach())
        return quadratic(np.full((2, 3), -0.6))(actions)

    found = plan(make(), cost, space=space)
    assert (torch.cat(seen)[:, :, 1] == 0.25).all() and (found.actions[:, 1] == 0.25).all()
    assert found.actions[:, [0, 2]].mean() < -0.2


@pytest.mark.parametrize("norm", ["l2", "box"])
def test_no_candidate_leaves_the_trust_region(make, norm):
    space = dataclasses.replace(
        spec(), scale=np.array([1.0, 0.5, 2.0]), trust_radius=0.3, trust_norm=norm
    )
    seen = []

    def cost(actions):
        seen.append(actions.detach())
        return quadratic(np.full((2, 3), 0.9))(actions)

    found = plan(make(), cost, space=space)
    for actions in (torch.cat(seen).numpy(), found.actions):
        away = actions / np.array([1.0, 0.5, 2.0])
        size = np.abs(away).max(-1) if norm == "box" else np.linalg.norm(away, axis=-1)
        assert size.max() <= 0.3 + 1e-5
    assert size.max() > 0.2  # and uses it


@pytest.mark.parametrize("differentiable", [True, False])
def test_a_wide_scale_does_not_lead_out_of_narrow_bounds(make, differentiable):
    space = dataclasses.replace(spec(bound=0.01), scale=np.ones(3), trust_radius=0.012)
    seen = []

    def cost(actions):
        seen.append(actions.detach())
        value = quadratic(np.full((2, 3), 0.5))(actions)
        return value if differentiable else value.detach()

    found = plan(make(), cost, space=space)
    candidates = torch.cat(seen)
    assert candidates.abs().max() <= 0.01 + 1e-7
    assert candidates.norm(dim=-1).max() <= 0.012 + 1e-7
    again = quadratic(np.full((2, 3), 0.5))(torch.tensor(found.actions[None]).float())
    assert found.cost == pytest.approx(float(again[0]), rel=1e-5)


def test_a_final_mean_where_nothing_is_finite_costs_no_plan(make):
    """Between two wells: their middle is as legal as it is useless."""

    def cost(actions):
        x = actions[:, 0, 0]
        value = (x.abs() - 0.6).square() + actions.flatten(1)[:, 1:].square().sum(1)
        return torch.where(x.abs() < 0.15, torch.inf, value)

    start = Plan(actions=np.full((2, 3), 0.4), cost=1.0)
    for seed in range(8):
        try:
            found = plan(make(), cost, seed=seed, init=start)
        except PlanningError as error:  # too few at the start is another matter
            assert "1 are needed" not in str(error)
            continue
        assert np.isfinite(found.cost)


def test_no_elite_is_counted_twice(make):
    found = plan(make(), lambda actions: (actions - 0.4).pow(4).sum((1, 2)))
    assert len(np.unique(found.elites.reshape(len(found.elites), -1), axis=0)) == len(found.elites)


def test_a_cost_without_a_gradient_is_enough(make):
    """A simulator's, say: what comes out of it is a number, and no more."""

    def cost(actions):
        return quadratic(np.full((2, 3), 0.4))(actions).detach()

    found = plan(make(), cost)
    assert found.cost < 0.8 * float(cost(torch.zeros(1, 2, 3))[0])


def test_what_one_search_finds_does_not_depend_on_others_in_between(make):
    """Sixteen searches, step by step in turn, or one alone: the same plan, bit for bit."""
    costs = [quadratic(np.full((2, 3), 0.05 * i)) for i in range(16)]
    planner = make()
    alone = plan(planner, costs[7], seed=7)
    together = [plan(planner, cost, seed=i) for i, cost in enumerate(costs)]
    assert np.array_equal(alone.actions, together[7].actions)
    with ThreadPoolExecutor(16) as pool:
        at_once = list(pool.map(lambda i: plan(planner, costs[i], seed=i), range(16)))
    for one, other in zip(together, at_once, strict=True):
        assert np.array_equal(one.actions, other.actions) and one.cost == other.cost


def test_a_plan_tells_how_it_was_found(make):
    evaluated = []

    def cost(actions):
        evaluated.append(len(actions))
        return quadratic(np.full((2, 3), 0.4))(actions)

    found = plan(make(), cost)
    assert found.info["num_evaluated"] == found.info["num_finite"] == sum(evaluated)
    assert len(found.info["cost_by_iteration"]) == len(evaluated) - 1  # and once to be sure
    assert found.info["elite_costs"][0] == pytest.approx(found.cost, abs=1e-6)
    assert len(found.elites) == len(found.info["elite_costs"])
    np.testing.assert_array_equal(found.elites[0], found.actions)


def test_the_same_generator_gives_the_same_plan(make):
    cost = quadratic(np.full((2, 3), 0.4))
    a, b, c = (plan(make(), cost, seed=s) for s in (3, 3, 4))
    assert np.array_equal(a.actions, b.actions) and a.cost == b.cost
    assert a.info["cost_by_iteration"] != c.info["cost_by_iteration"]


def test_more_iterations_never_cost_more(make):
    found = plan(make(), quadratic(np.full((2, 3), 0.4)))
    course = found.info["cost_by_iteration"]
    assert all(later <= earlier for earlier, later in zip(course[:-1], course[1:], strict=True))
    assert found.cost == pytest.approx(course[-1], abs=1e-6)


def test_a_good_warm_start_is_kept(make):
    optimum = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 3))
    start = Plan(actions=optimum, cost=0.0)
    found = plan(make(), quadratic(optimum), init=start)
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


IMPOSSIBLE = [
    {"horizon": 0},
    {"num_samples": 5, "num_elites": 6},
    {"num_samples": 0},
    {"num_iterations": 2.5},
    {"min_std": 0.0},
    {"min_std": 0.9},
    {"init_std": float("nan")},
    {"step": 0.0},
    {"temperature": -1.0},
    {"decay": 0.5},
    {"kept_share": 1.5},
    {"num_refined": 1000},
    {"order": 3},
    {"num_knots": 0},
    {"num_samples": 2, "num_elites": 3},
    {"step": 0.0},
]


@pytest.mark.parametrize(
    "name, bad",
    [
        pytest.param(name, bad, id=f"{name}-{bad}")
        for name, planner in sorted(PLANNERS.items())
        for bad in IMPOSSIBLE
        if set(bad) <= set(inspect.signature(planner).parameters)
    ],
)
def test_impossible_settings_are_refused(name, bad):
    with pytest.raises(ValueError, match="|".join((*bad, "num_elites"))):
        PLANNERS[name](**{"horizon": 2, **bad})


def test_icem_begins_with_the_last_plans_elites():
    optimum = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 3))
    start = Plan(actions=np.zeros((2, 3)), cost=1.0, elites=np.stack((optimum, optimum)))
    found = plan(ICEM(horizon=2, kept_share=1.0), quadratic(optimum), init=start)
    np.testing.assert_allclose(found.actions, optimum, atol=1e-6)


def test_coloured_noise_has_unit_variance_and_lasts():
    generator = torch.Generator().manual_seed(0)
    for horizon in (2, 3, 8, 9):
        white = coloured_noise((4000, horizon, 2), 0.0, generator)
        red = coloured_noise((4000, horizon, 2), 2.0, generator)
        np.testing.assert_allclose(red.std(0), 1.0, atol=0.06)
        if horizon > 3:
            together = (red[:, :-1] * red[:, 1:]).mean()
            assert together > 0.4 > (white[:, :-1] * white[:, 1:]).mean() + 0.3


def test_a_spline_joins_its_knots():
    line = spline_basis(5, 3, 1) @ torch.tensor([[0.0], [1.0], [0.0]])
    assert line[:, 0].tolist() == [0, 0.5, 1, 0.5, 0]
    steps = spline_basis(4, 2, 0) @ torch.tensor([[1.0], [2.0]])
    assert steps[:, 0].tolist() == [1, 1, 2, 2]
    assert spline_basis(3, 1, 1).tolist() == [[1.0], [1.0], [1.0]]


def test_shift_drops_what_was_executed():
    old = Plan(actions=np.arange(6.0).reshape(3, 2), cost=1.0)
    assert shift(old, 1).actions.tolist() == [[2.0, 3.0], [4.0, 5.0]]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 0.0), (0.0, 1.0), (-1.0, 1e-3)])
@pytest.mark.parametrize("name", ["quasi_newton", "gradient", "gradient_cem"])
def test_differences_see_as_much_as_a_gradient_where_rest_is_an_end(name, low, high):
    size = 3
    space = ActionSpec(("x", "y", "z"), np.full(size, low), np.full(size, high), ("m",) * size)
    cost = quadratic(np.full((2, size), (low + high) / 2))
    planner = PLANNERS[name](horizon=2, **THOROUGH[name])
    known = plan(planner, cost, space=space).cost
    felt = plan(planner, lambda actions: cost(actions).detach(), space=space).cost
    assert felt < known + 0.01


@pytest.mark.parametrize("norm", ["l2", "box"])
@pytest.mark.parametrize("radius", [None, 0.02, 0.5])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-1.0, 0.0), (0.0, 2.0)])
def test_differences_are_the_gradient(low, high, radius, norm):
    """Everywhere that is legal, corners, ends and the edge of the trust region included."""
    size = 3
    space = ActionSpec(
        ("x", "y", "z"), np.full(size, low), np.full(size, high), ("m",) * size,
        fixed={"y": (low + high) / 2}, trust_radius=radius, trust_norm=norm,
    )  # fmt: skip
    slope = torch.tensor([[1.0, 5.0, -2.0], [0.5, 5.0, 3.0]])

    def cost(actions):
        return (actions * slope).sum((1, 2))

    anywhere = np.random.default_rng(0).uniform(low - 1, high + 1, (30, 2, size))
    ends = np.stack([np.full((2, size), value) for value in (low, high, 0.0)])
    legal = torch.tensor(space.clip(np.concatenate((anywhere, ends))), dtype=torch.float32)
    planner = PLANNERS["gradient"](horizon=2)
    search = Search(planner, lambda a: cost(a).detach(), space, None, torch.Generator())
    _, gradient = search.judge_with_gradient(legal)
    expected = slope.expand_as(gradient) * torch.tensor(space.free)
    torch.testing.assert_close(gradient, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("norm", ["l2", "box"])
@pytest.mark.parametrize(
    ("planner", "gap"),
    [
        (QuasiNewton(horizon=2, num_iterations=20), 1e-5),
        (GradientDescent(horizon=2, num_iterations=100), 1e-3),
    ],
)
def test_a_trust_region_that_binds_does_not_stop_a_descent(planner, gap, norm):
    """Against scipy's SLSQP: a stretched quadratic whose minimum lies outside of the region."""
    radius, size = 0.5, 3
    legal = ActionSpec(
        ("x", "y", "z"), *np.outer((-1, 1), np.ones(size)), ("m",) * size,
        trust_radius=radius, trust_norm=norm,
    )  # fmt: skip
    for seed in range(6):
        rng = np.random.default_rng(seed)
        turn, _ = np.linalg.qr(rng.normal(size=(2 * size, 2 * size)))
        bend, best = turn @ np.diag(np.geomspace(1, 10, 2 * size)) @ turn.T, rng.normal(size=6)

        def cost(actions, bend=bend, best=best):
            away = actions.flatten(1) - torch.tensor(best).float()
            return ((away @ torch.tensor(bend).float()) * away).sum(1)

        def room(x):
            away = x.reshape(2, size)
            return radius**2 - ((away**2).sum(1) if norm == "l2" else away.ravel() ** 2)

        found = scipy.optimize.minimize(
            lambda x, bend=bend, best=best: (x - best) @ bend @ (x - best),
            np.zeros(2 * size),
            constraints={"type": "ineq", "fun": room},
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-12},
        )
        plan = planner.plan(cost, legal, init=None, generator=torch.Generator().manual_seed(seed))
        assert plan.cost <= found.fun * (1 + gap)
