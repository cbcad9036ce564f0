"""`robot-wm replay FILE`: runs the governor again over a flight record, and compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from hardware.flight import replay
from robot_wm.cli.console import finish, say
from robot_wm.types import RunError


class ReplayError(RunError):
    """The governor now says something else than it did."""


def run(config: DictConfig) -> None:
    """Says what the record holds and whether it flies again.

    Raises:
        ReplayError: a command differs.
    """
    path = Path(str(config.file))
    if not path.is_file():
        raise FileNotFoundError(f"file: no file {path}")
    found = replay(path)
    say(f"{found.num_ticks} ticks, {found.num_commands} commands" + ", cut off" * found.cut)
    for fault in found.faults:
        say(f"  fault: {ascii(fault)[:200]}")
    finish(
        {
            "ticks": found.num_ticks,
            "commands": found.num_commands,
            "mismatches": found.num_mismatches,
            "largest_rad": found.largest_rad if np.isfinite(found.largest_rad) else None,
            "faults": list(found.faults),
            "cut": found.cut,
        }
    )
    if found.num_mismatches:
        raise ReplayError(
            f"{found.num_mismatches} commands differ, by {found.largest_rad:.3g} rad at most: "
            f"another machine's arithmetic, another governor, or a record that was changed"
        )
