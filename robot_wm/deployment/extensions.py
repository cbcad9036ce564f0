"""Loads the caller's extensions: modules that register parts, and folders of settings.

Both are named on the command line, or in the environment of a command, so that the processes that
it starts have them, too. No file that is loaded can name any.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robot_wm.types import UserError

IMPORT, CONFIG_DIR = "ROBOT_WM_IMPORT", "ROBOT_WM_CONFIG_DIR"


def take_options(words: Sequence[str]) -> list[str]:
    """Takes `--import MODULE[,MODULE]` and `--config-dir DIR` out of a command line.

    Args:
        words: Words of the command line.

    Returns:
        The other words.

    Raises:
        UserError: an option lacks its value, or there is no such folder.
    """
    others, remaining = [], list(words)
    while remaining:
        word = remaining.pop(0)
        name, equals, value = word.partition("=")
        if name not in ("--import", "--config-dir"):
            others.append(word)
            continue
        if not equals:
            if not remaining:
                raise UserError(f"{name}: want a value after it")
            value = remaining.pop(0)
        if name == "--import":
            os.environ[IMPORT] = ",".join(filter(None, (os.environ.get(IMPORT), value)))
        else:
            folder = Path(value).expanduser().resolve()
            if not folder.is_dir():
                raise UserError(f"--config-dir: no folder {value}")
            os.environ[CONFIG_DIR] = str(folder)
    return others


def import_extensions() -> None:
    """Imports the modules that the caller named, those of the working folder included.

    Raises:
        UserError: there is no such module, or it does not import.
    """
    _search_working_folder()
    for name in os.environ.get(IMPORT, "").split(","):
        if name.strip():
            find_attribute(name.strip())


def find_attribute(name: str) -> object:
    """Imports the module, or the attribute of a module, that a dotted name stands for.

    Args:
        name: Dotted name of a module, or of an attribute of one.

    Returns:
        The module or the attribute.

    Raises:
        UserError: there is no such thing, or importing it fails.
    """
    _search_working_folder()
    module, _, attribute = name.rpartition(".")
    try:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not module or not f"{name}.".startswith(f"{error.name}."):
                raise  # it is something that the module itself imports
            return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise UserError(f"{name}: {type(error).__name__}: {error}") from error


def check_parts(made: Any, target: str, parts: Sequence[str]) -> Any:
    """Checks that an object of the caller's code has some attributes.

    Args:
        made: The object.
        target: Name of the class or function that made it.
        parts: Names of the attributes.

    Returns:
        The object.

    Raises:
        UserError: it lacks one.
    """
    missing = [part for part in parts if not hasattr(made, part)]
    if missing:
        raise UserError(f"{target}: made a {type(made).__name__} without {', '.join(missing)}")
    return made


def _search_working_folder() -> None:
    """Makes modules of the working folder importable, after all that is installed."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def config_folder() -> Path | None:
    """Returns the caller's folder of settings, if there is one."""
    value = os.environ.get(CONFIG_DIR)
    return Path(value) if value else None
