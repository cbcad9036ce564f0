"""`robot-wm collect`: runs a scripted demonstrator in simulation and writes a LeRobot dataset."""

from __future__ import annotations

import numpy as np

from robot_wm.cli.console import finish, say
from robot_wm.workflows.collect import CollectSettings, collect

SETTINGS = CollectSettings
EXAMPLES = (
    "robot-wm collect out=data num_episodes=50",
    "robot-wm collect out=data env=so100_push 'also=[so100_reach,so100_pick_place]'",
)


def run(settings: CollectSettings) -> None:
    """Collects demonstrations, then prints how well the demonstrator did, task by task."""
    ends = collect(settings)
    from robot_wm.report.units import show  # Matplotlib takes a second

    say(f"{len(ends)} episodes in {settings.out}")
    names = [f"{settings.env.arm}_{settings.env.name}", *settings.also]
    rows = {}
    for i, task in enumerate(names):
        of_task = ends[i :: len(names)]  # they took turns
        if not of_task:
            continue
        name, measure = of_task[0].first
        success = float(np.mean([end.success for end in of_task]))
        median = float(np.median([end.first[1].value for end in of_task]))
        say(
            f"{task}: the demonstrator succeeds in {success:.1%} of {len(of_task)}, "
            f"median {name} {show(median, measure.unit)}"
        )
        rows[task] = {
            "episodes": len(of_task),
            "demonstrator_success": success,
            f"demonstrator_{name}_{measure.unit}_median": median,
        }
    first = next(iter(rows.values()))
    finish({**first, "episodes": len(ends)} if len(rows) == 1 else {"tasks": rows})
