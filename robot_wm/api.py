"""The public interface: what `from robot_wm import ...` finds. Paths may be text or Path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.contracts import check_encoder, check_env, check_planner, check_task
from robot_wm.controller import MPC, ActionChunks, GoalSequence
from robot_wm.deployment.control import make_controller, make_objective
from robot_wm.deployment.parts import Part
from robot_wm.deployment.pictures import read_picture
from robot_wm.deployment.planning import ControllerSettings, PlanningSettings, suggested_planning
from robot_wm.deployment.settings import ENVS, SimulationSettings
from robot_wm.deployment.simulation import Simulation, build_simulation
from robot_wm.encoders import build_encoder, encode, register_encoder
from robot_wm.imagination import ImaginedCost, SearchBudget
from robot_wm.models import FitConfig, TrainableModel, WorldModel, device_of, register_family
from robot_wm.objectives import GoalEnergy
from robot_wm.planners import (
    CEM,
    ICEM,
    MPPI,
    Averaged,
    GradientCEM,
    GradientDescent,
    Planner,
    PredictiveSampling,
    QuasiNewton,
    RandomShooting,
)
from robot_wm.precision import pick_device
from robot_wm.predictor import PredictorShape
from robot_wm.proposals import Prior
from robot_wm.proposals import load_prior as _load_prior
from robot_wm.robots import make_arm, register_arm
from robot_wm.runtime import run_episode
from robot_wm.training import PriorConfig, TrainConfig
from robot_wm.types import (
    ActionSpec,
    Decision,
    Goal,
    ImageArray,
    Judgement,
    Measure,
    Observation,
    Plan,
    UserError,
)
from robot_wm.workflows.collect import CollectSettings
from robot_wm.workflows.collect import collect as _collect
from robot_wm.workflows.data import DatasetSettings
from robot_wm.workflows.evaluate import EvalSettings, Evaluation, evaluate_checkpoint
from robot_wm.workflows.train import TrainingRun, TrainSettings
from robot_wm.workflows.train import train as _train

Picture = ImageArray | str | Path


def load(checkpoint: str | Path, *, device: str = "auto") -> TrainableModel:
    """Loads a world model.

    Args:
        checkpoint: A directory, or the name of a checkpoint that ships, such as `"so100_reach"`.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...

    Returns:
        The model, ready to observe, imagine and plan with.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        UserError: the checkpoint is damaged, or there is no such device.
    """
    model, _ = load_checkpoint(find_checkpoint(str(checkpoint)))
    model.to(pick_device(device))
    return model


def load_prior(checkpoint: str | Path) -> Prior | None:
    """Loads the prior that was trained beside a world model.

    Args:
        checkpoint: A directory, or the name of a checkpoint that ships.

    Returns:
        The prior, which `make_controller` takes; None: the checkpoint has none.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        UserError: the checkpoint or the prior is damaged.
    """
    directory = find_checkpoint(str(checkpoint))
    model, _ = load_checkpoint(directory)
    return _load_prior(directory, model.info)


def as_goal(model: WorldModel, picture: Picture | Mapping[str, Picture]) -> Goal:
    """Makes a goal of one picture, or of a picture from each of a model's cameras.

    Args:
        model: The model whose cameras see the goal.
        picture: A file, or uint8 RGB `[height, width, 3]`; for several cameras a mapping from
            camera to picture.

    Returns:
        The goal.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: a file is not a picture, or the picture of a camera is missing.
    """
    cameras = model.info.cameras
    if not isinstance(picture, Mapping):
        picture = {cameras[0]: picture}
    if set(picture) != set(cameras):
        raise UserError(f"goal: got {', '.join(picture)}, want {', '.join(cameras)}")
    return Goal(
        {
            name: value if isinstance(value, np.ndarray) else read_picture(Path(value))
            for name, value in picture.items()
        }
    )


def plan(
    model: TrainableModel | str | Path,
    observation: Observation,
    goal: Goal | Picture | Mapping[str, Picture],
    *,
    planner: Planner | None = None,
    objective: Part | None = None,
    seed: int = 0,
) -> Plan:
    """Searches for the actions whose imagined end looks like a goal picture; executes nothing.

    Args:
        model: A loaded model, or a checkpoint that is loaded for this plan alone.
        observation: The current observation.
        goal: The goal, or its picture or pictures.
        planner: The optimiser; `QuasiNewton()` if None.
        objective: The objective to minimise; the distance to the goal's latent if None.
        seed: Seed of the planner's randomness.

    Returns:
        The plan: its actions `[H, A]` in the robot's units, and their cost.

    Raises:
        UserError: the observation or the goal does not fit the model.
        PlanningError: the planner finds no plan with a finite cost.
    """
    if isinstance(model, str | Path):
        model = load(model)
    if not isinstance(goal, Goal):
        goal = as_goal(model, goal)
    device = device_of(model)
    make = make_objective(model, objective or PlanningSettings().objective)
    with torch.inference_mode(False), torch.no_grad():
        state = model.observe(model.initial(), observation, None)
        cost = ImaginedCost(model, state, make(model.embed(goal.images)))
        return (planner or QuasiNewton()).plan(
            cost,
            model.info.action_spec,
            init=None,
            generator=torch.Generator(device).manual_seed(seed),
        )


def simulation(env: str | SimulationSettings = "so100_reach", **settings: Any) -> Simulation:
    """Builds a simulated arm with a task.

    Args:
        env: The name of an env that ships, or settings.
        **settings: Fields of SimulationSettings to change, such as `num_steps=10`.

    Returns:
        The simulation.

    Raises:
        UserError: there is no such env, or a setting does not fit.
    """
    if isinstance(env, str):
        if env not in ENVS:
            raise UserError(f"env: got {env!r}, want one of {', '.join(ENVS)}")
        env = ENVS[env]
    values = {name: getattr(env, name) for name in env.__struct_fields__}
    return build_simulation(SimulationSettings(**{**values, **settings}))


def collect(out: str | Path, **settings: Any) -> list[Judgement]:
    """Collects demonstrations of a scripted expert in simulation, as a LeRobot dataset.

    Args:
        out: Directory of the dataset, new or empty.
        **settings: Other fields of CollectSettings, such as `num_episodes=50`.

    Returns:
        The judgement at the end of every episode.
    """
    return _collect(CollectSettings(out=str(out), **settings))


def train(data: str | Path | DatasetSettings, out: str | Path, **settings: Any) -> TrainingRun:
    """Trains a world model on a LeRobot dataset and writes its checkpoint.

    Args:
        data: A directory, a hub id, or settings of a dataset.
        out: Directory of the checkpoint.
        **settings: Other fields of TrainSettings, such as `train=TrainConfig(num_steps=500)`.

    Returns:
        The metrics and the held-out errors; `load(out)` returns the model.

    Raises:
        UserError: the data or a setting does not fit.
    """
    if not isinstance(data, DatasetSettings):
        data = DatasetSettings(source=str(data))
    return _train(TrainSettings(data=data, out=str(out), **settings))


def evaluate(checkpoint: str | Path, **settings: Any) -> Evaluation:
    """Evaluates a checkpoint on a fixed list of episodes, next to its floors.

    Args:
        checkpoint: A directory, or the name of a checkpoint that ships.
        **settings: Other fields of EvalSettings, such as `num_episodes=20`; without them it plans
            as on the command line.

    Returns:
        The figures of the model and its floors.
    """
    objective = settings.get("objective")
    planning = suggested_planning(str(checkpoint), objective and objective.name)
    defaults = {name: getattr(planning, name) for name in ("planner", "objective", "controller")}
    return evaluate_checkpoint(EvalSettings(checkpoint=str(checkpoint), **{**defaults, **settings}))


__all__ = [
    "CEM",
    "ICEM",
    "MPC",
    "MPPI",
    "ActionChunks",
    "ActionSpec",
    "Averaged",
    "ControllerSettings",
    "DatasetSettings",
    "Decision",
    "FitConfig",
    "Goal",
    "GoalEnergy",
    "GoalSequence",
    "GradientCEM",
    "GradientDescent",
    "ImaginedCost",
    "Judgement",
    "Measure",
    "Observation",
    "Part",
    "Plan",
    "PlanningSettings",
    "PredictiveSampling",
    "PredictorShape",
    "Prior",
    "PriorConfig",
    "QuasiNewton",
    "RandomShooting",
    "SearchBudget",
    "SimulationSettings",
    "TrainConfig",
    "as_goal",
    "build_encoder",
    "check_encoder",
    "check_env",
    "check_planner",
    "check_task",
    "collect",
    "encode",
    "evaluate",
    "load",
    "load_prior",
    "make_arm",
    "make_controller",
    "plan",
    "register_arm",
    "register_encoder",
    "register_family",
    "run_episode",
    "simulation",
    "train",
]
