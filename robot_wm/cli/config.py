"""Makes a command's settings from `key=value` words.

hydra composes the choices (a planner, an env, an experiment) from the settings types and from YAML
files; the other words are set one by one; the settings type then checks everything.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString, Transformer
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robot_wm.cli.fields import (
    GROUPS,
    TABLES,
    expand,
    part_kinds,
    part_node,
    part_types,
)
from robot_wm.cli.main import module_of
from robot_wm.deployment.extensions import config_folder
from robot_wm.deployment.old_names import refuse_old_name
from robot_wm.deployment.parts import Part
from robot_wm.types import UserError, read_settings
from robot_wm.types.settings import is_settings, kinds_of, refuse_unknown, tag_of, types_at

_PARSER = OverridesParser.create()
_ROOT = Path(__file__).resolve().parents[1]
_PLAIN = (str, int, float, bool, type(None))


class UsageError(UserError):
    """The command line names something that does not exist."""


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """Turns what hydra and YAML raise about words and files into a user's error."""
    try:
        yield
    except RecursionError as error:
        raise UsageError("got keys or values that are nested too deeply") from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeError) as error:
        raise UsageError(" ".join(str(error).split())) from error


def config_dir() -> Path:
    """Finds the folder of YAML files: inside the wheel, or next to the library in a checkout."""
    for candidate in (_ROOT / "configs", _ROOT.parent / "configs"):
        if (candidate / "experiment").is_dir():
            return candidate
    raise FileNotFoundError(f"configs: none at {_ROOT / 'configs'} or {_ROOT.parent / 'configs'}")


def choices(settings_type: type) -> dict[str, list[str]]:
    """Lists the groups of a command and the choices of each: `{"planner": ["cem", ...], ...}`."""
    names_by_group = {"experiment": set[str]()}
    for group, kind in kinds_of(settings_type).items():
        if group in _groups(settings_type):
            names_by_group[group] = set(TABLES[group].names(kind))
    user_folder = config_folder()
    for root in (config_dir(), *([user_folder] if user_folder else [])):
        for group in names_by_group:
            names_by_group[group] |= {path.stem for path in (root / group).glob("*.yaml")}
    return {group: sorted(names) for group, names in sorted(names_by_group.items())}


def _groups(settings_type: type) -> dict[str, Callable[[], Mapping[str, Any]]]:
    """Returns, for each field of a command whose value is a choice, a function that makes ours."""
    return {
        name: functools.partial(TABLES[name].choices, name)
        for name, kind in kinds_of(settings_type).items()
        if name in GROUPS and TABLES[name].fits(kind)
    }


def _register(settings_type: type) -> None:
    """Registers a command's defaults and the choices of its groups with hydra."""
    store, groups = ConfigStore.instance(), _groups(settings_type)
    for group, nodes in groups.items():
        for name, node in nodes().items():
            if "seed" in kinds_of(settings_type) and "seed" in node:
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
    told = dict(_expand_short(*_pair(word)) for word in words)  # the last one counts
    pairs = [*(_suggested(told, settings_type) | told).items()]
    keys = [key for key, _ in pairs]
    groups = choices(settings_type)
    nulls = [key for key, value in pairs if key in groups and value == "null"]
    chosen = [
        f"{key}={_choice(key, value, groups)}"
        for key, value in pairs
        if key in groups and key not in nulls
    ]
    if "goal" in keys and any(key.startswith("goal.") for key in keys):
        raise UsageError("goal: got a picture, and pictures by camera; want one or the other")
    with _in_one_line():
        config = _compose_for(settings_type, chosen, command)
        for key in nulls:
            if type(None) not in types_at(settings_type, [key]):
                raise UsageError(f"{key}: got null, want one of {', '.join(groups[key])}")
            config[key] = None
        # `_target_` first: a part of the caller's own must not inherit the settings of ours.
        ordered = sorted(pairs, key=lambda pair: not pair[0].endswith("._target_"))
        for key, value in ordered:
            if key not in groups:
                refuse_old_name(f"{key}={value}", command)
                _set(config, key, _value(key, value, settings_type), groups)
        values: Any = OmegaConf.to_container(config, resolve=True)
        refuse_unknown("", values, settings_type)
    missing = _missing(values)
    if missing:
        names = ("data" if key == "data.source" else key for key in missing)
        raise UsageError(f"{command} needs {', '.join(f'{name}=...' for name in names)}")
    settings = read_settings("", values, settings_type)
    for path, part in part_types(settings):
        table = TABLES[path.rpartition(".")[2]]
        part.find(table.table(), path, also=table.more, without=table.facts)
    return settings


@_in_one_line()
def compose_values(settings_type: type, words: Sequence[str]) -> dict[str, Any]:
    """Composes the choices among some words.

    Args:
        settings_type: Type of the settings.
        words: Words of the form `key=value`; those that choose nothing are passed over.

    Returns:
        Plain values, `"???"` where one must be given.

    Raises:
        UserError: a file of settings cannot be read.
    """
    groups = choices(settings_type)
    chosen = [word for word in words if word.partition("=")[2] in groups.get(_key(word), ())]
    config = _compose(settings_type, chosen)
    OmegaConf.set_struct(config, False)
    values: Any = OmegaConf.to_container(config, resolve=True)
    return {key: values[key] for key in kinds_of(settings_type)}


def _key(word: str) -> str:
    return word.partition("=")[0]


def _compose_for(settings_type: type, chosen: Sequence[str], command: str) -> DictConfig:
    """Composes the choices, and of an experiment only what this command has.

    An experiment speaks for every command, so what this one lacks is left out; a choice of a group
    is held to the types like any word.
    """
    config = _compose(settings_type, chosen)
    OmegaConf.set_struct(config, False)
    foreign = {str(key) for key in config} - kinds_of(settings_type).keys()
    if not foreign and not any(word.startswith("experiment=") for word in chosen):
        return config  # composing takes a quarter of a second
    plain = [word for word in chosen if not word.startswith("experiment=")]
    base = OmegaConf.to_container(_compose(settings_type, [*plain, "~experiment"]))
    pruned = _prune(OmegaConf.to_container(config), base, settings_type, "", command)
    made = OmegaConf.create(pruned)
    assert isinstance(made, DictConfig)
    OmegaConf.set_struct(made, False)
    return made


def _pair(word: str) -> tuple[str, str]:
    """Splits a word into key and value."""
    key, equals, value = word.partition("=")
    if not equals or not key.strip("+~"):
        raise UsageError(f"got {word!r}, want key=value")
    return key.lstrip("+"), value


def _suggested(told: Mapping[str, str], settings_type: type) -> dict[str, str]:
    """Returns how the checkpoint plans, except where the words, or an experiment, say otherwise."""
    kinds = kinds_of(settings_type)
    if "checkpoint" not in told or "planner" not in kinds or "experiment" in told:
        return {}
    from robot_wm.deployment.planning import suggested_words  # imports torch

    return suggested_words(told["checkpoint"], told)


def _expand_short(key: str, value: str) -> tuple[str, str]:
    """Expands `data=DIR`, which is short for `data.source=DIR`."""
    if key != "data" or value in TABLES["data"].table():
        return key, value
    if not value:
        raise UsageError("data: got nothing, want a directory or a hub id")
    return "data.source", value


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
    if value not in groups[group]:
        raise UsageError(f"{group}: got {value!r}, want one of {', '.join(groups[group])}")
    return value


def _compose(settings_type: type, chosen: Sequence[str]) -> DictConfig:
    """Lets hydra compose the choices."""
    _register(settings_type)
    user_folder = config_folder()
    more = (
        []
        if user_folder is None
        else ["hydra.searchpath=['file://" + str(user_folder).replace("'", "\\'") + "']"]
    )
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
    kinds = types_at(settings_type, key.split(".")) or part_kinds(key)
    scalars = {kind for kind in kinds if kind in _PLAIN}
    if text == "null":
        return None
    if str in scalars and not scalars & {int, float, bool}:
        lists = any(get_origin(kind) in (list, tuple, Sequence) for kind in kinds)
        mappings = any(get_origin(kind) is dict or is_settings(kind) for kind in kinds)
        if not (lists and text[:1] == "[" or mappings and text[:1] == "{"):
            return os.path.expanduser(text)
    if text.startswith("~"):
        return os.path.expanduser(text)
    try:
        override = _PARSER.parse_override(f"{key}={text}")
        if override.is_sweep_override():
            raise UsageError(f"{key}: got {text!r}, several values; --multirun takes each in turn")
        return override.value()
    except HydraException:
        pass
    try:
        ((_, value),) = OmegaConf.create(f"value: {text}").items_ex(resolve=False)
    except Exception as error:
        raise UsageError(f"{key}: got {text!r}, want such as [a,b] or {{a: b}}") from error
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _at_home(value: Any) -> Any:
    """Expands `~` in texts, also in those of a list or a mapping."""
    if isinstance(value, dict):
        return {key: _at_home(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_at_home(member) for member in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def _set(config: DictConfig, key: str, value: Any, groups: Mapping[str, Sequence[str]]) -> None:
    """Sets a dotted key; a part of the caller's own begins without settings.

    Args:
        config: Is changed.
        key: The dotted key.
        value: Its value.
        groups: The choices of each group.

    Raises:
        UsageError: the key is of a group of which nothing is chosen.
    """
    *parents, last = key.split(".")
    if parents and parents[0] in groups and config.get(parents[0], ...) is None:
        names = " or ".join(f"{parents[0]}={name}" for name in groups[parents[0]])
        raise UsageError(f"{key}: no {parents[0]} is chosen; want {names} beside it")
    node: Any = config
    for name in parents:
        below = None if OmegaConf.is_missing(node, name) else node.get(name)
        if not isinstance(below, DictConfig) or last == "_target_" and name == parents[-1]:
            node[name] = {}
        node = node[name]
    value = _at_home(value)
    mapping = isinstance(value, dict) and isinstance(node.get(last), DictConfig)
    if mapping and not {"_target_", "name"} & value.keys():
        value = OmegaConf.merge(node[last], value)
    node[last] = value


def _prune(values: Any, base: Any, kind: Any, path: str, command: str) -> Any:
    """Drops the keys that an experiment sets for other commands and other choices.

    Args:
        values: What was composed with the experiment.
        base: What was composed without.
        kind: Type of the settings here.
        path: The dotted name of this place; empty at the top.
        command: Name of the command.

    Returns:
        The values without what neither the base nor the type has.

    Raises:
        UserError: the experiment uses an old name of a key.
    """
    if not isinstance(values, dict) or "_target_" in values and values != base:
        outside = isinstance(base, dict) and isinstance(values, dict) and "_target_" in base
        return {key: values[key] for key in base} if outside else values
    field = path.rpartition(".")[2]
    members = types_at(kind, ())
    kinds: dict[str, Any] = {}
    if Part in members and values.get("name") in TABLES[field].table():
        kinds = dict.fromkeys(part_node(field, values["name"]), Any)
    for member in filter(is_settings, members):
        tag = tag_of(member)
        if tag is None or values.get(tag[0]) == tag[1]:
            kinds |= kinds_of(member)
    known = {}
    for key, value in values.items():
        below = f"{path}.{key}" if path else str(key)
        in_base = isinstance(base, dict) and key in base
        if in_base or key in kinds or not kinds:
            inner = base[key] if in_base else None
            known[key] = _prune(value, inner, kinds.get(key, Any), below, command)
        else:
            refuse_old_name(below, command)
    return known


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
    """Returns every combination of words with several values: `seed=0,1,2` or `seed=range(0,3)`.

    Args:
        words: Words of the form `key=value`; what separates values, and how a text with a comma is
            quoted, is hydra's grammar.

    Returns:
        A list of words for each combination.

    Raises:
        UsageError: a value that hydra's grammar does not take.
    """
    pairs = [_pair(word) for word in words]
    texts = [[f"{key}={text}" for text in _each(key, value)] for key, value in pairs]
    return [list(combination) for combination in itertools.product(*texts)]


def _each(key: str, text: str) -> list[str]:
    """Returns the values that a word has, each as it would be typed alone."""
    override = None
    try:
        override = _PARSER.parse_override(f"{key}={text}")
        if override.is_sweep_override():
            return [_typed(value) for value in override.sweep_iterator()]
        return [str(override.value()) if text[:1] in ("'", '"') else text]
    except (HydraException, ValueError) as error:
        if override is None and ("," not in text or not set(text) & set("[]{}()'\"")):
            return text.split(",")  # such as ~/a,~/b: hydra's grammar lacks some letters
        raise UsageError(f"{key}: {' '.join(str(error).split())}") from error


def _typed(value: Any) -> str:
    if isinstance(value, QuotedString):
        return value.text
    return value if isinstance(value, str) else Transformer.str(value)
