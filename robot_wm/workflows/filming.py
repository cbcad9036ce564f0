"""Records what the report shows of an episode: energies, times, pictures, and a landscape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robot_wm.controller import GoalSequence
from robot_wm.deployment.simulation import Simulation
from robot_wm.evaluation import EpisodeResult, EpisodeTrace
from robot_wm.models import TrainableModel, device_of
from robot_wm.objectives import Objective
from robot_wm.report import EpisodeVideo, Imagined, Landscape
from robot_wm.runtime import Recorder, Step
from robot_wm.types import Goal, ImageArray, Observation, Outcome

_NUM_IMAGINED = 6  # moments of an episode, at most, at which what is imagined is kept


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


@dataclass(frozen=True, eq=False)
class _Planned:
    """What a plan was imagined to end in."""

    end: Tensor
    horizon: int


class Film:
    """Records an episode's pictures, what was imagined on the way, and a landscape at its start.

    Args:
        model: The model that imagines.
        simulation: The arm and the task.
        make_objective: Makes the objective from the latent of the last goal, for the landscape;
            None: no landscape is drawn.
        goals: The goals, one after the other.
        title: Title for people.
    """

    def __init__(
        self,
        model: TrainableModel,
        simulation: Simulation,
        make_objective: Callable[[Tensor], Objective] | None,
        goals: Sequence[Goal],
        title: str,
    ) -> None:
        self._model, self._camera = model, model.info.cameras[0]
        self._simulation = simulation
        self._make_objective = make_objective
        self._goals = list(goals)
        self._title = title
        self._frames: list[ImageArray] = []
        self._aims: list[int] = []  # the goal that is pursued at each frame
        self._latents: list[Tensor] = []
        self._plans: dict[int, _Planned] = {}  # by the step that each was made at
        self._every = max(1, math.ceil(simulation.num_steps / _NUM_IMAGINED))
        self.landscape: Landscape | None = None

    def record(self, step: Step) -> None:
        """Keeps a step; draws the landscape at the first one."""
        now, decision = len(self._frames), step.decision
        if not now and self._make_objective is not None:
            self.landscape = self._draw(step, self._make_objective)
        due = now >= max(self._plans, default=-self._every) + self._every
        if due and decision.kind == "plan" and decision.plan and decision.predict:
            end, _ = decision.predict(decision.plan.actions)
            self._plans[now] = _Planned(_kept(end), len(decision.plan.actions))
        if decision.latent is not None:
            self._latents.append(_kept(decision.latent))
        self._aims.append(decision.goal)
        self._frames.append(step.observation.images[self._camera])

    def finish(self, last: Observation) -> None:
        """Keeps the last observation."""
        self._aims.append(self._aims[-1] if self._aims else 0)
        self._frames.append(last.images[self._camera])

    def _draw(
        self, step: Step, make_objective: Callable[[Tensor], Objective], side: int = 25
    ) -> Landscape | None:
        """Computes the energy after one action (dx, dy) that is at rest in the other dimensions."""
        goal_pose = getattr(self._simulation.task, "goal_pose", None)
        spec = self._simulation.env.action_spec
        if goal_pose is None or spec.size < 2:
            return None
        grid = np.linspace(spec.low[:2], spec.high[:2], side)  # [side, 2]
        actions = np.zeros((side, side, spec.size), np.float32)
        actions[:, :, 0], actions[:, :, 1] = grid[None, :, 0], grid[:, None, 1]
        objective = make_objective(self._model.embed(self._goals[-1].images))
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
        goals = [goal.images[self._camera] for goal in self._goals]
        return EpisodeVideo(
            title=self._title,
            frames=np.stack(self._frames),
            goal=goals[0] if len(goals) == 1 else np.stack([goals[i] for i in self._aims]),
            measured=np.array(result.curve[: len(self._frames)]),
            fps=1 / self._simulation.env.control_dt,
        )


def imagined_of(films: Sequence[Film]) -> list[Imagined]:
    """Finds pictures of what was imagined: among all that was seen, those of the nearest latents.

    Args:
        films: Films of episodes that one model drove.

    Returns:
        What was imagined in each film; nothing of those without a plan.
    """
    pairs = [pair for film in films for pair in zip(film._latents, film._frames, strict=False)]
    if not pairs:
        return []
    bank = torch.stack([latent for latent, _ in pairs]).float()
    made = []
    for film in films:
        if not film._plans:
            continue
        last = len(film._frames) - 1
        ends = torch.stack([plan.end for plan in film._plans.values()]).float()
        nearest = torch.cdist(ends, bank).argmin(1).tolist()
        after = [min(step + plan.horizon, last) for step, plan in film._plans.items()]
        made.append(
            Imagined(
                title=film._title,
                steps=list(film._plans),
                horizon=max(plan.horizon for plan in film._plans.values()),
                seen=np.stack([film._frames[step] for step in film._plans]),
                imagined=np.stack([pairs[i][1] for i in nearest]),
                happened=np.stack([film._frames[step] for step in after]),
            )
        )
    return made


def _kept(latent: Tensor) -> Tensor:
    """Returns a latent as it is kept for a report: a large model's would fill the memory."""
    return latent.flatten().half().cpu()
