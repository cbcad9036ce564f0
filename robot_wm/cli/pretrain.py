"""`robot-wm pretrain`: trains an encoder on pictures, and actions if there are any; no labels."""

from __future__ import annotations

from robot_wm.cli.console import finish
from robot_wm.workflows.pretrain import PretrainSettings, pretrain

SETTINGS = PretrainSettings
EXAMPLES = (
    "robot-wm pretrain data=data out=encoder.safetensors",
    "robot-wm pretrain data=rendered out=encoder.safetensors train.time_limit_s=600",
)


def run(settings: PretrainSettings) -> None:
    """Pretrains, and prints the last metrics."""
    result = pretrain(settings)
    last = result.rows[-1]
    finish({"encoder": str(result.encoder), "fingerprint": result.fingerprint, **last})
