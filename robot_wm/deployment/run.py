"""What a deployment is set to."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from robot_wm.deployment.settings import PlanningSettings, RobotSettings
from robot_wm.monitors import MonitorSettings


class RunSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run on an arm.

    Attributes:
        checkpoint: a directory, or the name of one that ships.
        robot: what is driven.
        planning: how the checkpoint plans.
        monitors: when what happens is no longer normal.
        allow_novel: drives on pictures unlike the training ones, too.
        mode: a dry run does everything but write to the robot.
        num_steps: actions on one goal picture at most.
        device: of the model; `"auto"`, `"cpu"`, `"cuda"`, ...
        park: once done, goes to the robot's rest pose and drops torque.
        record: a directory for the run as a LeRobot dataset; None: it is not kept.
        task: what that dataset calls the episode.
        view: `"rerun"` opens its viewer, a file that ends in .rrd records for it; None: neither.
    """

    checkpoint: str
    robot: RobotSettings
    planning: PlanningSettings
    monitors: MonitorSettings = MonitorSettings()
    allow_novel: bool = False
    mode: Literal["run", "dry-run"] = "dry-run"
    num_steps: Annotated[int, Meta(ge=1)] = 20
    device: str = "auto"
    park: bool = False
    record: str | None = None
    task: str = "reach"
    view: str | None = None

    @property
    def moves(self) -> bool:
        """Whether the arm is written to."""
        return self.mode == "run"
