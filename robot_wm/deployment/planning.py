"""Settings of how a checkpoint plans: planner, objective and controller."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
from safetensors import SafetensorError, safe_open

from robot_wm.deployment.parts import Part
from robot_wm.imagination import SearchBudget
from robot_wm.shipped import PRIOR_FILE, checkpoint_directory
from robot_wm.types import Count, Index, NonNegative, Number, Positive, Seed, Settings

_STEPS_TO_GO = "steps_to_go"


class ActionLimits(Settings, frozen=True):
    """Limits of actions, in addition to the bounds of the robot and the training data.

    Attributes:
        scale: Size of a large action in each dimension, in the robot's units; null: half of its
            range.
        fixed: Dimensions that always have the same value, by name.
        trust_radius: Length of the longest action, in units of the scale; null: no such limit.
        trust_norm: Norm by which the length of an action is measured.
    """

    scale: tuple[Number, ...] | None = None
    fixed: dict[str, Number] = {}
    trust_radius: Positive | None = None
    trust_norm: Literal["l2", "box"] = "l2"


class ControllerSettings(Settings, frozen=True):
    """How plans become actions, and when a goal is reached.

    Energies are in units of the mean change in one step of the training data, which a checkpoint
    knows if its config.json has `step_energy`.

    Attributes:
        execute_steps: Actions of a plan that are executed before the next plan.
        proposals: Where candidate actions come from before the search: `policy` and `retrieval` of
            the checkpoint's prior, and `last_plan`.
        task: Task of the demonstrations that the proposals act as, in the dataset's words; null:
            the env's instruction if it is one of them, or else all of them are proposed.
        num_proposals: Number of them; null: as many as the planner's `num_samples`, or 64.
        waypoints: Proposals go to a goal that is far away over frames of the demonstrations.
        commitment: Weight of the last plan among the proposals where one is chosen that most
            resemble; at 0 each step chooses anew.
        search: Whether the planner searches; false executes what most of the proposals resemble.
        margin: Energy by which a plan must beat doing nothing, or what most of the proposals
            resemble if there are any; null: the same as 0.
        arrival: A goal is reached once the energy is below this and falls no further; 0 or null:
            never.
        passing: A goal with another one after it is reached once the energy is below this; null: as
            the last one is.
        arrival_decisions: Number of decisions in a row for which this must hold.
        progress: Energy by which a decision must come nearer than all before to count; null: 0.
        patience: Decisions in a row without progress that stall a goal; 0 or null: never.
        timeout_steps: Largest number of decisions for one goal; null: no limit.
        limits: Limits of actions.
        search_budget: Limits of imagining: pruning, batch size and precision.
        calibrate: Estimates from the arm's motion where its axes point, and turns actions
            accordingly; for actions that are changes of the state, x, y and z first.
        compile: Compiles the predictor with torch.compile, for long runs on a GPU.
    """

    execute_steps: Count = 1
    proposals: tuple[Literal["policy", "retrieval", "last_plan"], ...] = ()
    task: str | None = None
    num_proposals: Count | None = None
    waypoints: bool = False
    commitment: NonNegative = 0.5
    search: bool = True
    margin: NonNegative | None = 0.0
    arrival: NonNegative | None = 0.1
    passing: NonNegative | None = None
    arrival_decisions: Count = 2
    progress: NonNegative | None = 0.1
    patience: Index | None = 4
    timeout_steps: Count | None = None
    limits: ActionLimits = ActionLimits()
    search_budget: SearchBudget = SearchBudget()
    calibrate: bool = False
    compile: bool = False


class PlanningSettings(Settings, frozen=True):
    """How a checkpoint plans.

    Attributes:
        planner: The optimiser (robot_wm.planners), or the caller's own.
        objective: The objective to minimise, made from the goal's latent (robot_wm.objectives).
        controller: Settings of the controller, which turns plans into actions.
        seed: Seed of everything that is random.
    """

    planner: Part = Part("quasi_newton")
    objective: Part = Part("energy")
    controller: ControllerSettings = ControllerSettings()
    seed: Seed = 0


def suggested_planning(checkpoint: str, objective: str | None = None) -> PlanningSettings:
    """Returns how a checkpoint plans, unless it is told otherwise.

    The numbers are provisional: no table on the dev split has chosen them yet.

    Args:
        checkpoint: A directory, or the name of a checkpoint that ships.
        objective: Name of the objective that it is told; None: it is told none.

    Returns:
        The settings: the defaults, or other ones where it has a prior.
    """
    prior = checkpoint_directory(checkpoint) / PRIOR_FILE
    if not prior.is_file():
        return PlanningSettings()
    controller = ControllerSettings(proposals=("policy",))
    if objective in (None, _STEPS_TO_GO):  # an arrival, in steps to go, says nothing of another one
        controller = msgspec.structs.replace(controller, arrival=1.0, passing=3.0, patience=15)
    chunk = _chunk(prior)
    planner = Part("averaged") if chunk is None else Part("averaged", horizon=chunk)
    return PlanningSettings(planner, Part(_STEPS_TO_GO), controller)


def _chunk(prior: Path) -> int | None:
    """Returns the number of actions that a prior proposes at once; None: the file is damaged."""
    try:
        with safe_open(prior, "np") as file:
            shape = msgspec.json.decode((file.metadata() or {})["shape"])
        return max(1, int(shape["chunk"]))
    except (SafetensorError, msgspec.MsgspecError, LookupError, TypeError, ValueError):
        return None  # what is wrong is said where it is loaded


def suggested_words(checkpoint: str, told: Mapping[str, str]) -> dict[str, str]:
    """Returns the same as the words of a command line, where they are not the defaults.

    Args:
        checkpoint: A directory, or the name of a checkpoint that ships.
        told: What a command is told, by key, which is left out.

    Returns:
        Values by key.
    """
    objective = told.get("objective", told.get("objective._target_"))
    suggested, default = suggested_planning(checkpoint, objective), PlanningSettings()
    words = {
        name: getattr(suggested, name).name
        for name in ("planner", "objective")
        if getattr(suggested, name) != getattr(default, name)
    }
    if "planner" not in told and "planner._target_" not in told:
        words |= {f"planner.{key}": str(v) for key, v in suggested.planner.settings.items()}
    for name in ControllerSettings.__struct_fields__:
        value = getattr(suggested.controller, name)
        if value != getattr(default.controller, name):
            words[f"controller.{name}"] = msgspec.json.encode(value).decode()
    return {key: value for key, value in words.items() if key not in told}
