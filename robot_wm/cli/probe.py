"""`robot-wm probe`: tests what tokens or latents encode, and what their distances mean."""

from __future__ import annotations

from dataclasses import asdict

from robot_wm.cli.console import finish, say
from robot_wm.workflows.probe import ProbeSettings, probe_encoder

SETTINGS = ProbeSettings
EXAMPLES = (
    "robot-wm probe data=data",
    "robot-wm probe data=data checkpoint=so100_tabletop baselines=false",
)


def run(settings: ProbeSettings) -> None:
    """Probes, prints the table, and ends with the figures."""
    result = probe_encoder(settings)
    say(result.table())
    baselines = {name: asdict(figures) for name, figures in result.baselines.items()}
    finish({**asdict(result.probe), "fingerprint": result.fingerprint, "baselines": baselines})
