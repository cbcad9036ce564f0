"""Checks that planners, controllers and guards keep their interfaces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from robot_wm.types import (
    ActionSpec,
    Controller,
    Decision,
    Env,
    FloatArray,
    Goal,
    Guard,
    Plan,
    PlanningError,
    Verdict,
)

if TYPE_CHECKING:  # torch takes a second, and whoever checks an env needs none
    from torch import Tensor

    from robot_wm.planners import Planner


def check_planner(make: Callable[[], Planner]) -> None:
    """Checks a Planner against what a controller expects of it.

    Args:
        make: A function that builds the planner; it is called anew for each check.

    Raises:
        AssertionError: the interface is broken; the message says where.
    """
    import torch

    size, horizon = 3, make().horizon
    assert isinstance(horizon, int) and horizon > 0, f"horizon: got {horizon!r}"
    names, unit = ("x", "y", "z"), np.full(size, 0.1)
    specs = {
        "bounds": ActionSpec(names, -unit, unit, ("m",) * size),
        "a fixed action": ActionSpec(names, -unit, unit, ("m",) * size, fixed={"y": 0.05}),
        "a trust region": ActionSpec(names, -unit, unit, ("m",) * size, trust_radius=0.5),
        "a bound at rest": ActionSpec(names, -unit, np.array([0.1, 0.0, 0.1]), ("m",) * size),
    }
    target = torch.tensor([0.04, -0.03, 0.02]).expand(horizon, size)

    def cost(actions: Tensor) -> Tensor:
        return (actions - target).square().sum((1, 2))

    def plan(of: Callable[[Tensor], Tensor], spec: ActionSpec, init: Plan | None = None) -> Plan:
        return make().plan(of, spec, init=init, generator=torch.Generator().manual_seed(3))

    for what, spec in specs.items():
        before = torch.get_rng_state()
        best = plan(cost, spec)
        assert torch.equal(torch.get_rng_state(), before), "plan: torch's own randomness was used"
        assert isinstance(best, Plan), f"plan: returned {type(best).__name__}"
        assert best.actions.shape == (horizon, size), f"plan: {best.actions.shape} under {what}"
        legal = np.abs(spec.clip(best.actions) - best.actions).max()
        assert legal < 1e-6, f"plan: {legal:.2g} beyond what {what} allows"
        exact = float(cost(torch.tensor(best.actions, dtype=torch.float32)[None])[0])
        assert abs(best.cost - exact) < 1e-6 + 1e-3 * exact, f"cost: {best.cost}, is {exact}"
        rest = float(cost(torch.tensor(np.tile(spec.rest, (horizon, 1))).float()[None])[0])
        assert best.cost <= rest + 1e-9, f"plan: costs {best.cost} under {what}, rest {rest}"
        again = plan(cost, spec)
        assert np.array_equal(best.actions, again.actions), "plan: another one from the same seed"
        warm = plan(cost, spec, init=best)
        assert warm.cost <= best.cost + 1e-9, "plan: worse than the one it started from"

    least = _count_evaluations(make().with_budget(1), cost, specs["bounds"])
    for budget in (16, 96, 400):
        num = _count_evaluations(make().with_budget(budget), cost, specs["bounds"])
        most = max(1.5 * budget + 16, least)
        assert num <= most, f"with_budget({budget}): evaluates {num} sequences"
        assert num >= budget / 4, f"with_budget({budget}): evaluates {num} sequences"

    def broken(actions: Tensor) -> Tensor:
        return torch.full((len(actions),), torch.nan)

    def shaped(actions: Tensor) -> Tensor:
        return cost(actions)[:, None]

    for of, error in ((broken, PlanningError), (shaped, ValueError)):
        try:
            plan(of, specs["bounds"])
        except error:
            continue
        raise AssertionError(f"plan: took costs that are {of.__name__}, want a {error.__name__}")


def _count_evaluations(planner: Planner, cost: Callable[[Tensor], Tensor], spec: ActionSpec) -> int:
    """Returns how many sequences a plan evaluates; a gradient counts as `GRADIENT_COST` more."""
    import torch

    from robot_wm.planners import GRADIENT_COST

    num = 0

    def counted(actions: Tensor) -> Tensor:
        nonlocal num
        num += len(actions) * (1 + GRADIENT_COST * actions.requires_grad)
        return cost(actions)

    planner.plan(counted, spec, init=None, generator=torch.Generator().manual_seed(3))
    return num


def check_controller(
    make: Callable[[], Controller],
    env: Env,
    goal: Goal,
    *,
    num_steps: int = 3,
    seed: int = 0,
) -> None:
    """Checks a Controller against what `run_episode` expects of it.

    Args:
        make: A function that builds the controller; it is called twice.
        env: The env that it acts on.
        goal: A goal that it can pursue.
        num_steps: Number of decisions to ask for.
        seed: Seed of the env's start.

    Raises:
        AssertionError: the interface is broken; the message says where.
    """
    controller = make()
    first = _decisions(controller, env, goal, num_steps, seed)
    for what, other in (("a twin", make()), ("the same after another reset", controller)):
        for a, b in zip(first, _decisions(other, env, goal, num_steps, seed), strict=True):
            assert np.array_equal(a.action, b.action), f"act: {what} decides otherwise"
            assert a.kind == b.kind and a.energy == b.energy, f"act: {what} decides otherwise"


def _decisions(
    controller: Controller, env: Env, goal: Goal, num_steps: int, seed: int
) -> list[Decision]:
    spec, decisions = env.action_spec, []
    env.reset(seed)
    controller.reset(goal)
    applied: FloatArray | None = None
    for _ in range(num_steps):
        decision = controller.act(env.observe(), applied)
        assert isinstance(decision, Decision), f"act: returned {type(decision).__name__}"
        action = decision.action
        assert np.shape(action) == (spec.size,), f"act: action of shape {np.shape(action)}"
        assert np.isfinite(action).all(), f"act: action {action}"
        beyond = np.abs(spec.clip(action) - action).max()
        assert beyond < 1e-6, f"act: action {action}, beyond what is legal by {beyond:.2g}"
        assert decision.goal == 0, f"act: after goal {decision.goal} of one"
        assert decision.energy is None or math.isfinite(decision.energy), "act: energy not finite"
        if decision.predict is not None:
            _, energy = decision.predict(spec.rest)
            assert math.isfinite(energy), "predict: an energy that is not finite"
        applied = env.apply(action)
        decisions.append(decision)
    return decisions


def check_guard(make: Callable[[], Guard], env: Env, controller: Controller, goal: Goal) -> None:
    """Checks a Guard beside a controller that does nothing wrong.

    Args:
        make: A function that builds the guard; it is called twice.
        env: The env that the controller acts on.
        controller: The controller.
        goal: The goal that the controller pursues.

    Raises:
        AssertionError: the interface is broken; the message says where.
    """
    one = make()
    for guard in (one, one, make()):  # nothing of a run is left for the next one
        env.reset(0)
        controller.reset(goal)
        applied: FloatArray | None = None
        for _ in range(3):
            observation = env.observe()
            decision = controller.act(observation, applied)
            before = decision.action.copy()
            verdict = guard.check(observation, decision, applied)
            assert isinstance(verdict, Verdict), f"check: returned {type(verdict).__name__}"
            assert verdict.kind == "go on" or verdict.reason, "check: no reason given"
            assert all(map(math.isfinite, verdict.numbers.values())), "check: numbers not finite"
            assert np.array_equal(decision.action, before), "check: changed the decision's action"
            assert verdict.kind != "fault", f"check: nothing was wrong, it says {verdict.reason!r}"
            applied = env.apply(decision.action)
