"""The arm as the planner's process sees it: an Env that looks at rest, sends a plan, and waits.

Step and hold: it looks while the arm stands, its plan starts where it looked, and the next look
waits until the arm stands again: nothing moves on a prediction alone.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from hardware.messages import (
    ArmObservation,
    ArmStopped,
    Heartbeat,
    ObservationRequest,
    PlanProposal,
)
from hardware.plans import JointPlan
from hardware.wire import FrameSlot, Wire
from robot_wm.types import ActionSpec, FloatArray, Observation, RunError

HEARTBEAT_S = 0.03


class ArmStoppedError(RunError):
    """The controller has stopped the arm, for a human or a fault, or shows nothing of it."""


class Actions(Protocol):
    """How a policy's actions move joints."""

    @property
    def spec(self) -> ActionSpec: ...

    def proprio(self, joints: FloatArray) -> FloatArray:
        """What the policy calls the arm's state `[Q]`, at joints `[J]`, rad."""
        ...

    def targets(self, joints: FloatArray, action: FloatArray) -> FloatArray:
        """Joint targets `[H, J]`, rad, of one action `[A]` from commanded joints `[J]`."""
        ...

    def moved(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """The action `[A]` that leads from commanded joints `[J]` to others."""
        ...


class RemoteArm:
    """An arm in another process (robot_wm.types.Env).

    Args:
        wire: to the controller.
        frames: camera -> where its newest picture is.
        actions: how actions move joints.
        control_dt: seconds that one action stands for.
        timeout_s: longest wait for an answer; the controller faults before that.
        step_s: longest time that one action may take.
    """

    def __init__(
        self,
        wire: Wire,
        frames: Mapping[str, FrameSlot],
        actions: Actions,
        *,
        control_dt: float,
        timeout_s: float = 90.0,
        step_s: float = 3.0,
    ) -> None:
        self._wire, self._frames, self._actions = wire, dict(frames), actions
        self._control_dt, self._timeout_s, self._step_s = control_dt, timeout_s, step_s
        self._requests, self._plans = itertools.count(), itertools.count()
        self._seen: ArmObservation | None = None
        self._begun_s = 0.0
        self.joints = np.zeros(0)  # where it stood at the last look [J], rad

    @property
    def action_spec(self) -> ActionSpec:
        return self._actions.spec

    @property
    def control_dt(self) -> float:
        return self._control_dt

    def reset(self, seed: int) -> Observation:
        """Looks: nobody can put a real arm anywhere but itself."""
        return self.observe()

    def observe(self) -> Observation:
        """Looks, once the arm stands.

        Raises:
            ArmStoppedError: a human, or a fault.
            TimeoutError: no answer in time.
        """
        self._seen = seen = self._ask()
        images = {}
        for name, slot in self._frames.items():
            frame = slot.read()
            if frame is None:
                raise ArmStoppedError(f"camera {name} has shown nothing")
            images[name] = frame[0]
        self.joints = seen.joints
        return Observation(images, self._actions.proprio(seen.joints), seen.observed_s)

    def apply(self, action: FloatArray) -> FloatArray:
        """Sends one action `[A]` as a plan, and waits until the arm stands again.

        Returns:
            What the commanded pose has really moved by, `[A]`.

        Raises:
            UserError: wrong size or not finite; nothing is sent.
            ArmStoppedError: a human, or a fault.
            TimeoutError: no answer in time.
        """
        action = self.action_spec.clip(action)
        seen = self._seen or self._ask()
        plan = JointPlan(
            epoch=seen.epoch,
            seq=next(self._plans),
            observed_s=seen.observed_s,
            begun_s=self._begun_s,
            start=seen.joints,
            waypoints=self._actions.targets(seen.commanded, action),
            valid_until_s=time.monotonic() + self._step_s,
        )
        self._wire.send(PlanProposal(plan=plan))
        self._seen = None
        return self._actions.moved(seen.commanded, self._ask().commanded)

    def stop(self) -> None:
        """Nothing: between plans the controller holds the arm by itself."""

    def close(self) -> None:
        self._wire.close()

    def _ask(self) -> ArmObservation:
        number = next(self._requests)
        self._wire.send(ObservationRequest(number=number))
        until_s = time.monotonic() + self._timeout_s
        while True:
            for message in self._wire.receive():
                if isinstance(message, ArmStopped):
                    raise ArmStoppedError(str(message.reason))
                if isinstance(message, ArmObservation) and message.number == number:
                    self._begun_s = time.monotonic()
                    return message
            if self._wire.closed:
                raise ArmStoppedError("the controller is gone")
            if time.monotonic() > until_s:
                raise TimeoutError(f"no answer from the controller for {self._timeout_s:.0f} s")
            # While the arm moves we are here: who is stuck elsewhere says nothing, and it is held.
            self._wire.wait(HEARTBEAT_S)
            self._wire.send(Heartbeat())
