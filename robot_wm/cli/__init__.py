"""The commands. `robot-wm COMMAND key=value ...`; the only room that knows hydra."""

from robot_wm.cli.main import main

__all__ = ["main"]
