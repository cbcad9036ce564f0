"""Checks a run, and stops the arm where the model or a camera is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta
from torch import Tensor

from robot_wm.monitors.reference import ReferenceStatistics, prediction_error
from robot_wm.types import (
    Count,
    Decision,
    FloatArray,
    ImageArray,
    Observation,
    PlanningError,
    Positive,
    RunError,
    Verdict,
    check_fields,
)

_DARK, _FLAT = 12.0, 2.0  # of 255: mean of a black picture, standard deviation of an empty one
_STILL_RAD = 0.03  # a joint that moved further than this changes a working camera's picture


class MonitorError(RunError):
    """A check of a run failed; the message says which."""


@dataclass(frozen=True)
class NoveltySettings:
    """When a picture counts as unlike those of the training data.

    Attributes:
        novelty_ratio: A picture is refused if it is more than this many times as far from the
            training frames as the farthest held-out one.
        allow_novel: Such pictures are reported where a run begins, and not refused.
    """

    novelty_ratio: Positive = 1.5
    allow_novel: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class MonitorSettings(NoveltySettings):
    """When a deviation from the reference statistics stops the arm.

    Attributes:
        prediction_error_p: A prediction error is large if its p-value on the demonstrations is at
            most this.
        large_errors: Number of large prediction errors in a row that stops the arm.
        progress_plans: Window length of the progress check, decisions.
        progress_share: The arm is stopped if the actual energy drop over the window is below this
            share of the predicted drop.
        progress_steps: Progress is checked only if the predicted drop is at least this many times
            the energy of a step of the training data.
    """

    prediction_error_p: Annotated[float, Meta(gt=0, le=1)] = 0.01
    large_errors: Count = 3
    progress_plans: Count = 6
    progress_share: Positive = 0.1
    progress_steps: Positive = 1.0


class Monitors:
    """Watches a run; every check raises MonitorError with what is wrong.

    Args:
        reference: Reference statistics of the checkpoint; None: only what needs none is checked.
        settings: Thresholds of the checks.
        step_energy: Mean energy of a step of the training data; None: progress is not checked.
    """

    def __init__(
        self,
        reference: ReferenceStatistics | None,
        settings: MonitorSettings,
        *,
        step_energy: float | None,
    ) -> None:
        self._reference, self._settings, self._step_energy = reference, settings, step_energy
        self.begin()

    def begin(self) -> None:
        """Forgets the run before."""
        self._num_large_errors = 0
        self._energy_drops: list[tuple[float, float]] = []  # predicted and actual, by plan
        self._last_images: dict[str, tuple[ImageArray, FloatArray]] = {}  # and joints, by camera

    def check_novelty(
        self, what: str, latent: Tensor, images: Sequence[ImageArray]
    ) -> float | None:
        """Checks that pictures are like the training data's (`ReferenceStatistics.novelty_of`).

        Args:
            what: Name of the pictures, for the message.
            latent: Latent of the pictures `[P, D]`.
            images: Pictures of the model's cameras, in their order, uint8 `[height, width, 3]`.

        Returns:
            Their novelty; None without reference statistics.

        Raises:
            MonitorError: the pictures are too novel.
        """
        if self._reference is None:
            return None
        ratio = self._reference.novelty_of(latent, images)
        if not ratio <= self._settings.novelty_ratio:
            raise MonitorError(
                f"{what} is unlike the training pictures: {ratio:.1f} times as far from them as "
                f"any held-out one (allowed: {self._settings.novelty_ratio:g})"
            )
        return ratio

    def picture(self, name: str, image: ImageArray) -> None:
        """Checks that a camera's picture is neither black nor empty.

        Args:
            name: Name of the camera.
            image: The picture, uint8 `[height, width, 3]`.

        Raises:
            MonitorError: the picture is black or empty.
        """
        if image.mean() < _DARK or image.std() < _FLAT:
            raise MonitorError(
                f"camera {name} shows nothing: brightness {image.mean():.0f}, spread "
                f"{image.std():.1f} of 255"
            )

    def camera(self, name: str, image: ImageArray, joints: FloatArray) -> None:
        """Checks that a camera shows something, and something new once the arm has moved.

        Args:
            name: Name of the camera.
            image: The picture, uint8 `[height, width, 3]`.
            joints: Joints of the arm `[J]`, rad.

        Raises:
            MonitorError: the picture is black, empty, or frozen.
        """
        self.picture(name, image)
        if name in self._last_images:
            before, joints_before = self._last_images[name]
            moved = float(np.abs(joints - joints_before).max())
            if moved > _STILL_RAD and np.array_equal(image, before):
                raise MonitorError(
                    f"camera {name} is frozen: the same picture after a joint moved {moved:.2f} rad"
                )
            if np.array_equal(image, before):
                return  # keeps the old joints, so that small steps add up
        self._last_images[name] = image, np.array(joints)

    def predicted(self, predicted: Tensor, observed: Tensor) -> float | None:
        """Checks a prediction's error, once its action was executed.

        Args:
            predicted: The predicted latent `[P, D]`.
            observed: The latent of the observation `[P, D]`.

        Returns:
            The error's p-value; None without reference statistics.

        Raises:
            MonitorError: there were too many large errors in a row.
        """
        if self._reference is None:
            return None
        error = prediction_error(predicted, observed)
        p_value = self._reference.p_value(error)
        large = p_value <= self._settings.prediction_error_p
        self._num_large_errors = self._num_large_errors + 1 if large else 0
        if self._num_large_errors >= self._settings.large_errors:
            raise MonitorError(
                f"what it saw is not what it imagined, {self._num_large_errors} times in a row: "
                f"error {error:.3f}, p = {p_value:.4f} against demonstrations"
            )
        return p_value

    def progress(self, predicted_drop: float, actual_drop: float) -> None:
        """Checks that energy falls as predicted.

        Args:
            predicted_drop: Energy drop that was predicted for the executed action.
            actual_drop: Energy drop that was then observed.

        Raises:
            MonitorError: the observed drop over the last decisions is too small.
        """
        num_plans = self._settings.progress_plans
        self._energy_drops = [*self._energy_drops, (predicted_drop, actual_drop)][-num_plans:]
        if len(self._energy_drops) < num_plans or self._step_energy is None:
            return
        predicted, actual = (sum(drops) for drops in zip(*self._energy_drops, strict=True))
        if predicted < self._settings.progress_steps * self._step_energy:
            return
        if actual < self._settings.progress_share * predicted:
            raise MonitorError(
                f"no progress: {num_plans} plans predicted an energy drop of {predicted:.3f}, "
                f"{actual:.3f} came"
            )


class MonitorGuard:
    """Stops a run at what the monitors report (`robot_wm.types.Guard`).

    Args:
        monitors: The checks.
        cameras: Names of the cameras that the controller uses.
        joints: A function that returns the arm's joints at the last observation `[J]`, rad.
        moves: Whether decisions are executed; if not, their results are not checked.
    """

    def __init__(
        self,
        monitors: Monitors,
        cameras: Sequence[str],
        joints: Callable[[], FloatArray],
        *,
        moves: bool = True,
    ) -> None:
        self._monitors, self._cameras = monitors, tuple(cameras)
        self._joints, self._moves = joints, moves
        self._last: Decision | None = None

    def check(self, obs: Observation, decision: Decision, applied: FloatArray | None) -> Verdict:
        """Checks an observation, and what came of the last decision.

        Args:
            obs: The current observation.
            decision: The decision on it.
            applied: The action that was executed since the last observation `[A]`; None at the
                first.

        Returns:
            A fault where a check fails; else a verdict with the `p_value` of the last prediction's
            error, where it is known.
        """
        if applied is None:  # a run begins
            self._monitors.begin()
            self._last = None
        last, self._last = self._last, decision
        try:
            for name in self._cameras:
                if self._moves:
                    self._monitors.camera(name, obs.images[name], self._joints())
                else:
                    self._monitors.picture(name, obs.images[name])
            if not self._moves:
                return Verdict()
            if last is None or applied is None:  # nothing was predicted
                return Verdict()
            p_value = self._judge(last, decision, applied)
        except (MonitorError, PlanningError) as error:  # or an imagined latent is not finite
            return Verdict("fault", str(error))
        return Verdict() if p_value is None else Verdict(numbers={"p_value": p_value})

    def _judge(self, last: Decision, now: Decision, applied: FloatArray) -> float | None:
        """Compares the result of the last decision with what was imagined; returns the p-value."""
        if last.predict is None or last.energy is None or now.energy is None:
            return None
        latent, energy = last.predict(applied)
        p_value = self._monitors.predicted(latent, now.latent)
        if now.goal == last.goal:
            self._monitors.progress(last.energy - energy, last.energy - now.energy)
        return p_value
