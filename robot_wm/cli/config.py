"""Makes a command's settings from `key=value` words.

hydra composes the choices (a planner, an env, an experiment) from the settings types and from YAML
files; the other words are set one by one; the settings type then checks everything.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robot_wm.cli.fields import (
    GROUPS,
    TABLES,
    expand,
    fields_of,
    part_node,
    part_types,
    types_at,
)
from robot_wm.cli.main import module_of
from robot_wm.deployment.extensions import config_folder
from robot_wm.deployment.old_names import refuse_old_name
from robot_wm.deployment.parts import Part
from robot_wm.types import UserError, read_settings
from robot_wm.types.settings import is_settings, refuse_unknown, tag_of

_PARSER = OverridesParser.create()
_ROOT = Path(__file__).resolve().parents[1]
_PLAIN = (str, int, float, bool, type(None))


class UsageError(UserError):
    """The command line names something that does not exist."""


def config_dir() -> Path:
    """Finds the folder of YAML files: inside the wheel, or next to the library in a checkout."""
    for candidate in (_ROOT / "configs", _ROOT.parent / "configs"):
        if (candidate / "experiment").is_dir():
            return candidate
    raise FileNotFoundError(f"configs: none at {_ROOT / 'configs'} or {_ROOT.parent / 'configs'}")


def choices(settings_type: type) -> dict[str, list[str]]:
    """Lists the groups of a command and the choices of each: `{"planner": ["cem", ...], ...}`."""
    names_by_group = {group: set(nodes()) for group, nodes in _groups(settings_type).items()}
    names_by_group["experiment"] = set()
    user_folder = config_folder()
    for root in (config_dir(), *([user_folder] if user_folder else [])):
        for group in names_by_group:
            names_by_group[group] |= {path.stem for path in (root / group).glob("*.yaml")}
    return {group: sorted(names) for group, names in sorted(names_by_group.items())}


def _groups(settings_type: type) -> dict[str, Callable[[], Mapping[str, Any]]]:
    """Returns, for each field of a command whose value is a choice, a function that makes ours."""
    return {
        name: functools.partial(TABLES[name].choices, name)
        for name, kind in fields_of(settings_type).items()
        if name in GROUPS and TABLES[name].fits(kind)
    }


def _register(settings_type: type) -> None:
    """Registers a command's defaults and the choices of its groups with hydra."""
    store, groups = ConfigStore.instance(), _groups(settings_type)
    for group, nodes in groups.items():
        for name, node in nodes().items():
            if "seed" in fields_of(settings_type) and "seed" in node:
                node = {**node, "seed": "${seed}"}  # one seed decides all that is random
            store.store(group=group, name=name, node=node)
    values = expand(settings_type)
    defaults: list[Any] = ["_self_"]
    for group in groups:
        defaults.append({group: TABLES[group].default(group, values[group])})
        values[group] = None if values[group] is None else {}
    defaults.append({"experiment": "default"})
    store.store(name=settings_type.__name__, node={"defaults": defaults, **values})


def load_command(command: str, words: Sequence[str]) -> Any:
    """Makes the settings of a command, given its name; see `load_settings`."""
    return load_settings(command, importlib.import_module(module_of(command)).SETTINGS, words)


def load_settings(command: str, settings_type: type, words: Sequence[str]) -> Any:
    """Makes a command's settings from its words.

    Args:
        command: Name of the command, for error messages.
        settings_type: Type of the settings.
        words: Words of the form `key=value`.

    Returns:
        An instance of `settings_type`.

    Raises:
        UserError: an unknown key or choice, a value of the wrong kind or out of range, or a key
            that is missing.
    """
    pairs = [_pair(word) for word in words]
    pairs = [_expand_short(key, value, settings_type) for key, value in pairs]
    groups = choices(settings_type)
    chosen = [f"{key}={_choice(key, value, groups)}" for key, value in pairs if key in groups]
    try:
        config = _compose(settings_type, chosen)
        config = OmegaConf.create(_prune(OmegaConf.to_container(config), settings_type, ""))
        assert isinstance(config, DictConfig)
        OmegaConf.set_struct(config, False)
        # `_target_` first: a part of the caller's own must not inherit the settings of ours.
        ordered = sorted(pairs, key=lambda pair: not pair[0].endswith("._target_"))
        for key, value in ordered:
            if key not in groups:
                refuse_old_name(key, command)
                _set(config, key, _value(key, value, settings_type))
        values: Any = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(" ".join(str(error).split())) from error
    refuse_unknown("", values, settings_type)
    missing = _missing(values)
    if missing:
        names = ("data" if key == "data.source" else key for key in missing)
        raise UsageError(f"{command} needs {', '.join(f'{name}=...' for name in names)}")
    settings = read_settings("", values, settings_type)
    for path, part in part_types(settings):
        table = TABLES[path.rpartition(".")[2]]
        part.find(table.table(), path, also=table.more)
    return settings


def _pair(word: str) -> tuple[str, str]:
    """Splits a word into key and value."""
    key, equals, value = word.partition("=")
    if not equals or not key.strip("+~"):
        raise UsageError(f"got {word!r}, want key=value")
    return key.lstrip("+"), value


def _expand_short(key: str, value: str, settings_type: type) -> tuple[str, str]:
    """Expands `data=DIR`, which is short for `data.source=DIR`."""
    names = choices(settings_type).get("data", [])
    return ("data.source", value) if key == "data" and value not in names else (key, value)


def _choice(group: str, value: str, groups: Mapping[str, Sequence[str]]) -> str:
    """Returns a choice if it exists.

    Args:
        group: The group, such as `planner`.
        value: Name of the choice.
        groups: The choices of each group.

    Returns:
        The name.

    Raises:
        UsageError: the group has no choice of that name.
    """
    if value not in groups[group] and value != "null":
        raise UsageError(f"{group}: got {value!r}, want one of {', '.join(groups[group])}")
    return value


def _compose(settings_type: type, chosen: Sequence[str]) -> DictConfig:
    """Lets hydra compose the choices."""
    _register(settings_type)
    user_folder = config_folder()
    more = [] if user_folder is None else [f"hydra.searchpath=[file://{user_folder}]"]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose(settings_type.__name__, [*chosen, *more])
    finally:
        GlobalHydra.instance().clear()


def _value(key: str, text: str, settings_type: type) -> Any:
    """Parses the value of a word: as text if the key takes only text, else as hydra or YAML does.

    Args:
        key: The dotted key.
        text: The value as it was typed.
        settings_type: Type of the settings.

    Returns:
        The value.

    Raises:
        UsageError: the value can be parsed in neither way.
    """
    kinds = types_at(settings_type, key)
    scalars = {kind for kind in kinds if kind in _PLAIN}
    if text == "null" and type(None) in kinds:
        return None
    if str in scalars and not scalars & {int, float, bool} and text[:1] not in ("[", "{"):
        return os.path.expanduser(text)
    if text.startswith("~"):
        return os.path.expanduser(text)
    try:
        return _PARSER.parse_override(f"{key.lstrip('~')}={text}").value()
    except HydraException:
        pass
    try:
        value = OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=False)
    except Exception as error:
        raise UsageError(f"{key}: got {text!r}, want such as [a,b] or {{a: b}}") from error
    assert isinstance(value, dict)
    return value["value"]


def _at_home(value: Any) -> Any:
    """Expands `~` in texts, also in those of a list or a mapping."""
    if isinstance(value, dict):
        return {key: _at_home(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_at_home(member) for member in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def _set(config: DictConfig, key: str, value: Any) -> None:
    """Sets a dotted key; a part of the caller's own begins without settings."""
    *parents, last = key.split(".")
    node: Any = config
    for name in parents:
        below = None if OmegaConf.is_missing(node, name) else node.get(name)
        if not isinstance(below, DictConfig) or last == "_target_" and name == parents[-1]:
            node[name] = {}
        node = node[name]
    value = _at_home(value)
    if isinstance(value, dict) and isinstance(node.get(last), DictConfig):
        value = OmegaConf.merge(node[last], value)
    node[last] = value


def _prune(values: Any, kind: Any, field: str) -> Any:
    """Drops the keys that an experiment sets for other commands and other choices."""
    if not isinstance(values, dict):
        return values
    members = types_at(kind, "")
    if Part in members and values.get("name") in TABLES[field].table():
        allowed = part_node(field, values["name"])
        return {key: value for key, value in values.items() if key in allowed}
    for member in members:
        tag = tag_of(member) or ("", "")
        if is_settings(member) and (not tag[0] or values.get(tag[0]) == tag[1]):
            kinds = fields_of(member)
            known = {key: value for key, value in values.items() if key in kinds or key == tag[0]}
            return {key: _prune(v, kinds.get(key, Any), key) for key, v in known.items()}
    return values


def _missing(values: Any, prefix: str = "") -> list[str]:
    """Lists the keys that must still be given."""
    if values == "???":
        return [prefix]
    if not isinstance(values, dict):
        return []
    keys = []
    for key, value in values.items():
        keys += _missing(value, f"{prefix}.{key}" if prefix else str(key))
    return sorted(keys)


def sweep(words: Sequence[str]) -> list[list[str]]:
    """Expands words with several values, such as `seed=1,2,3`, to every combination, as hydra does.

    Args:
        words: Words of the form `key=value`.

    Returns:
        The words of each run.

    Raises:
        UsageError: a word is not of that form.
    """
    combinations: list[list[str]] = [[]]
    for word in words:
        key, value = _pair(word)
        try:
            override = _PARSER.parse_override(word)
            values = (
                [f"{key}={text}" for text in override.sweep_string_iterator()]
                if override.is_sweep_override()
                else [word]
            )
        except HydraException:
            values = [f"{key}={value}"]
        combinations = [[*before, after] for before in combinations for after in values]
    return combinations
