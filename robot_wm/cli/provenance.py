"""What made a result: command, settings, code and versions, kept beside it as `run.yaml`."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from robot_wm import __version__
from robot_wm.cli.console import git_sha
from robot_wm.files import replacing

FILE = "run.yaml"
_PACKAGES = ("torch", "numpy", "mujoco", "dm-control", "transformers", "timm", "lerobot")
_OF_THIS_MACHINE = ("out", "cache")


def describe_run(command: str, config: DictConfig) -> str:
    """Describes a run as YAML.

    A result travels: where things lay on this machine is left out, of a path its name stays.

    Args:
        command: of the command line, such as `train`.
        config: the settings that it ran with, all of them.
    """
    settings: Any = OmegaConf.to_container(config, resolve=True)
    about = {
        "command": command,
        "settings": _without_places(
            {key: value for key, value in settings.items() if key not in _OF_THIS_MACHINE}
        ),
        "git_sha": git_sha(),
        "versions": {
            "robot_wm": __version__,
            "python": platform.python_version(),
            **{name: version for name in _PACKAGES if (version := _version(name))},
        },
        "date": time.strftime("%Y-%m-%d"),
    }
    return OmegaConf.to_yaml(OmegaConf.create(about))


def write_run(directory: Path, command: str, config: DictConfig, *, name: str = FILE) -> None:
    """Writes `describe_run` into a directory."""
    with replacing(directory / name) as scratch:
        scratch.write_text(describe_run(command, config), encoding="utf-8")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_without_places(own) for own in value]
    if isinstance(value, str) and os.path.isabs(value) and not value.startswith("/dev/"):
        return Path(value).name
    return value
