"""Writes the text of `robot-wm COMMAND --help` from the settings types and their docstrings."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from robot_wm.cli.config import choices, compose_values
from robot_wm.cli.fields import Setting, settings_of

_WIDTH = 96


def command_help(
    name: str,
    summary: str,
    settings_type: type,
    examples: Sequence[str],
    words: Sequence[str] = (),
) -> str:
    """Writes the help of a command.

    Args:
        name: Name of the command.
        summary: What the command does, in one line.
        settings_type: Type of the command's settings.
        examples: Command lines.
        words: Choices whose keys are listed, such as `planner=cem`.

    Returns:
        The text.
    """
    groups = choices(settings_type)
    lines = [f"robot-wm {name}: {summary}", "", f"usage: robot-wm {name} [key=value ...]", ""]
    lines += ["examples:", *(f"  {example}" for example in examples), ""]
    lines += ["choices; --help beside one lists its keys:"]
    lines += [f"  {group}={{{','.join(names)}}}" for group, names in groups.items()]
    lines += ["", "keys and defaults:"]
    for setting in settings_of(settings_type, defaults=compose_values(settings_type, words)):
        lines += _entry(setting)
    return "\n".join(lines)


def _entry(setting: Setting) -> list[str]:
    """Writes a key with its default, its meaning, and the values that it may have."""
    group = setting.default is None and not setting.values  # a group of keys, which follow
    default = "" if group else _show(setting.default)
    head = f"  {setting.key}{f'={default}' if default else ''}"
    if setting.default == "???":
        head = f"  {setting.key}=... (must be given)"
    meaning = setting.meaning[:1].upper() + setting.meaning[1:]
    text = f"{meaning} [{setting.values}]" if setting.values else meaning
    return [head, *textwrap.wrap(text, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def _show(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))
