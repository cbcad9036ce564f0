"""Shows a run in Rerun: camera and goal pictures side by side, and the energy over time."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rerun as rr
import rerun.blueprint as rrb

from robot_wm.controller import GoalSequence
from robot_wm.runtime import Step
from robot_wm.types import ImageArray, Observation, UserError


class RerunView:
    """Shows a run while it happens (`robot_wm.runtime.Recorder`).

    Args:
        where: The word `rerun` to open the viewer, or a path that ends in `.rrd` for the recording.
        controller: The controller whose run is shown.
        camera: Name of the camera that is shown beside the goal.
        goals: Goal pictures, in the order of the goals.
        action_names: Names of an action's A numbers.

    Raises:
        UserError: the viewer does not start.
    """

    def __init__(
        self,
        where: str,
        controller: GoalSequence,
        camera: str,
        goals: Sequence[ImageArray],
        action_names: Sequence[str],
    ) -> None:
        self._controller, self._action_names = controller, tuple(action_names)
        self._goals, self._goal, self._num_steps = list(goals), -1, 0
        rr.init("robot_wm")
        if where == "rerun":
            # The viewer is installed beside this Python, whose folder may not be in PATH.
            folder = str(Path(sys.executable).parent)
            os.environ["PATH"] = os.pathsep.join((folder, os.environ.get("PATH", "")))
            try:
                rr.spawn()
            except RuntimeError as error:
                raise UserError(f"view: {error}") from error
        else:
            Path(where).parent.mkdir(parents=True, exist_ok=True)
            rr.save(where)
        rr.send_blueprint(_layout(camera))

    def record(self, step: Step) -> None:
        """See `Recorder.record`."""
        decision = step.decision
        self._show(step.observation)
        scalars: dict[str, Any] = {"energy": decision.energy, "plan_s": step.plan_s}
        scalars["prediction_p"] = step.numbers.get("p_value")
        for name, value in zip(self._action_names, step.applied, strict=True):
            scalars[f"action/{name}"] = float(value)
        for name, value in scalars.items():
            if value is not None:
                rr.log(name, rr.Scalars(value))
        rr.log("decision", rr.TextLog(decision.kind))
        if decision.goal != self._goal:
            self._goal = decision.goal
            rr.log("goal", rr.Image(self._goals[decision.goal]))

    def finish(self, last: Observation) -> None:
        """See `Recorder.finish`."""
        self._show(last)
        rr.log("energy", rr.Scalars(self._controller.outcome(last).energy))

    def _show(self, observation: Observation) -> None:
        rr.set_time("step", sequence=self._num_steps)
        self._num_steps += 1
        for name, image in observation.images.items():
            rr.log(f"camera/{name}", rr.Image(image))


def _layout(camera: str) -> rrb.Blueprint:
    """Returns the layout: pictures above; below, energy, p-value, action and planning time."""
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Horizontal(
                rrb.Spatial2DView(origin=f"camera/{camera}", name=camera),
                rrb.Spatial2DView(origin="goal", name="goal"),
                rrb.TextLogView(origin="decision", name="decisions"),
            ),
            rrb.Horizontal(
                rrb.TimeSeriesView(origin="energy", name="energy"),
                rrb.TimeSeriesView(origin="prediction_p", name="p of the prediction"),
                rrb.TimeSeriesView(origin="action", name="action"),
                rrb.TimeSeriesView(origin="plan_s", name="seconds to plan"),
            ),
            row_shares=[3, 2],
        ),
        collapse_panels=True,
    )
