"""From configuration to the controller of a robot, simulated or real."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from robot_wm.cli.build import check_parts, instantiate
from robot_wm.contracts import check_objective, check_planner, hold_to
from robot_wm.controller import MPC, ActionChunks, GoalSequence, Steered
from robot_wm.imagination import Economy
from robot_wm.kinematics import RobotModel
from robot_wm.models import ModelInfo, TrainableModel, device_of
from robot_wm.objectives import Objective, region_weights
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


def make_controller(model: TrainableModel, env: Controlled, config: DictConfig) -> GoalSequence:
    """The model's MPC for a robot, and what goes around it, as a configuration says.

    Raises:
        UserError: the checkpoint is for another robot or another control rate, or a setting that
            it cannot follow.
    """
    info, device = model.info, device_of(model)
    if abs(info.dt - env.control_dt) > 1e-3:
        raise UserError(
            f"checkpoint: it imagines steps of {info.dt:g} s, the env takes {env.control_dt:g} s"
        )
    planner = instantiate(config.planner)
    check_parts(planner, str(config.planner._target_), ("horizon", "plan", "with_budget"))
    hold_to(lambda: check_planner(lambda: instantiate(config.planner)), planner)
    if planner.horizon > info.longest_horizon:
        raise UserError(
            f"planner.horizon: got {planner.horizon}, want at most {info.longest_horizon}: so far "
            f"the checkpoint imagines"
        )
    settings: Any = OmegaConf.to_container(config.controller)
    economy = make_economy(config.controller.economy, device)
    objective = make_objective(model, config.objective)
    if settings["compile"]:
        model.compile()
    mpc = MPC(
        model,
        planner,
        objective,
        legal_actions(model, env, settings["limits"]),
        seed=config.seed,
        device=device,
        margin=_energy(model, config, "margin") or 0.0,
        economy=economy,
    )
    steps = settings["execute_steps"]
    steered: Steered = mpc if steps == 1 else ActionChunks(mpc, steps)
    return GoalSequence(
        steered,
        arrival=_energy(model, config, "arrival") or None,
        arrival_looks=settings["arrival_looks"],
        progress=_energy(model, config, "progress") or 0.0,
        patience=settings["patience"] or None,
        step_energy=_step_energy(model, config),
        timeout_steps=settings["timeout_steps"],
    )


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


def make_economy(config: DictConfig, device: torch.device) -> Economy:
    """Where imagining saves work, as a `controller.economy` says.

    Raises:
        UserError: a setting out of range.
    """
    settings: Any = OmegaConf.to_container(config)
    if settings["precision"] == "auto":
        precision = choose_precision("auto", device)
        settings["precision"] = str(precision).removeprefix("torch.")
    return Economy(**settings)


def legal_actions(model: TrainableModel, env: Controlled, limits: dict[str, Any]) -> ActionSpec:
    """What the robot can do, the training data knows, and the user allows.

    Raises:
        UserError: they do not meet.
    """
    try:
        bounds = env.action_spec.within(model.info.action_spec)
    except ValueError as error:
        raise UserError(f"checkpoint: made for another robot than the env: {error}") from error
    own = {key: value for key, value in limits.items() if value is not None and value != {}}
    if "trust_radius" not in own:
        own.pop("trust_norm", None)  # of no region
    return bounds.within(replace(bounds, **own)) if own else bounds


def make_objective(model: TrainableModel, config: DictConfig) -> Callable[[Tensor], Objective]:
    """The goal's latent to the objective that an `objective` group describes.

    Raises:
        UserError: a region of an encoder whose tokens have no place, or that is no region.
    """
    settings: Any = OmegaConf.to_container(config)
    region = settings.pop("region", None)
    if region is not None:
        if settings.get("token_weights") is not None:
            raise UserError("objective: got token_weights and region, want one of them")
        settings["token_weights"] = region_weights(model.info.grid, region)
    if settings.get("action_unit") is None:
        settings["action_unit"] = model.info.action_spec.unit.tolist()
    make = instantiate(DictConfig(settings))
    info = model.info  # it complains now, not in an episode
    made = make(torch.zeros(info.num_tokens, info.dim))
    sizes = {"num_tokens": info.num_tokens, "dim": info.dim, "action_size": info.action_spec.size}
    hold_to(lambda: check_objective(make, **sizes), made)
    return make


def _energy(model: TrainableModel, config: DictConfig, name: str) -> float | None:
    """A setting in units of the training data's steps, in those of the objective."""
    share, known = config.controller[name], _step_energy(model, config)
    if share is None or not share:
        return share
    if known is None:
        if name == "margin":
            raise UserError("controller.margin: the checkpoint does not know what a step is worth")
        return None
    return share * known


def _step_energy(model: TrainableModel, config: DictConfig) -> float | None:
    """Mean energy of a step of the training data; None of a checkpoint from before steps were
    measured, or of Meta's release.
    """
    known = model.info.step_energy
    return None if known is None else known.get(config.objective.get("distance", ""))
