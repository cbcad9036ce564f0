"""Methods that a checkpoint is compared with on the same episodes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import msgspec
import torch

from robot_wm.deployment.control import legal_actions, make_controller, make_planner
from robot_wm.deployment.parts import Part
from robot_wm.deployment.planning import PlanningSettings
from robot_wm.deployment.simulation import Simulation
from robot_wm.evaluation import RandomController, ZeroController
from robot_wm.models import TrainableModel
from robot_wm.proposals import Prior
from robot_wm.types import Controller, Decision, FloatArray, Goal, Observation

# Explained where they are chosen, in `EvalSettings`.
Floor = Literal["random", "zero", "policy", "retrieval", "search", "random_weights", "wrong_goal"]


class WrongGoal:
    """A controller that is shown the goal of another episode (robot_wm.types.Controller).

    What it solves all the same, it would solve without a goal.

    Args:
        controller: The controller.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._goal: Goal | Sequence[Goal] = ()

    def show(self, goal: Goal | Sequence[Goal]) -> None:
        """Takes the goal that it is shown in the next episode."""
        self._goal = goal

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """Begins an episode toward the goal that it was shown."""
        self._controller.reset(self._goal)

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """See `Controller.act`."""
        return self._controller.act(obs, applied)


def make_floor(
    name: Floor,
    model: TrainableModel,
    simulation: Simulation,
    settings: PlanningSettings,
    prior: Prior | None,
) -> Controller:
    """Makes a method that the checkpoint must beat.

    Args:
        name: Name of the method.
        model: The checkpoint's model.
        simulation: The arm and the task.
        settings: How the checkpoint plans.
        prior: The checkpoint's prior; None: it has none.

    Returns:
        The method.

    Raises:
        UserError: the method needs a prior, and there is none.
    """
    env = simulation.env
    if name == "random":
        bounds = legal_actions(model, env, settings.controller.limits)
        return RandomController(bounds, seed=settings.seed)
    if name == "zero":
        return ZeroController(env.action_spec)
    replace = msgspec.structs.replace
    controller, planner = settings.controller, settings.planner
    if name == "wrong_goal":
        instruction = simulation.settings.instruction
        return WrongGoal(
            make_controller(model, env, settings, prior=prior, instruction=instruction)
        )
    if name == "random_weights":
        model = forget(model, seed=settings.seed)
    elif name == "search":
        controller = replace(controller, proposals=(), search=True, waypoints=False)
        horizon = make_planner(settings.planner).horizon
        planner = Part("cem", horizon=horizon, num_samples=300, num_iterations=30, num_elites=30)
    else:
        controller = replace(controller, proposals=(name,), search=False)
    changed = PlanningSettings(
        planner=planner,
        objective=settings.objective,
        controller=controller,
        seed=settings.seed,
    )
    instruction = simulation.settings.instruction
    return make_controller(model, env, changed, prior=prior, instruction=instruction)


def forget(model: TrainableModel, *, seed: int = 0) -> TrainableModel:
    """Returns a model of the same kind with new random weights, and the same frozen encoder.

    Args:
        model: The model, which stays as it is.
        seed: Seed of the weights.

    Returns:
        The copy.
    """
    encoder = model.encoder
    forgetful = copy.deepcopy(model, {id(encoder): encoder})
    frozen = set(encoder.modules()) if isinstance(encoder, torch.nn.Module) else set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in forgetful.modules():  # type: ignore[attr-defined] - is a torch.nn.Module
            reset = getattr(module, "reset_parameters", None)
            if reset is not None and module not in frozen:
                reset()
    return forgetful
