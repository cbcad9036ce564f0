"""The table of families: how a kind of world model is made, from data or from a checkpoint.

A checkpoint names its family. The family's code is ours or was registered by the caller; nothing is
imported because a file names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from robot_wm.encoders import Encoder
from robot_wm.models.fitting import FitConfig, TrainingData
from robot_wm.models.protocol import Encoded, ModelInfo, WorldModel
from robot_wm.types import UserError


class TrainableModel(WorldModel, Encoded, Protocol):
    """A WorldModel with a frozen encoder that is also a torch.nn.Module."""

    def parameters(self, recurse: bool = True) -> Any:
        """Yields the parameters; see torch.nn.Module."""
        ...

    def state_dict(self) -> Any:
        """Returns the weights by name; see torch.nn.Module."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Loads weights by name; see torch.nn.Module."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switches to training mode; see torch.nn.Module."""
        ...

    def eval(self) -> Any:
        """Switches to evaluation mode; see torch.nn.Module."""
        ...

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Moves the model to a device; see torch.nn.Module."""
        ...

    def compile(self) -> Any:
        """Compiles the costly parts with torch.compile, in place."""
        ...


@dataclass(frozen=True)
class Family:
    """A kind of world model.

    Attributes:
        name: Name of the family in checkpoints.
        model_type: Class of its models, a torch.nn.Module whose parameters are all trained.
        build: Makes a model for a dataset, with weights drawn from `TrainingData.seed`; its last
            argument are the family's own settings.
        describe: Returns, as JSON values, all that `rebuild` needs besides the encoder and the
            weights.
        rebuild: Makes the model again; its weights are then loaded.
    """

    name: str
    model_type: type[Any]
    build: Callable[[TrainingData, FitConfig, Mapping[str, Any]], Any]
    describe: Callable[[Any], dict[str, Any]]
    rebuild: Callable[[Encoder, Mapping[str, Any]], Any]


_FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> Family:
    """Adds a family to the table.

    Args:
        family: The family.

    Returns:
        The family.

    Raises:
        UserError: another family has the name.
    """
    if _FAMILIES.get(family.name, family) != family:
        raise UserError(f"family: {family.name!r} is taken")
    _FAMILIES[family.name] = family
    return family


def find_family(name: str) -> Family:
    """Finds the family of a name.

    Args:
        name: The name.

    Returns:
        The family.

    Raises:
        UserError: no family is registered under that name.
    """
    if name not in _FAMILIES:
        raise UserError(
            f"family: got {name!r}, registered are {', '.join(sorted(_FAMILIES))}; the module that "
            f"registers it has to be imported first: robot-wm --import MODULE ..."
        )
    return _FAMILIES[name]


def family_of(model: Any) -> Family:
    """Finds the family of a model.

    Args:
        model: The model.

    Returns:
        The family.

    Raises:
        TypeError: no registered family has models of this class.
    """
    for family in _FAMILIES.values():
        if type(model) is family.model_type:
            return family
    raise TypeError(f"family: {type(model).__name__} is of none that is registered")


def check_world_model_parts(model: Any) -> None:
    """Checks a model that a family has built, before any work is done with it.

    Args:
        model: The model.

    Raises:
        UserError: it is not a world model, or it cannot be trained and saved.
    """
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise UserError(f"family: {name} is no torch.nn.Module")
    methods = ("initial", "observe", "latent", "embed", "rollout", "loss")
    missing = [method for method in methods if not callable(getattr(model, method, None))]
    if missing:
        raise UserError(f"family: {name} lacks {', '.join(missing)}")
    if not isinstance(getattr(model, "info", None), ModelInfo):
        raise UserError(f"family: the info of {name} is no ModelInfo")
    if not isinstance(model, Encoded):
        raise UserError(f"family: {name} has no encoder")
    trained = {id(parameter) for parameter in model.parameters()}
    if not trained:
        raise UserError(f"family: {name} has no parameters to learn")
    encoder = model.encoder
    if isinstance(encoder, nn.Module) and trained & {id(p) for p in encoder.parameters()}:
        raise UserError(f"family: {name} has its encoder among the parts that learn")


def device_of(model: Any) -> torch.device:
    """Returns the device of a model's parameters."""
    return next(model.parameters()).device
