"""An open table of families: how a kind of world model is made, from data or from a checkpoint.

A checkpoint names its family; what it names is built by code of ours, or by what the caller has
registered, and never imported by a name in a file.
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
    """A WorldModel behind a frozen encoder that is a torch.nn.Module besides."""

    def parameters(self, recurse: bool = True) -> Any: ...

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...

    def to(self, *args: Any, **kwargs: Any) -> Any: ...

    def compile(self) -> Any: ...


@dataclass(frozen=True)
class Family:
    """A kind of world model.

    Attributes:
        name: by which a checkpoint names it.
        model_type: the class of its models, a torch.nn.Module whose parameters are what learns.
        build: makes a model of a dataset, its weights drawn from `FitConfig.seed`; takes the
            family's own settings.
        describe: a model to JSON: all that `rebuild` needs beside its encoder and its weights.
        rebuild: makes it again; the weights are then loaded into it.
    """

    name: str
    model_type: type[Any]
    build: Callable[[TrainingData, FitConfig, Mapping[str, Any]], Any]
    describe: Callable[[Any], dict[str, Any]]
    rebuild: Callable[[Encoder, Mapping[str, Any]], Any]


_FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> Family:
    """Adds a family to the table; returns it.

    Raises:
        UserError: the name is taken by another.
    """
    if _FAMILIES.get(family.name, family) != family:
        raise UserError(f"family: {family.name!r} is taken")
    _FAMILIES[family.name] = family
    return family


def find_family(name: str) -> Family:
    """The family of a name.

    Raises:
        UserError: none is registered by that name.
    """
    if name not in _FAMILIES:
        raise UserError(
            f"family: got {name!r}, registered are {', '.join(sorted(_FAMILIES))}; the module that "
            f"registers it has to be imported first: robot-wm --import MODULE ..."
        )
    return _FAMILIES[name]


def family_of(model: Any) -> Family:
    """The family that a model is of.

    Raises:
        TypeError: none that is registered.
    """
    for family in _FAMILIES.values():
        if type(model) is family.model_type:
            return family
    raise TypeError(f"family: {type(model).__name__} is of none that is registered")


def check_world_model_parts(model: Any) -> None:
    """Looks at what a family has built, before any work is done with it.

    Raises:
        UserError: it is no world model, or not one that can be trained and saved.
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
    own = {id(parameter) for parameter in model.parameters()}
    if not own:
        raise UserError(f"family: {name} has no parameters to learn")
    if isinstance(model.encoder, nn.Module) and own & {id(p) for p in model.encoder.parameters()}:
        raise UserError(f"family: {name} has its encoder among the parts that learn")


def device_of(model: Any) -> torch.device:
    """Where a model is: the device of its parameters."""
    return next(model.parameters()).device
