"""Makes settings from words such as `planner.horizon=2`, which a policy's directory keeps.

A policy's directory may come from a stranger. Its words choose among our parts and set them; they
name nothing that is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from robot_wm.deployment.old_names import refuse_old_name
from robot_wm.deployment.parts import Part
from robot_wm.deployment.planning import suggested_words
from robot_wm.deployment.run import DeploySettings
from robot_wm.deployment.settings import SO101
from robot_wm.objectives import OBJECTIVES
from robot_wm.planners import PLANNERS
from robot_wm.types import UserError, plain_settings, read_settings
from robot_wm.types.settings import types_at

_TABLES = {"planner": PLANNERS, "objective": OBJECTIVES}


def settings_of(checkpoint: str, goal: str, overrides: Sequence[str]) -> DeploySettings:
    """Makes the settings of a run on a LeRobot arm.

    Args:
        checkpoint: A directory, or the name of a checkpoint that ships.
        goal: File of the goal picture; empty: the words name one for each camera.
        overrides: Words `key=value`, with values as in YAML.

    Returns:
        The settings.

    Raises:
        UserError: a word is not a setting, or names a part that is not ours.
    """
    values: dict[str, Any] = {"checkpoint": checkpoint, "robot": plain_settings(SO101)}
    if goal:
        values["goal"] = goal
    told = {key: value for key, _, value in (word.partition("=") for word in overrides)}
    words = [f"{key}={value}" for key, value in suggested_words(checkpoint, told).items()]
    words += overrides
    # A choice comes before what is set in it, wherever it stands.
    for word in sorted(words, key=lambda word: word.partition("=")[0] not in _TABLES):
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"policy.overrides: got {word!r}, want key=value")
        refuse_old_name(word, "deploy")
        _set(values, key.split("."), _value(key, text))
    settings = read_settings("", values, DeploySettings)
    for name, table in _TABLES.items():
        part: Part = getattr(settings, name)
        if part.is_outside:
            raise UserError(f"policy.overrides: {name}={part.name}, want one of {', '.join(table)}")
        part.find(table, name, also=("region",) if name == "objective" else ())
    return settings


def _value(key: str, text: str) -> Any:
    """Reads a value: as it stands where only a text is wanted, else as YAML does."""
    kinds = types_at(DeploySettings, key.split("."))
    if text == "null":
        return None
    if str in kinds and (text[:1] not in ("[", "{") or set(kinds) <= {str, type(None)}):
        return text
    try:
        return _numbers(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"policy.overrides: got {text!r}, want a value as in YAML") from error


def _numbers(value: Any) -> Any:
    """Reads 1e-3, which YAML takes for text, as a number."""
    if isinstance(value, dict):
        return {key: _numbers(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_numbers(member) for member in value]
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _set(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Sets a nested key; a part that is given by its name alone becomes a mapping first."""
    *parents, last = keys
    for name in parents:
        below = values.get(name)
        if name in _TABLES and not isinstance(below, Mapping):
            below = {"name": below or getattr(DeploySettings(checkpoint="", goal=""), name).name}
        values[name] = dict(below) if isinstance(below, Mapping) else {}
        values = values[name]
    values[last] = value
