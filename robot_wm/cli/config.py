"""From `key=value` words to a checked configuration: hydra composes, a typo is told at once."""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from robot_wm.deployment.extensions import config_folder
from robot_wm.deployment.settings import (
    SO101,
    ControllerSettings,
    Part,
    PlanningSettings,
    RobotSettings,
    SimulatedRobot,
)
from robot_wm.types import UserError, read_settings

# These take a path or a hub id, which is quoted so that hydra's grammar leaves it alone.
_TEXT_KEYS = ("out", "checkpoint", "goal", "cache", "source", "weights", "init", "camera", "state")
_PARSER = OverridesParser.create()
_ROOT = Path(__file__).resolve().parents[1]
# In whose place a caller may put something of their own.
_REPLACED = ("planner", "encoder", "env.task", "env.robot", "env.demonstrator")


_STORE = ConfigStore.instance()
for _name, _settings in (("simulated", SimulatedRobot()), ("device", SO101)):
    _STORE.store(group="robot", name=_name, node=msgspec.to_builtins(_settings))
_STORE.store(group="controller", name="settings", node=msgspec.to_builtins(ControllerSettings()))


class UsageError(UserError):
    """The command line asks for something that is not there."""


@functools.cache
def _give_defaults(command: str) -> None:
    """Hands hydra the defaults of a command's settings, from the types that have them.

    They are groups that hydra alone knows: `fit: settings` in a command's YAML takes them.
    """
    given: Mapping[str, object] = {}
    name = "settings"
    if command == "train":  # torch takes a second, and other commands need none
        from robot_wm.models import FitConfig
        from robot_wm.training import TrainConfig

        given = {"fit": FitConfig(), "optimizer": TrainConfig()}
    elif command == "pretrain":
        from robot_wm.pretrain import PretrainConfig

        given = {"pretrain": PretrainConfig()}
    elif command in ("deploy", "plan"):
        from robot_wm.monitors import MonitorSettings

        watched = MonitorSettings()  # plan looks at the pictures alone, before it begins
        given = {"monitors": watched}
        if command == "plan":
            name, given = "pictures", {"monitors": {"novelty_ratio": watched.novelty_ratio}}
    for group, settings in given.items():
        _STORE.store(group=group, name=name, node=msgspec.to_builtins(settings))


def plain(value: object) -> Any:
    """Takes a setting out of its wrapping: lists and dicts instead of OmegaConf's."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def robot_settings(config: DictConfig) -> RobotSettings:
    """Reads the `robot` group of a command.

    Raises:
        UserError: a value of the wrong kind, or out of range.
    """
    return read_settings("robot", plain(config.robot), RobotSettings)


def planning_settings(config: DictConfig) -> PlanningSettings:
    """Reads the groups `planner`, `objective` and `controller` of a command, and its seed.

    Raises:
        UserError: a value of the wrong kind, or out of range.
    """
    return PlanningSettings(
        planner=Part.of(plain(config.planner)),
        objective=Part.of(plain(config.objective)),
        controller=read_settings("controller", plain(config.controller), ControllerSettings),
        seed=config.seed,
    )


def config_dir() -> Path:
    """The folder of YAML files: inside the wheel, or beside the library in a checkout."""
    for candidate in (_ROOT / "configs", _ROOT.parent / "configs"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise FileNotFoundError(f"configs: none at {_ROOT / 'configs'} or {_ROOT.parent / 'configs'}")


def groups() -> dict[str, list[str]]:
    """Config groups and their choices: `{"planner": ["cem", ...], ...}`."""
    found: dict[str, set[str]] = {}
    own = config_folder()
    for root in (config_dir(), *([own] if own else [])):
        for folder in filter(Path.is_dir, root.iterdir()):
            found.setdefault(folder.name, set()).update(p.stem for p in folder.glob("*.yaml"))
    return {name: sorted(choices) for name, choices in sorted(found.items())}


def load_config(command: str, words: Sequence[str], *, typed: bool = True) -> DictConfig:
    """Composes a command's configuration.

    Args:
        command: names its YAML file.
        words: `key=value` overrides.
        typed: whether the caller typed them: those may name what is to be imported (`_target_`).
            False: they come from a file.

    Raises:
        UsageError: an unknown key or choice, a value of the wrong kind, or a key that is missing.
    """
    try:
        config = _load(command, words, typed)
        OmegaConf.to_container(config, resolve=True)  # what refers to nothing is told now
    except OmegaConfBaseException as error:
        raise UsageError(_one_line(error)) from error
    return config


def _load(command: str, words: Sequence[str], typed: bool) -> DictConfig:
    top: Any = OmegaConf.to_container(compose_config(command, []))
    views = dict(_view(word) for word in words if word.startswith("goal.") and "goal" in top)
    words = [word for word in words if not (word.startswith("goal.") and "goal" in top)]
    words += ["goal=by camera"] if views else []
    pairs, targets = _take_targets([pair for word in words for pair in _split(word, top)], typed)
    choices = [f"{key}={value}" for key, value in pairs if key in groups()]
    base = compose_config(command, choices)  # with the chosen groups, to know their keys
    known: Any = OmegaConf.to_container(base)
    for key, _ in pairs:
        if key not in groups():
            _check_key(key, known)
    everything = compose_config(
        command, [f"{'++' if _is_open(key, known) else ''}{key}={value}" for key, value in pairs]
    )
    # An experiment speaks for every command; this one keeps what it knows.
    config = OmegaConf.masked_copy(everything, [str(key) for key in everything if key in top])
    ordinary = [word for word in choices if not word.startswith("experiment=")]
    if ordinary != choices:
        _drop_strangers(config, base, compose_config(command, ordinary))
    OmegaConf.set_struct(config, True)
    _check_targets(config, base, "")
    _check_kinds(config, base, "")
    if views:
        targets = {**targets, "goal": views}
    for key, own in targets.items():
        OmegaConf.update(config, key, own, merge=False, force_add=True)
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        names = ", ".join(f"{'data' if key == 'data.source' else key}=..." for key in missing)
        raise UsageError(f"{command} needs {names}")
    return config


def _view(word: str) -> tuple[str, str]:
    """`goal.CAMERA=FILE` as camera and file."""
    key, equals, value = word.partition("=")
    if not equals or not value or not key.removeprefix("goal."):
        raise UsageError(f"got {word!r}, want goal.CAMERA=FILE")
    return key.removeprefix("goal."), os.path.expanduser(value)


def _take_targets(
    pairs: Sequence[tuple[str, str]], typed: bool
) -> tuple[list[tuple[str, str]], dict[str, dict[str, Any]]]:
    """Takes out the words about what a caller puts in the place of ours.

    Returns:
        The other words, and by key what stands in their place: `_target_` and its own settings.
    """
    targets: dict[str, dict[str, Any]] = {}
    for key, value in pairs:
        owner, _, last = key.rpartition(".")
        if last == "_target_" and typed and owner in _REPLACED:
            targets[owner] = {"_target_": value}
    rest = []
    for key, value in pairs:
        owner = next((name for name in targets if key.startswith(f"{name}.")), None)
        if owner is None:
            rest.append((key, value))
        elif not key.endswith("._target_"):
            try:
                parsed: Any = OmegaConf.to_container(OmegaConf.create(f"value: {value}"))
            except Exception as error:  # whatever a reader of YAML raises
                raise UsageError(f"{key}: got {value!r}, want a value") from error
            targets[owner][key.removeprefix(f"{owner}.")] = parsed["value"]
    return rest, targets


def _drop_strangers(config: DictConfig, base: DictConfig, plain: DictConfig) -> None:
    """Removes what an experiment brought into a group whose choice does not have it."""
    for key in list(config.keys()):  # `in` a DictConfig overlooks what is still to be given
        known, own = key in base.keys(), key in plain.keys()
        if known and not own:
            with open_dict(config):
                del config[key]
        elif known and not any(OmegaConf.is_missing(c, key) for c in (config, base, plain)):
            if isinstance(config[key], DictConfig) and isinstance(plain[key], DictConfig):
                _drop_strangers(config[key], base[key], plain[key])


def compose_config(command: str, overrides: list[str]) -> DictConfig:
    """What hydra makes of a command's YAML and some overrides, unchecked."""
    GlobalHydra.instance().clear()
    _give_defaults(command)
    own = config_folder()
    if own is not None:
        overrides = [*overrides, f"hydra.searchpath=[file://{own}]"]
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose(command, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_one_line(error)) from error
    finally:
        GlobalHydra.instance().clear()


def _split(word: str, top: dict[str, Any]) -> list[tuple[str, str]]:
    """One command line word as keys and values, in hydra's grammar."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise UsageError(f"got {word!r}, want key=value")
    choices = groups()
    allowed = sorted({*top, "experiment"})
    if key.split(".")[0] not in allowed:
        near = _suggest(key.split(".")[0], allowed)
        raise UsageError(f"unknown override {word!r}{near}; allowed: {', '.join(allowed)}")
    if key == "data" and value not in choices["data"]:
        key = "data.source"
    if key == "encoder" and value not in choices[key]:
        from robot_wm.encoders import NAMES  # torch takes a second

        if value in NAMES:
            return [("encoder", "vit"), ("encoder.name", value)]
        choices[key] += NAMES
    if key in choices and value not in choices[key]:
        raise UsageError(f"{key}: got {value!r}, want one of {', '.join(choices[key])}")
    if key.split(".")[-1] in _TEXT_KEYS and value != "null":
        value = _quote(value)
    elif value[:1] in ("[", "{"):
        value = _quote_inside(key, value)
    return [(key, value)]


def _quote_inside(key: str, value: str) -> str:
    """Quotes the texts of a list or a mapping where hydra's grammar does not take them as they are.

    Raises:
        UsageError: it is neither in hydra's grammar nor in YAML's.
    """
    try:
        _PARSER.parse_override(f"{key}={value}")
        return value
    except HydraException:
        pass
    try:
        return _in_grammar(OmegaConf.to_container(OmegaConf.create(value)))
    except Exception as error:  # whatever a reader of YAML raises
        raise UsageError(f"{key}: got {value!r}, want such as [a,b] or {{a: b}}") from error


def _in_grammar(value: object) -> str:
    """Writes a value so that hydra's grammar reads it back."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_in_grammar(own)}" for key, own in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_in_grammar, value)) + "]"
    return _quote(value) if isinstance(value, str) else json.dumps(value)


def _check_key(key: str, known: dict[str, Any]) -> None:
    """Walks down to a dotted key; keys that hydra itself reads (`_target_`) are not for words."""
    parents, node = [], known
    for name in key.split("."):
        if parents and node == {}:
            return  # a mapping that begins empty takes any name
        allowed = sorted(k for k in node if not k.startswith("_")) if isinstance(node, dict) else []
        if name not in allowed:
            where = f" in {'.'.join(parents)}" if parents else ""
            raise UsageError(
                f"unknown override {key!r}{_suggest(name, allowed)}; allowed{where}: "
                f"{', '.join(allowed) or 'nothing'}"
            )
        parents.append(name)
        node = node[name]


def _is_open(key: str, known: Any) -> bool:
    """Whether a key is, or is in, a mapping that begins empty."""
    for name in key.split("."):
        if not isinstance(known, dict) or name not in known:
            return known == {}
        known = known[name]
    return known == {}


def _check_targets(config: Any, base: Any, name: str) -> None:
    """Keys that hydra itself reads, such as `_target_`, are the library's, wherever they stand."""
    if config == base:
        return
    if isinstance(config, ListConfig):
        for i in range(len(config)):
            if not OmegaConf.is_missing(config, i):
                _check_targets(config[i], None, f"{name}[{i}]")
        return
    if not isinstance(config, DictConfig):
        return
    for key in config:
        if OmegaConf.is_missing(config, key):
            continue
        known = isinstance(base, DictConfig) and key in base.keys()
        old = base[key] if known and not OmegaConf.is_missing(base, key) else None
        where = f"{name}.{key}" if name else str(key)
        if str(key).startswith("_") and config[key] != old:
            raise UsageError(f"unknown override {where!r}: {key} is not for words")
        _check_targets(config[key], old, where)


def _check_kinds(config: DictConfig, base: DictConfig, prefix: str) -> None:
    """A number stays a number and a mapping a mapping: hydra would hand anything on."""
    for key in config:
        name = f"{prefix}{key}"
        if OmegaConf.is_missing(config, key) or key not in base.keys():  # `in` misses ???
            continue
        new = config[key]
        old = "" if OmegaConf.is_missing(base, key) else base[key]
        if isinstance(old, DictConfig) and isinstance(new, DictConfig):
            _check_kinds(new, old, f"{name}.")
            continue
        if old == "home" and isinstance(new, ListConfig):
            continue  # a pose by its name, or by its joints
        for kind, types, want in _KINDS:
            if isinstance(old, kind):
                if not isinstance(new, types) or (isinstance(new, bool) and kind is not bool):
                    raise UsageError(f"{name}: got {new!r}, want {want}")
                break
        if name.endswith("seed") and isinstance(new, int) and not 0 <= new < 2**32:
            raise UsageError(f"{name}: got {new}, want 0 to {2**32 - 1}")


_KINDS: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (DictConfig, (DictConfig,), "keys of its own"),
    (ListConfig, (ListConfig,), "a list such as [a,b]"),
    (bool, (bool,), "true or false"),
    (int, (int,), "a whole number"),
    (float, (int, float), "a number"),
    (str, (str, int), "a word"),
)


def _suggest(word: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, allowed, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _quote(value: str) -> str:
    """A text that hydra's grammar gives back as it is: backslashes count before quotes alone."""
    text = os.path.expanduser(value)
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def _one_line(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())
