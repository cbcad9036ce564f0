"""Finds out where the arm's axes really point, and turns actions accordingly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from robot_wm.controller.protocol import SteerableController
from robot_wm.types import ActionSpec, Decision, FloatArray, Goal, NonNegative, Observation, checked

_NUM_AXES = 3  # x, y and z come first


class Calibrated:
    """Turns actions by what the arm's motion shows of its axes (SteerableController).

    A base that was mounted 15 degrees askew, or a camera frame taken for the base frame, moves the
    tool in another direction than it is told. The rotation that maps actions to measured motion is
    estimated after every action (Kabsch 1976, with a prior at no rotation); an arm that is blocked
    moves less, and tells nothing of its axes.

    Args:
        controller: The controller, whose actions are changes of the measured state; x, y and z are
            the first of either.
        action_spec: The legal actions.
        prior_m2: Weight of no rotation, m²: so many squared metres of motion count as much.
    """

    @checked
    def __init__(
        self,
        controller: SteerableController,
        action_spec: ActionSpec,
        *,
        prior_m2: NonNegative = 0.0005,
    ) -> None:
        self._controller, self._spec, self._prior_m2 = controller, action_spec, prior_m2
        self._begin()

    @property
    def rotation(self) -> FloatArray:
        """Rotation `[3, 3]` from actions to measured motion."""
        return self._rotation[:_NUM_AXES, :_NUM_AXES].copy()

    def _begin(self) -> None:
        self._products = self._prior_m2 * np.eye(_NUM_AXES)
        self._rotation = np.eye(self._spec.size)
        self._before: FloatArray | None = None

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """See `Controller.reset`."""
        self._begin()
        self._controller.reset(goal)

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """See `Controller.act`."""
        self.observe(obs, applied)
        return self.decide()

    def observe(self, obs: Observation, applied: FloatArray | None) -> float:
        """See `SteerableController.observe`."""
        place = obs.proprio[:_NUM_AXES]
        if applied is not None and self._before is not None:
            product = np.outer(place - self._before, applied[:_NUM_AXES])
            if np.isfinite(product).all():  # a reading that is not tells nothing of the axes
                self._products += product
            u, _, v = np.linalg.svd(self._products)
            mirror = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
            self._rotation[:_NUM_AXES, :_NUM_AXES] = u @ mirror @ v
        self._before = np.array(place)
        return self._controller.observe(obs, None if applied is None else self._rotation @ applied)

    def aim(self, goal: int) -> None:
        """See `SteerableController.aim`."""
        self._controller.aim(goal)

    def decide(self) -> Decision:
        """See `SteerableController.decide`."""
        return self._turned(self._controller.decide())

    def rest(self) -> Decision:
        """See `SteerableController.rest`."""
        return self._turned(self._controller.rest())

    def energy(self, obs: Observation) -> float:
        """See `SteerableController.energy`."""
        return self._controller.energy(obs)

    def _turned(self, decision: Decision) -> Decision:
        rotation, plan, predict = self._rotation.copy(), decision.plan, decision.predict
        return replace(
            decision,
            action=self._spec.clip(decision.action @ rotation),
            plan=plan and replace(plan, actions=self._spec.clip(plan.actions @ rotation)),
            predict=predict and (lambda actions: predict(actions @ rotation.T)),
        )
