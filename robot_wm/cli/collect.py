"""`robot-wm collect`: runs a scripted demonstrator in simulation and writes a LeRobot dataset."""

from __future__ import annotations

import numpy as np

from robot_wm.cli.console import finish, say
from robot_wm.workflows.collect import CollectSettings, collect

SETTINGS = CollectSettings
EXAMPLES = (
    "robot-wm collect out=data num_episodes=50",
    "robot-wm collect out=data env.simulator.wrist_camera=true seed=1",
)


def run(settings: CollectSettings) -> None:
    """Collects demonstrations, then prints how well the demonstrator did."""
    ends = collect(settings)
    from robot_wm.report.units import show  # Matplotlib takes a second

    name, measure = ends[0].first
    values = [end.first[1].value for end in ends]
    success, median = float(np.mean([end.success for end in ends])), float(np.median(values))
    say(
        f"{len(ends)} episodes in {settings.out}; the demonstrator succeeds in {success:.1%}, "
        f"median {name} {show(median, measure.unit)}"
    )
    finish(
        {
            "episodes": len(ends),
            "demonstrator_success": success,
            f"demonstrator_{name}_{measure.unit}_median": median,
        }
    )
