"""Ten tiny training steps, and closed loops at fixed seeds, are what they were.

golden/runs.json holds them from before a redesign. `python tests/test_goldens.py` writes it anew,
which is right only where the numbers are meant to change: the reason belongs in docs/log.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import SPEC, PointTask, make_model, point_windows

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.config import load_command
from robot_wm.controller import MPC
from robot_wm.data import WindowSampler
from robot_wm.imagination import EXACT
from robot_wm.objectives import GoalEnergy
from robot_wm.planners import (
    CEM,
    ICEM,
    MPPI,
    GradientCEM,
    GradientDescent,
    PredictiveSampling,
    QuasiNewton,
    RandomShooting,
)
from robot_wm.robots import so100
from robot_wm.runtime import run_episode
from robot_wm.training import TrainConfig, held_out_error, train

RUNS = Path(__file__).parent / "golden" / "runs.json"

# Small searches: what they find is not the point.
PLANNERS = {
    "cem": CEM(horizon=2, num_samples=24, num_elites=4, num_iterations=3),
    "icem": ICEM(horizon=3, num_samples=24, num_elites=4, num_iterations=3),
    "mppi": MPPI(horizon=2, num_samples=24, num_iterations=3),
    "random_shooting": RandomShooting(horizon=2, num_samples=48),
    "predictive_sampling": PredictiveSampling(horizon=3, num_samples=24, num_iterations=3),
    "gradient": GradientDescent(horizon=2, num_samples=4, num_iterations=4),
    "gradient_cem": GradientCEM(horizon=2, num_samples=12, num_iterations=2, num_steps=2),
    "quasi_newton": QuasiNewton(horizon=2, num_samples=8, num_elites=2, num_iterations=4),
}

MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rollout": {"rollout_steps": 3, "rollout_prefix": "random"},
    "no_proprio": {"proprio": "none"},
    "layer_norm": {"features": "layer_norm"},
    "two_outputs": {"num_outputs": 2},
}


def windows(episodes: range) -> WindowSampler:
    return point_windows(episodes, batch_size=8, num_episodes=10)


def training(name: str) -> dict[str, Any]:
    """Losses of ten steps, and the error on held-out episodes after them."""
    model = make_model(**MODELS[name])
    config = TrainConfig(num_steps=10, learning_rate=3e-3, precision="float32")
    losses = [row["loss"] for row in train(model, windows(range(8)), config)]
    held_out = held_out_error(model, windows(range(8, 10)), horizon=3)
    return {"losses": losses, "held_out": [float(error) for error in held_out["true"]]}


def loop(name: str) -> dict[str, Any]:
    """Three steps toward a goal picture, with a model that knows nothing yet."""
    task = PointTask()
    goal = task.start({"seed": 3})
    controller = MPC(make_model(), PLANNERS[name], GoalEnergy, SPEC, seed=1, search_budget=EXACT)
    return {"actions": actions_of(task.env, controller, goal)}


def shipped() -> dict[str, Any]:
    """Three steps of the checkpoint that ships, in its own simulator."""
    from robot_wm.deployment.control import make_controller
    from robot_wm.proposals import load_prior
    from sim_envs.reach import ReachTask
    from sim_envs.tabletop import Tabletop

    env = Tabletop(so100())
    try:
        task = ReachTask(env)
        goal = task.start(task.episode(8_000_000))
        directory = find_checkpoint("so100_tabletop")
        model, _ = load_checkpoint(directory)
        settings = load_command("eval", [f"checkpoint={directory}"])
        prior = load_prior(directory, model.info)
        controller = make_controller(model, env, settings, prior=prior)
        return {"actions": actions_of(env, controller, goal)}
    finally:
        env.close()


def actions_of(env: Any, controller: MPC, goal: Any) -> list[list[float]]:
    """What the controller asks for in three steps."""
    actions: list[list[float]] = []
    tape = SimpleNamespace(
        record=lambda step: actions.append(step.decision.action.tolist()), finish=lambda last: None
    )
    run_episode(env, controller, goal, num_steps=3, recorders=[tape])
    return actions


def compute(key: str) -> dict[str, Any]:
    """One run by its key in the file."""
    kind, _, name = key.partition("/")
    if kind == "train":
        return training(name)
    return loop(name) if kind == "loop" else shipped()


KEYS = [*(f"train/{name}" for name in MODELS), *(f"loop/{name}" for name in PLANNERS), "shipped"]


@pytest.mark.parametrize("key", KEYS)
def test_it_is_what_it_was(key):
    torch.manual_seed(0)
    expected, found = json.loads(RUNS.read_text())[key], compute(key)
    assert expected.keys() == found.keys()
    # Ranges of joints are centimetres: pictures differ a little from renderer to renderer.
    tolerance = {"atol": 2e-3} if key == "shipped" else {"atol": 1e-5, "rtol": 1e-4}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, err_msg=name, **tolerance)


if __name__ == "__main__":
    RUNS.write_text(json.dumps({key: compute(key) for key in KEYS}, indent=1) + "\n")
