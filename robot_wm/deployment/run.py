"""Settings of a deployment, and what is checked before anything starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from robot_wm.deployment.pictures import goal_files, read_picture
from robot_wm.deployment.planning import PlanningSettings
from robot_wm.deployment.robots import build_robot
from robot_wm.deployment.settings import RobotSettings, SimulatedRobot
from robot_wm.monitors import MonitorSettings
from robot_wm.types import Count, UserError


class DeploySettings(PlanningSettings, frozen=True, kw_only=True):
    """A run on an arm.

    Attributes:
        checkpoint: A directory, or the name of a checkpoint that ships.
        goal: File of the goal picture; for several cameras one file each (`goal.CAMERA=FILE`).
        then: Further goals, one after the other.
        mode: `dry-run` does everything but write to the robot; `run` moves the arm.
        robot: The robot to drive.
        monitors: Thresholds at which a deviation from the reference statistics stops the arm.
        confirm: Asks the operator before the arm may move.
        num_steps: Largest number of actions for one goal.
        device: Device of the model: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        park: At the end, moves slowly to the robot's park pose and switches torque off.
        out: Directory for the flight record and the result.
        record: Directory for the run as a LeRobot dataset, to train on; null: it is not recorded.
        task: Description of the task in that dataset.
        view: `rerun` opens its viewer, a file that ends in .rrd is recorded for it; null: neither.
    """

    checkpoint: str
    goal: str | dict[str, str]
    then: tuple[str | dict[str, str], ...] = ()
    mode: Literal["dry-run", "run"] = "dry-run"
    robot: RobotSettings = SimulatedRobot()
    monitors: MonitorSettings = MonitorSettings()
    confirm: bool = True
    num_steps: Count = 20
    device: str = "auto"
    park: bool = False
    out: str = "outputs/deploy"
    record: str | None = None
    task: str = "reach"
    view: str | None = None

    @property
    def moves(self) -> bool:
        """Whether the arm is written to."""
        return self.mode == "run"

    @property
    def goals(self) -> list[str | dict[str, str]]:
        """All goals, in their order."""
        return [self.goal, *self.then]


def check_deployment(settings: DeploySettings) -> None:
    """Checks what can be checked before a process is started.

    Args:
        settings: Settings of the deployment.

    Raises:
        UserError: settings contradict each other, or a goal is not a picture.
        FileNotFoundError: there is no such goal picture.
    """
    if settings.park and build_robot(settings.robot).park is None:
        raise UserError("park: robot.park_pose is not given: the joints where it may go limp")
    if settings.view is not None:
        _check_view(settings.view)
    if settings.record is not None and not settings.moves:
        raise UserError(
            "record: a dry run moves nothing, and would teach that nothing moves; want mode=run"
        )
    for goal in settings.goals:
        for path in goal_files(goal).values():
            read_picture(path)


def _check_view(view: str) -> None:
    """Raises UserError unless the run can be shown in this way."""
    if view != "rerun" and not view.endswith(".rrd"):
        raise UserError(f"view: got {view!r}, want rerun or a file that ends in .rrd")
    if view != "rerun" and Path(view).exists():
        raise UserError(f"view: {view} exists: name a new file")
    if importlib.util.find_spec("rerun") is None:
        raise UserError("view: Rerun is not installed; run pip install 'robot-wm[rerun]'")
