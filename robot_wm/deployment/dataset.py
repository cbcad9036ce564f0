"""Records a deployment as a LeRobot dataset, so that models can be trained on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robot_wm.data import DatasetWriter
from robot_wm.runtime import Step
from robot_wm.types import ActionSpec, Observation, UserError


class DeploymentDataset:
    """Writes a run as one episode of a dataset (`robot_wm.runtime.Recorder`); enter it first.

    A run that was cut short is kept as far as it came, if it has at least two frames.

    Args:
        root: Directory to make; it may exist if it is empty.
        dt: Time that an action stands for, s.
        robot_type: Type of the robot, as the dataset names it.
        cameras: Height and width of each camera's pictures, pixels, by camera.
        state_names: Names of the numbers in the proprioception.
        actions: Spec of the actions that are executed.
        task: Description of the task in the dataset.

    Raises:
        FileExistsError: `root` is not empty.
        UserError: the format cannot hold a setting, such as the control rate.
    """

    def __init__(
        self,
        root: Path,
        *,
        dt: float,
        robot_type: str,
        cameras: dict[str, tuple[int, int]],
        state_names: tuple[str, ...],
        actions: ActionSpec,
        task: str,
    ) -> None:
        fps = round(1 / dt)
        if abs(fps * dt - 1) > 1e-3:
            raise UserError(
                f"record: steps of {dt:g} s; a LeRobot dataset needs a whole number of frames a "
                f"second"
            )
        self._writer = DatasetWriter(
            root,
            fps=fps,
            robot_type=robot_type,
            cameras=cameras,
            state_names=state_names,
            action_names=actions.names,
        )
        self._actions, self._task, self._num_frames = actions, task, 0

    def __enter__(self) -> DeploymentDataset:
        self._writer.__enter__()
        return self

    def record(self, step: Step) -> None:
        """See `Recorder.record`."""
        self._add(step.observation, step.applied)

    def finish(self, last: Observation) -> None:
        """See `Recorder.finish`."""
        self._add(last, np.zeros(self._actions.size))  # nothing is done after it

    def _add(self, observation: Observation, applied: np.ndarray) -> None:
        self._writer.add(observation.images, observation.proprio, applied)
        self._num_frames += 1

    def __exit__(self, *what: object) -> None:
        if self._num_frames > 1:  # an action, and what came of it
            self._writer.end_episode(self._task)
        self._writer.__exit__(*what)  # type: ignore[arg-type]
