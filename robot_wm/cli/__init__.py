"""The commands: `robot-wm COMMAND key=value ...`. The only package that imports hydra."""

from robot_wm.cli.main import main

__all__ = ["main"]
