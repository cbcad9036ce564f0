"""Makes the controller of a robot, simulated or real, from settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor

from robot_wm.contracts import check_objective, check_planner, hold_to
from robot_wm.controller import (
    MPC,
    ActionChunks,
    Calibrated,
    GoalSequence,
    SteerableController,
)
from robot_wm.deployment.extensions import check_parts
from robot_wm.deployment.parts import Part, needs, part_defaults
from robot_wm.deployment.planning import ActionLimits, ControllerSettings, PlanningSettings
from robot_wm.kinematics import RobotModel
from robot_wm.models import ModelInfo, TrainableModel, device_of
from robot_wm.objectives import OBJECTIVES, Objective, region_weights
from robot_wm.planners import PLANNERS, Planner
from robot_wm.proposals import Prior, Proposals, ProposerName
from robot_wm.robots import LEROBOT_ARMS
from robot_wm.types import ActionSpec, UserError

_NO_PRIOR = "the checkpoint has no prior; train it with prior.num_steps=6000"


class Controlled(Protocol):
    """What a controller must know of the robot: a part of robot_wm.types.Env."""

    @property
    def action_spec(self) -> ActionSpec:
        """Actions that the robot takes."""
        ...

    @property
    def control_dt(self) -> float:
        """Seconds from one action to the next."""
        ...


def make_controller(
    model: TrainableModel,
    env: Controlled,
    settings: PlanningSettings,
    *,
    prior: Prior | None = None,
    instruction: str | None = None,
    num_evaluated: int | None = None,
) -> GoalSequence:
    """Makes the controller of a robot: the model's MPC, and the pursuit of goals around it.

    Args:
        model: The model that imagines.
        env: The robot.
        settings: Settings of how the checkpoint plans.
        prior: The prior of the checkpoint (`load_prior`); None: it has none.
        instruction: What the robot is to do, in words; it counts if demonstrations of the prior
            have it and the settings name no other task.
        num_evaluated: Number of sequences that the planner evaluates; None: as its settings say.

    Returns:
        The controller.

    Raises:
        UserError: the checkpoint is for another robot or another control rate, or a setting does
            not fit it.
    """
    info, device = model.info, device_of(model)
    if abs(info.dt - env.control_dt) > 1e-3:
        raise UserError(
            f"checkpoint: it imagines steps of {info.dt:g} s, the env takes {env.control_dt:g} s"
        )
    planner = make_planner(settings.planner)
    if num_evaluated is not None:
        planner = planner.with_budget(num_evaluated)
    if planner.horizon > info.longest_horizon:
        raise UserError(
            f"planner.horizon: got {planner.horizon}, want at most {info.longest_horizon}, the "
            f"most actions that the checkpoint can imagine"
        )
    config = settings.controller
    objective = make_objective(model, settings.objective, prior)
    if config.compile:
        model.compile()
    mpc = MPC(
        model,
        planner,
        objective,
        legal_actions(model, env, config.limits),
        seed=settings.seed,
        device=device,
        margin=_energy(model, settings, "margin") or 0.0,
        search_budget=config.search_budget,
        proposals=make_proposals(
            config, planner, None if prior is None else prior.to(device), instruction
        ),
    )
    steered: SteerableController = (
        mpc if config.execute_steps == 1 else ActionChunks(mpc, config.execute_steps)
    )
    if config.calibrate:
        if info.state_names != info.action_spec.names:
            raise UserError(
                f"controller.calibrate: the actions ({', '.join(info.action_spec.names)}) are no "
                f"changes of the state ({', '.join(info.state_names)})"
            )
        steered = Calibrated(steered, env.action_spec)
    return GoalSequence(
        steered,
        arrival=_energy(model, settings, "arrival") or None,
        passing=_energy(model, settings, "passing"),
        arrival_decisions=config.arrival_decisions,
        progress=_energy(model, settings, "progress") or 0.0,
        patience=config.patience or None,
        step_energy=step_energy(model, settings.objective),
        timeout_steps=config.timeout_steps,
    )


def make_proposals(
    config: ControllerSettings,
    planner: Planner,
    prior: Prior | None,
    instruction: str | None = None,
) -> Proposals | None:
    """Makes what a controller's settings say of proposals.

    Args:
        config: The settings.
        planner: The planner that gets the proposals.
        prior: The prior of the checkpoint; None: it has none.
        instruction: What the robot is to do, in words, which counts if the demonstrations have it.

    Returns:
        The proposals; None: nothing is proposed.

    Raises:
        UserError: there is no prior to propose, or nothing to execute without a search.
    """
    names: list[ProposerName] = [name for name in config.proposals if name != "last_plan"]
    if not names:
        if not config.search or config.proposals:
            raise UserError(
                f"controller.proposals: got {', '.join(config.proposals) or 'none'}, want policy "
                f"or retrieval"
            )
        if config.waypoints:
            raise UserError("controller.waypoints: only proposals go over them, and there are none")
        return None
    if prior is None:
        raise UserError(f"controller.proposals: {_NO_PRIOR}")
    keep_last = "last_plan" in config.proposals
    most = getattr(planner, "num_samples", None)  # a planner begins with no more than it evaluates
    num = config.num_proposals or most or 64
    if config.search and most is not None:
        num = min(num, max(1, most - keep_last))
    task = config.task
    if task is None and instruction in prior.shape.tasks:
        task = instruction
    # Where no task is named, the policy proposes what it would do for each, and the search chooses.
    tasks = [task] if task is not None or config.waypoints else [*prior.shape.tasks] or [None]
    proposers = tuple(
        prior.proposer(name, one, waypoints=config.waypoints)
        for name in names
        for one in (tasks if name == "policy" else [task])
    )
    return Proposals(
        proposers,
        num,
        keep_last=keep_last,
        commitment=config.commitment,
        search=config.search,
    )


def make_planner(part: Part, **facts: Any) -> Planner:
    """Makes a planner; checks the contract of one that is not ours.

    Args:
        part: The planner's name and settings.
        **facts: Settings that replace those of the part.

    Returns:
        The planner.

    Raises:
        UserError: it does not take its settings, or breaks the contract.
    """
    planner = part.make(PLANNERS, "planner", **facts)
    check_parts(planner, part.name, ("horizon", "plan", "with_budget"))
    hold_to(lambda: check_planner(lambda: part.make(PLANNERS, "planner", **facts)), planner)
    return planner


def check_cameras(info: ModelInfo, cameras: Iterable[str]) -> None:
    """Raises UserError unless a model's cameras are among those of the robot."""
    there = list(cameras)
    missing = [name for name in info.cameras if name not in there]
    if missing:
        raise UserError(
            f"checkpoint: it needs the cameras {', '.join(info.cameras)}; the robot has "
            f"{', '.join(there) or 'none'}"
        )


def check_same_arm(info: ModelInfo, robot: RobotModel, kind: str | None = None) -> None:
    """Raises UserError if a model is known to be trained on another arm.

    Args:
        info: Facts about the model.
        robot: The arm.
        kind: LeRobot's name of the device, which its datasets also contain; None: it has no such
            name.
    """
    if info.robot is None or info.robot == kind:
        return
    if LEROBOT_ARMS.get(info.robot, info.robot) != robot.name:
        raise UserError(
            f"checkpoint: made for another robot: trained on a {info.robot}, this is a {robot.name}"
        )


def legal_actions(model: TrainableModel, env: Controlled, limits: ActionLimits) -> ActionSpec:
    """Intersects what the robot can do, what the training data contains, and what the user allows.

    Args:
        model: The model; its bounds are those of the training data.
        env: The robot.
        limits: The user's limits.

    Returns:
        The legal actions.

    Raises:
        UserError: the intersection is empty, or the actions are of another kind.
    """
    try:
        bounds = env.action_spec.within(model.info.action_spec)
    except ValueError as error:
        raise UserError(f"checkpoint: made for another robot than the env: {error}") from error
    values = msgspec.structs.asdict(limits)
    changes = {key: value for key, value in values.items() if value is not None and value != {}}
    if "trust_radius" not in changes:
        changes.pop("trust_norm", None)  # without a radius there is no trust region
    return bounds.within(replace(bounds, **changes)) if changes else bounds


def make_objective(
    model: TrainableModel, part: Part, prior: Prior | None = None
) -> Callable[[Tensor], Objective]:
    """Makes a function from the goal's latent to the objective of the settings.

    Args:
        model: The model whose latents are compared.
        part: The objective's name and settings.
        prior: The prior of the checkpoint; None: it has none.

    Returns:
        The function.

    Raises:
        UserError: a region is set but the encoder's tokens have no place, or the region is not one;
            or the objective is that of a prior, and there is none.
    """
    settings = _without_region(part).settings
    region = part.settings.get("region")
    if region is not None:
        if settings.get("token_weights") is not None:
            raise UserError("objective: got token_weights and region, want one of them")
        settings["token_weights"] = region_weights(model.info.grid, region)
    facts: dict[str, Any] = {}
    build = _without_region(part).find(OBJECTIVES, "objective")
    if needs(build, "temporal_distance"):
        if prior is None:
            raise UserError(f"objective: {_NO_PRIOR}")
        facts["temporal_distance"] = prior.to(device_of(model)).steps
    if "action_unit" in part_defaults(build) and settings.get("action_unit") is None:
        settings["action_unit"] = model.info.action_spec.unit.tolist()
    resolved = Part(part.name, **settings)

    def make(goal: Tensor) -> Objective:
        return resolved.make(OBJECTIVES, "objective", goal, **facts)

    info = model.info  # made once here, so that a mistake is an error now and not in an episode
    made = make(torch.zeros(info.num_tokens, info.dim))
    sizes = {"num_tokens": info.num_tokens, "dim": info.dim, "action_size": info.action_spec.size}
    hold_to(lambda: check_objective(make, **sizes), made)
    return make


def _energy(model: TrainableModel, settings: PlanningSettings, name: str) -> float | None:
    """Converts a setting from steps of the training data to energy of the objective."""
    share = getattr(settings.controller, name)
    known = step_energy(model, settings.objective)
    if share is None or not share:
        return share
    if known is None:
        if name == "margin":
            raise UserError("controller.margin: the checkpoint's config.json has no step_energy")
        return None
    return share * known


def step_energy(model: TrainableModel, objective: Part) -> float | None:
    """Returns the mean energy of a step of the training data.

    Args:
        model: The model.
        objective: The objective's name and settings; its distance decides.

    Returns:
        The energy; None if the checkpoint does not know it, such as Meta's release.
    """
    part, known = _without_region(objective), model.info.step_energy
    declared: float | None = getattr(part.find(OBJECTIVES, "objective"), "step_energy", None)
    if declared is not None or known is None:
        return declared
    return known.get(str(part.get(OBJECTIVES, "objective", "distance")))


def _without_region(objective: Part) -> Part:
    """Drops the region, which `make_objective` turns into weights of tokens."""
    settings = {name: value for name, value in objective.settings.items() if name != "region"}
    return Part(objective.name, **settings)
