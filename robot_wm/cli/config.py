"""From `key=value` words to a checked configuration: hydra composes, a typo is told at once."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# These take a path or a hub id, which is quoted so that hydra's grammar leaves it alone.
_TEXT_KEYS = ("out", "checkpoint", "goal", "cache", "source", "weights")
_ROOT = Path(__file__).resolve().parents[1]


class UsageError(ValueError):
    """The command line asks for something that is not there."""


def config_dir() -> Path:
    """The folder of YAML files: inside the wheel, or beside the library in a checkout."""
    for candidate in (_ROOT / "configs", _ROOT.parent / "configs"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise FileNotFoundError(f"configs: none at {_ROOT / 'configs'} or {_ROOT.parent / 'configs'}")


def groups() -> dict[str, list[str]]:
    """Config groups and their choices: `{"planner": ["cem", ...], ...}`."""
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in sorted(config_dir().iterdir())
        if folder.is_dir()
    }


def load_config(command: str, words: Sequence[str]) -> DictConfig:
    """Composes a command's configuration.

    Args:
        command: names its YAML file.
        words: `key=value` overrides.

    Raises:
        UsageError: an unknown key or choice, a value of the wrong kind, or a key that is missing.
    """
    base = _compose(command, [])
    known: Any = OmegaConf.to_container(base)
    overrides = [_override(word, known) for word in words]
    everything = _compose(command, overrides)
    # An experiment speaks for every command; this one keeps what it knows.
    config = OmegaConf.masked_copy(everything, [str(key) for key in everything if key in known])
    OmegaConf.set_struct(config, True)
    _check_kinds(config, base, "")
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        names = ", ".join(f"{'data' if key == 'data.source' else key}=..." for key in missing)
        raise UsageError(f"{command} needs {names}")
    return config


def _compose(command: str, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose(command, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_one_line(error)) from error
    finally:
        GlobalHydra.instance().clear()


def _override(word: str, known: dict[str, Any]) -> str:
    """One command line word as hydra takes it."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise UsageError(f"got {word!r}, want key=value")
    choices = groups()
    top = key.split(".")[0]
    if top not in known and top != "experiment":
        allowed = sorted({*known, "experiment"})
        raise UsageError(
            f"unknown override {word!r}{_suggest(top, allowed)}; allowed: {', '.join(allowed)}"
        )
    if key == "data" and value not in choices["data"]:
        return f"data.source={_quote(value)}"
    if key in choices and value not in choices[key]:
        raise UsageError(f"{key}: got {value!r}, want one of {', '.join(choices[key])}")
    if key.split(".")[-1] in _TEXT_KEYS and value != "null":
        return f"{key}={_quote(value)}"
    if "." in key and top not in choices:
        _check_nested(word, key, known)
    return word


def _check_nested(word: str, key: str, known: dict[str, Any]) -> None:
    *parents, name = key.split(".")
    node: Any = known
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    if not isinstance(node, dict) or name not in node:
        allowed = sorted(node) if isinstance(node, dict) else []
        raise UsageError(
            f"unknown override {word!r}{_suggest(name, allowed)}; allowed in "
            f"{'.'.join(parents)}: {', '.join(allowed) or 'nothing'}"
        )


def _check_kinds(config: DictConfig, base: DictConfig, prefix: str) -> None:
    """A number stays a number: hydra would hand the word on."""
    for key in config:
        name = f"{prefix}{key}"
        if key not in base or OmegaConf.is_missing(config, key) or OmegaConf.is_missing(base, key):
            continue
        new, old = config[key], base[key]
        if isinstance(new, DictConfig) and isinstance(old, DictConfig):
            _check_kinds(new, old, f"{name}.")
        elif isinstance(old, ListConfig) and not isinstance(new, ListConfig):
            raise UsageError(f"{name}: got {new!r}, want a list such as [{','.join(map(str, old))}]")
        elif isinstance(old, bool) and not isinstance(new, bool):
            raise UsageError(f"{name}: got {new!r}, want true or false")
        elif isinstance(old, int) and not isinstance(old, bool) and type(new) is not int:
            raise UsageError(f"{name}: got {new!r}, want a whole number")
        elif isinstance(old, float) and type(new) not in (int, float):
            raise UsageError(f"{name}: got {new!r}, want a number")


def _suggest(word: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, allowed, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _quote(value: str) -> str:
    escaped = os.path.expanduser(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _one_line(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())
