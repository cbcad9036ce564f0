"""From configuration to the controller of a robot, simulated or real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from robot_wm.cli.build import instantiate
from robot_wm.controller import MPC, ActionChunks, GoalSequence, Steered
from robot_wm.imagination import Economy
from robot_wm.objectives import Objective, region_weights
from robot_wm.precision import choose_precision
from robot_wm.types import ActionSpec
from robot_wm.world_model import LatentWorldModel


class Controlled(Protocol):
    """What a controller is made for: as much as it needs to know of an Env."""

    @property
    def action_spec(self) -> ActionSpec: ...

    @property
    def control_dt(self) -> float:
        """Seconds from one action to the next."""
        ...


def make_controller(model: LatentWorldModel, env: Controlled, config: DictConfig) -> GoalSequence:
    """The model's MPC for a robot, and what goes around it, as a configuration says.

    Raises:
        ValueError: the checkpoint is for another robot or another control rate, or a setting that
            it cannot follow.
    """
    if abs(model.dt - env.control_dt) > 1e-3:
        raise ValueError(
            f"checkpoint: it imagines steps of {model.dt:g} s, the env takes {env.control_dt:g} s"
        )
    planner = instantiate(config.planner)
    longest = model.predictor.config.max_frames - model.spec.context_frames + 1
    if planner.horizon > longest:
        raise ValueError(
            f"planner.horizon: got {planner.horizon}, want at most {longest}: the checkpoint's "
            f"predictor takes {model.predictor.config.max_frames} frames"
        )
    settings: Any = OmegaConf.to_container(config.controller)
    economy = make_economy(config.controller.economy, model)
    objective = make_objective(model, config.objective)
    if settings["compile"]:
        for block in model.predictor.predictor_blocks:
            block.compile()
    mpc = MPC(
        model,
        planner,
        objective,
        legal_actions(model, env, settings["limits"]),
        seed=config.seed,
        device=model.device,
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


def make_economy(config: DictConfig, model: LatentWorldModel) -> Economy:
    """Where imagining saves work, as a `controller.economy` says.

    Raises:
        ValueError: a setting out of range, or more blocks than the predictor has.
    """
    settings: Any = OmegaConf.to_container(config)
    if settings["precision"] == "auto":
        precision = choose_precision("auto", model.device)
        settings["precision"] = str(precision).removeprefix("torch.")
    economy, depth = Economy(**settings), model.predictor.config.depth
    if economy.screen_depth is not None and economy.screen_depth > depth:
        raise ValueError(
            f"controller.economy.screen_depth: got {economy.screen_depth}, the predictor has "
            f"{depth} blocks"
        )
    return economy


def legal_actions(model: LatentWorldModel, env: Controlled, limits: dict[str, Any]) -> ActionSpec:
    """What the robot can do, the training data knows, and the user allows.

    Raises:
        ValueError: they do not meet.
    """
    try:
        bounds = env.action_spec.within(model.spec.action_spec)
    except ValueError as error:
        raise ValueError(f"checkpoint: made for another robot than the env: {error}") from error
    own = {key: value for key, value in limits.items() if value is not None and value != {}}
    if "trust_radius" not in own:
        own.pop("trust_norm", None)  # of no region
    return bounds.within(replace(bounds, **own)) if own else bounds


def make_objective(model: LatentWorldModel, config: DictConfig) -> Callable[[Tensor], Objective]:
    """The goal's latent to the objective that an `objective` group describes.

    Raises:
        ValueError: a region of an encoder whose tokens have no place, or that is no region.
    """
    settings: Any = OmegaConf.to_container(config)
    region = settings.pop("region", None)
    if region is not None:
        if settings.get("token_weights") is not None:
            raise ValueError("objective: got token_weights and region, want one of them")
        settings["token_weights"] = region_weights(model.predictor.config.grid, region)
    if settings.get("action_unit") is None:
        settings["action_unit"] = model.spec.action_spec.unit.tolist()
    make = instantiate(DictConfig(settings))
    shape = model.predictor.config
    make(torch.zeros(shape.num_tokens, shape.token_dim))  # complains now, not in an episode
    return make


def _energy(model: LatentWorldModel, config: DictConfig, name: str) -> float | None:
    """A setting in units of the training data's steps, in those of the objective."""
    share, known = config.controller[name], _step_energy(model, config)
    if share is None or not share:
        return share
    if known is None:
        if name == "margin":
            raise ValueError("controller.margin: the checkpoint does not know what a step is worth")
        return None
    return share * known


def _step_energy(model: LatentWorldModel, config: DictConfig) -> float | None:
    """Mean energy of a step of the training data; None of a checkpoint from before steps were
    measured, or of Meta's release.
    """
    known = model.spec.step_energy
    return None if known is None else known[config.objective.distance]
