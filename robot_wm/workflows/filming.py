"""Records what the report shows of an episode: energies, times, pictures, and a landscape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from robot_wm.controller import GoalSequence
from robot_wm.deployment.simulation import Simulation
from robot_wm.evaluation import EpisodeResult, EpisodeTrace
from robot_wm.models import TrainableModel, device_of
from robot_wm.objectives import Objective
from robot_wm.report import EpisodeVideo, Landscape
from robot_wm.runtime import Recorder, Step
from robot_wm.types import Goal, ImageArray, Observation, Outcome


class StepRecorder:
    """Records the energy of every decision, the time of every plan, and the outcome.

    Args:
        controller: Tells the outcome.
        film: Also records the episode; None: the episode is not filmed.
    """

    def __init__(self, controller: GoalSequence, film: Recorder | None = None) -> None:
        self._controller, self._film = controller, film
        self.energies: list[float] = []
        self.plan_s: list[float] = []
        self.outcome: Outcome | None = None  # stays None where no plan was found

    def record(self, step: Step) -> None:
        """Keeps a step."""
        decision = step.decision
        assert decision.energy is not None
        self.energies.append(decision.energy)
        if decision.planned:
            self.plan_s.append(step.plan_s)
        if self._film:
            self._film.record(step)

    def finish(self, last: Observation) -> None:
        """Keeps the outcome, given the last observation."""
        self.outcome = self._controller.outcome(last)
        if self._film:
            self._film.finish(last)

    @property
    def trace(self) -> EpisodeTrace:
        """What was recorded."""
        return EpisodeTrace(tuple(self.energies), tuple(self.plan_s), self.outcome)


class Film:
    """Records an episode's pictures, and the energy landscape around its start."""

    def __init__(
        self,
        model: TrainableModel,
        simulation: Simulation,
        make_objective: Callable[[Tensor], Objective],
        goal: Goal,
        title: str,
    ) -> None:
        self._model, self._camera = model, model.info.cameras[0]
        self._simulation = simulation
        self._make_objective = make_objective
        self._goal = goal
        self._title = title
        self._frames: list[ImageArray] = []
        self.landscape: Landscape | None = None

    def record(self, step: Step) -> None:
        """Keeps a step; draws the landscape at the first one."""
        if not self._frames:
            self.landscape = self._draw(step)
        self._frames.append(step.observation.images[self._camera])

    def finish(self, last: Observation) -> None:
        """Keeps the last observation."""
        self._frames.append(last.images[self._camera])

    def _draw(self, step: Step, side: int = 25) -> Landscape | None:
        """Computes the energy after one action (dx, dy) that is at rest in the other dimensions."""
        goal_pose = getattr(self._simulation.task, "goal_pose", None)
        spec = self._simulation.env.action_spec
        if goal_pose is None or spec.size < 2:
            return None
        grid = np.linspace(spec.low[:2], spec.high[:2], side)  # [side, 2]
        actions = np.zeros((side, side, spec.size), np.float32)
        actions[:, :, 0], actions[:, :, 1] = grid[None, :, 0], grid[:, None, 1]
        goal = self._model.embed(self._goal.images)
        objective = self._make_objective(goal)
        candidates = torch.from_numpy(actions.reshape(-1, 1, spec.size)).to(device_of(self._model))
        with torch.inference_mode():
            state = self._model.observe(self._model.initial(), step.observation, None)
            energy = objective(self._model.rollout(state, candidates), candidates)
        toward = goal_pose[:2] - step.observation.proprio[:2]
        return Landscape(
            title=self._title,
            dx_m=grid[:, 0],
            dy_m=grid[:, 1],
            energy=energy.reshape(side, side).cpu().numpy(),
            toward_goal_m=(float(toward[0]), float(toward[1])),
            planned_m=(float(step.decision.action[0]), float(step.decision.action[1])),
        )

    @property
    def ran(self) -> bool:
        """Whether there is anything to show."""
        return bool(self._frames)

    def video(self, result: EpisodeResult) -> EpisodeVideo:
        """Makes the video, with the measure of each frame."""
        return EpisodeVideo(
            title=self._title,
            frames=np.stack(self._frames),
            goal=self._goal.images[self._camera],
            measured=np.array(result.curve[: len(self._frames)]),
            fps=1 / self._simulation.env.control_dt,
        )
