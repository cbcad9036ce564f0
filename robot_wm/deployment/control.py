"""From settings to the controller of a robot, simulated or real."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor

from robot_wm.contracts import check_objective, check_planner, hold_to
from robot_wm.controller import MPC, ActionChunks, GoalSequence, Steered
from robot_wm.deployment.extensions import check_parts
from robot_wm.deployment.settings import ActionLimits, Part, PlanningSettings, SearchBudgetSettings
from robot_wm.imagination import SearchBudget
from robot_wm.kinematics import RobotModel
from robot_wm.models import ModelInfo, TrainableModel, device_of
from robot_wm.objectives import Objective, region_weights
from robot_wm.planners import Planner
from robot_wm.precision import choose_precision
from robot_wm.robots import LEROBOT_ARMS
from robot_wm.types import ActionSpec, UserError


class Controlled(Protocol):
    """What a controller is made for: as much as it needs to know of an Env."""

    @property
    def action_spec(self) -> ActionSpec: ...

    @property
    def control_dt(self) -> float:
        """Seconds from one action to the next."""
        ...


def make_controller(
    model: TrainableModel, env: Controlled, settings: PlanningSettings
) -> GoalSequence:
    """Makes the model's MPC for a robot, and what goes around it.

    Raises:
        UserError: the checkpoint is for another robot or another control rate, or a setting that
            it cannot follow.
    """
    info, device = model.info, device_of(model)
    if abs(info.dt - env.control_dt) > 1e-3:
        raise UserError(
            f"checkpoint: it imagines steps of {info.dt:g} s, the env takes {env.control_dt:g} s"
        )
    planner = make_planner(settings.planner)
    if planner.horizon > info.longest_horizon:
        raise UserError(
            f"planner.horizon: got {planner.horizon}, want at most {info.longest_horizon}: so far "
            f"the checkpoint imagines"
        )
    own = settings.controller
    search_budget = make_search_budget(own.search_budget, device)
    objective = make_objective(model, settings.objective)
    if own.compile:
        model.compile()
    mpc = MPC(
        model,
        planner,
        objective,
        legal_actions(model, env, own.limits),
        seed=settings.seed,
        device=device,
        margin=_energy(model, settings, "margin") or 0.0,
        search_budget=search_budget,
    )
    steered: Steered = mpc if own.execute_steps == 1 else ActionChunks(mpc, own.execute_steps)
    return GoalSequence(
        steered,
        arrival=_energy(model, settings, "arrival") or None,
        arrival_decisions=own.arrival_decisions,
        progress=_energy(model, settings, "progress") or 0.0,
        patience=own.patience or None,
        step_energy=step_energy(model, settings.objective),
        timeout_steps=own.timeout_steps,
    )


def make_planner(part: Part, **facts: Any) -> Planner:
    """Makes a planner, and holds one that is not ours to its contract.

    Raises:
        UserError: it does not take its settings, or breaks a promise.
    """
    planner = part.make(**facts)
    check_parts(planner, part.target, ("horizon", "plan", "with_budget"))
    hold_to(lambda: check_planner(lambda: part.make(**facts)), planner)
    return planner


def check_cameras(info: ModelInfo, cameras: Iterable[str]) -> None:
    """Raises UserError unless a model's cameras are among those that there are."""
    there = list(cameras)
    missing = [name for name in info.cameras if name not in there]
    if missing:
        raise UserError(
            f"checkpoint: it sees through {', '.join(info.cameras)}; there is no "
            f"{', '.join(missing)}, only {', '.join(there) or 'none'}"
        )


def check_same_arm(info: ModelInfo, robot: RobotModel, kind: str | None = None) -> None:
    """Raises UserError where a model is known to be of another arm.

    Args:
        info: of the model.
        robot: the arm.
        kind: LeRobot's name of the device, which its datasets have too; None: it has none.
    """
    if info.robot is None or info.robot == kind:
        return
    if LEROBOT_ARMS.get(info.robot, info.robot) != robot.name:
        raise UserError(
            f"checkpoint: made for another robot: trained on a {info.robot}, this is a {robot.name}"
        )


def make_search_budget(settings: SearchBudgetSettings, device: torch.device) -> SearchBudget:
    """Where imagining saves work on a device.

    Raises:
        UserError: a setting out of range.
    """
    own = msgspec.structs.asdict(settings)
    if settings.precision == "auto":
        own["precision"] = str(choose_precision("auto", device)).removeprefix("torch.")
    return SearchBudget(**own)


def legal_actions(model: TrainableModel, env: Controlled, limits: ActionLimits) -> ActionSpec:
    """What the robot can do, the training data knows, and the user allows.

    Raises:
        UserError: they do not meet.
    """
    try:
        bounds = env.action_spec.within(model.info.action_spec)
    except ValueError as error:
        raise UserError(f"checkpoint: made for another robot than the env: {error}") from error
    given = msgspec.structs.asdict(limits)
    own = {key: value for key, value in given.items() if value is not None and value != {}}
    if "trust_radius" not in own:
        own.pop("trust_norm", None)  # of no region
    return bounds.within(replace(bounds, **own)) if own else bounds


def make_objective(model: TrainableModel, part: Part) -> Callable[[Tensor], Objective]:
    """The goal's latent to the objective that is set.

    Raises:
        UserError: a region of an encoder whose tokens have no place, or that is no region.
    """
    settings = dict(part.settings)
    region = settings.pop("region", None)
    if region is not None:
        if settings.get("token_weights") is not None:
            raise UserError("objective: got token_weights and region, want one of them")
        settings["token_weights"] = region_weights(model.info.grid, region)
    if settings.get("action_unit") is None:
        settings["action_unit"] = model.info.action_spec.unit.tolist()
    own = Part(target=part.target, settings=settings)

    def make(goal: Tensor) -> Objective:
        return own.make(goal)

    info = model.info  # it complains now, not in an episode
    made = make(torch.zeros(info.num_tokens, info.dim))
    sizes = {"num_tokens": info.num_tokens, "dim": info.dim, "action_size": info.action_spec.size}
    hold_to(lambda: check_objective(make, **sizes), made)
    return make


def _energy(model: TrainableModel, settings: PlanningSettings, name: str) -> float | None:
    """A setting in units of the training data's steps, in those of the objective."""
    share = getattr(settings.controller, name)
    known = step_energy(model, settings.objective)
    if share is None or not share:
        return share
    if known is None:
        if name == "margin":
            raise UserError("controller.margin: the checkpoint does not know what a step is worth")
        return None
    return share * known


def step_energy(model: TrainableModel, objective: Part) -> float | None:
    """Mean energy of a step of the training data; None of a checkpoint from before steps were
    measured, or of Meta's release.
    """
    known = model.info.step_energy
    return None if known is None else known.get(str(objective.settings.get("distance", "")))
