"""`robot-wm replay FILE`: runs the governor again over a flight record, and compares."""

from __future__ import annotations

import numpy as np

from robot_wm.cli.console import finish, say
from robot_wm.deployment.replay import ReplaySettings, replay_record
from robot_wm.types import RunError

SETTINGS = ReplaySettings
EXAMPLES = (
    "robot-wm replay outputs/deploy/flight-20260101-120000-1.jsonl",
    "robot-wm replay file=record.jsonl",
)


class ReplayError(RunError):
    """The governor now computes other commands than those in the record."""


def run(settings: ReplaySettings) -> None:
    """Replays a record, and prints what it holds and whether the commands agree.

    Args:
        settings: The record.

    Raises:
        ReplayError: a command differs.
    """
    result = replay_record(settings)
    say(f"{result.num_ticks} ticks, {result.num_commands} commands" + ", cut off" * result.cut)
    for fault in result.faults:
        say(f"  fault: {ascii(fault)[:200]}")
    finish(
        {
            "ticks": result.num_ticks,
            "commands": result.num_commands,
            "compared": result.num_compared,
            "mismatches": result.num_mismatches,
            "largest_rad": result.largest_rad if np.isfinite(result.largest_rad) else None,
            "faults": list(result.faults),
            "cut": result.cut,
        }
    )
    if result.num_mismatches:
        raise ReplayError(
            f"{result.num_mismatches} commands differ, by {result.largest_rad:.3g} rad at most: "
            f"another machine's arithmetic, another governor, or a record that was changed"
        )
