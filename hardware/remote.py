"""The arm as the policy process sees it: an Env that observes at rest, sends a plan, and waits.

The arm stands while it is observed, a plan starts where it was observed, and the next observation
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
    """The arm server has stopped the arm or is gone, or a camera has shown nothing."""


class Actions(Protocol):
    """How a policy's actions move joints."""

    @property
    def spec(self) -> ActionSpec:
        """Bounds of the actions."""
        ...

    def proprio(self, joints: FloatArray) -> FloatArray:
        """Returns the policy's arm state `[Q]` at joints `[J]`, rad."""
        ...

    def targets(self, joints: FloatArray, action: FloatArray) -> FloatArray:
        """Returns joint targets `[H, J]`, rad, of an action `[A]` from commanded joints `[J]`."""
        ...

    def moved(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Returns the action `[A]` that leads from commanded joints `[J]`, rad, to others."""
        ...


class RemoteArm:
    """An arm in another process (`robot_wm.types.Env`).

    Args:
        wire: Wire to the arm server.
        frames: Shared memory of each camera's newest picture, by camera.
        actions: Map from actions to joint targets.
        control_dt: Time that one action stands for, s.
        timeout_s: Longest wait for an answer, s; the arm server faults sooner.
        step_s: Longest time that one action may take, s.
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
        self._observed: ArmObservation | None = None
        self._begun_s = 0.0  # when planning began: the last observation came
        self.joints = np.zeros(0)  # as last observed [J], rad

    @property
    def action_spec(self) -> ActionSpec:
        """See `Env.action_spec`."""
        return self._actions.spec

    @property
    def control_dt(self) -> float:
        """See `Env.control_dt`."""
        return self._control_dt

    def reset(self, seed: int) -> Observation:
        """Returns an observation; a real arm stays where it is."""
        return self.observe()

    def observe(self) -> Observation:
        """Observes the arm, once it is at rest.

        Returns:
            Pictures, proprioception, and the stamp of the oldest of both.

        Raises:
            ArmStoppedError: the operator or a fault has stopped the arm.
            TimeoutError: no answer came in time.
        """
        self._observed = observed = self._request()
        images = {}
        for name, slot in self._frames.items():
            frame = slot.read()
            if frame is None:
                raise ArmStoppedError(f"camera {name} has shown nothing")
            images[name] = frame[0]
        self.joints = observed.joints
        return Observation(images, self._actions.proprio(observed.joints), observed.observed_s)

    def apply(self, action: FloatArray) -> FloatArray:
        """Sends one action as a plan, and waits until the arm is at rest again.

        Args:
            action: The action `[A]`, in the policy's units.

        Returns:
            The action `[A]` by which the commanded pose has really moved.

        Raises:
            UserError: the action has a wrong size or is not finite; nothing is sent.
            ArmStoppedError: the operator or a fault has stopped the arm.
            TimeoutError: no answer came in time.
        """
        action = self.action_spec.clip(action)
        observed = self._observed or self._request()
        plan = JointPlan(
            epoch=observed.epoch,
            seq=next(self._plans),
            observed_s=observed.observed_s,
            begun_s=self._begun_s,
            start=observed.joints,
            waypoints=self._actions.targets(observed.commanded, action),
            valid_until_s=time.monotonic() + self._step_s,
        )
        self._wire.send(PlanProposal(plan=plan))
        self._observed = None
        return self._actions.moved(observed.commanded, self._request().commanded)

    def stop(self) -> None:
        """Does nothing: between plans the arm server holds the arm by itself."""

    def close(self) -> None:
        """See `Env.close`."""
        self._wire.close()

    def _request(self) -> ArmObservation:
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
                raise ArmStoppedError("the arm server is gone")
            if time.monotonic() > until_s:
                raise TimeoutError(f"no answer from the arm server for {self._timeout_s:.0f} s")
            # The arm moves only while this loop runs: a process stuck elsewhere sends no heartbeat,
            # and the arm is held.
            self._wire.wait(HEARTBEAT_S)
            self._wire.send(Heartbeat())
