"""`robot-wm convert`: turns a released V-JEPA 2-AC file into a checkpoint directory."""

from __future__ import annotations

from robot_wm.cli.console import finish
from robot_wm.workflows.convert import ConvertSettings, convert

SETTINGS = ConvertSettings
EXAMPLES = (
    "robot-wm convert checkpoint=vjepa2-ac-vitg.pt out=checkpoint",
    "robot-wm convert checkpoint=vjepa2-ac-vitg.pt out=checkpoint camera=side image_width=240",
)


def run(settings: ConvertSettings) -> None:
    """Converts the file, and prints what the checkpoint holds."""
    finish(convert(settings))
