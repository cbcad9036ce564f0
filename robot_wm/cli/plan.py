"""`robot-wm plan`: runs to the pose in one or several goal pictures, and writes a video."""

from __future__ import annotations

from dataclasses import asdict

from robot_wm.cli.console import finish, say, say_outcomes
from robot_wm.evaluation import plan_seconds
from robot_wm.workflows.plan import PlanSettings, plan

SETTINGS = PlanSettings
EXAMPLES = (
    "robot-wm plan checkpoint=so100_tabletop goal=docs/images/goal.png",
    "robot-wm plan checkpoint=so100_tabletop goal=first.png then=[second.png,third.png]",
)


def run(settings: PlanSettings) -> None:
    """Runs, and prints the energies and the outcomes."""
    result = plan(settings)
    first, last = result.energies[0], result.outcomes[-1].energy
    say(f"energy {first:.3f} at the start, {last:.3f} at the end; video: {result.video}")
    say_outcomes(result.outcomes, 1 + len(settings.then))
    finish(
        {
            "energy_start": first,
            "energy_end": last,
            "energies": result.energies,
            "goals": [decision.goal for decision in result.decisions],
            "decisions": [decision.kind for decision in result.decisions],
            "outcome": asdict(result.outcomes[-1]),
            "outcomes": [asdict(outcome) for outcome in result.outcomes],
            "plan_s_median": plan_seconds(result.plan_s)["median"],
            "video": str(result.video),
        }
    )
