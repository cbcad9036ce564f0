"""Records how a result was made, in `run.yaml`: command, settings, code and versions."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from robot_wm.files import replacing
from robot_wm.types import plain_settings
from robot_wm.version import __version__

FILE = "run.yaml"
_PACKAGES = ("torch", "numpy", "mujoco", "dm-control", "transformers", "timm", "lerobot")
_OF_THIS_MACHINE = ("out", "cache")


def describe_run(command: str, settings: object) -> str:
    """Describes a run as YAML.

    Results are copied to other machines: settings that are places on this one are left out, and
    only the last part of an absolute path is kept.

    Args:
        command: Name of the command, such as `train`.
        settings: Settings of the run.

    Returns:
        The YAML text.
    """
    about = {
        "command": command,
        "settings": _without_places(
            {
                key: value
                for key, value in plain_settings(settings).items()
                if key not in _OF_THIS_MACHINE
            }
        ),
        "git_sha": git_sha(),
        "versions": {
            "robot_wm": __version__,
            "python": platform.python_version(),
            **{name: version for name in _PACKAGES if (version := _version(name))},
        },
        "date": time.strftime("%Y-%m-%d"),
    }
    return to_yaml(about)


def write_run(directory: Path, command: str, settings: object, *, name: str = FILE) -> None:
    """Writes `describe_run` into a directory."""
    with replacing(directory / name) as scratch:
        scratch.write_text(describe_run(command, settings), encoding="utf-8")


def to_yaml(values: Any) -> str:
    """Writes plain values as YAML, in their order."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def git_sha() -> str | None:
    """Returns the commit of this checkout, with `-dirty` if it was changed; None outside of one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def machine() -> str:
    """Describes the machine that a figure is measured on."""
    import torch  # here, as it takes a second and not every command needs it

    where = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        where += f", {torch.cuda.get_device_name()}"
    return f"{where}, torch {torch.__version__.partition('+')[0]}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_without_places(member) for member in value]
    if isinstance(value, str) and os.path.isabs(value) and not value.startswith("/dev/"):
        return Path(value).name
    return value


def in_words(settings: Mapping[str, Any]) -> str:
    """Writes settings in one line, without those that are null.

    Args:
        settings: Plain settings by name.

    Returns:
        The line.
    """
    words = []
    for key, value in settings.items():
        if key in ("name", "_target_"):
            words.append(str(value))
        elif isinstance(value, dict):
            words += [f"{key}: {inner}"] if (inner := in_words(value)) else []
        elif value is not None:
            words.append(f"{key} {value}")
    return ", ".join(words)
