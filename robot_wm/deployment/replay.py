"""Runs the governor again over a flight record, and compares."""

from __future__ import annotations

from pathlib import Path

from hardware.flight import Replay, replay
from robot_wm.types import Settings


class ReplaySettings(Settings, frozen=True, kw_only=True):
    """Which record is replayed.

    Attributes:
        file: A flight record of `deploy`.
    """

    file: str


def replay_record(settings: ReplaySettings) -> Replay:
    """Replays a flight record.

    Args:
        settings: The record.

    Returns:
        The commands that were compared, and how many differ.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is not a flight record.
    """
    path = Path(settings.file)
    if not path.is_file():
        raise FileNotFoundError(f"file: no file {path}")
    return replay(path)
