"""The only closed loop of the project: evaluation, demo and deployment all run episodes here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from robot_wm.types import Controller, Env, FloatArray, Goal, Observation


@dataclass(frozen=True, eq=False)
class Step:
    """One turn of the loop.

    Attributes:
        observation: what was seen before acting.
        action: what the controller asked for `[A]`.
        applied: what was really executed `[A]`.
        plan_s: seconds the controller took, encoding included.
    """

    observation: Observation
    action: FloatArray
    applied: FloatArray
    plan_s: float


class Recorder(Protocol):
    """Is shown every step of an episode as it happens, and what was seen at its end."""

    def record(self, step: Step) -> None: ...

    def finish(self, last: Observation) -> None: ...


def run_episode(
    env: Env,
    controller: Controller,
    goal: Goal | Sequence[Goal],
    *,
    num_steps: int,
    recorders: Sequence[Recorder] = (),
    realtime: bool = False,
) -> Observation:
    """Runs one episode from where the env stands.

    Args:
        env: stands at its start.
        controller: is reset to `goal` first.
        goal: what is wanted, or several, one after the other, of a controller that takes them.
        num_steps: actions to execute.
        recorders: shown every step; `finish` only where the episode ran to its end.
        realtime: hold each turn to `env.control_dt` of wall time; a late turn is not made up for.

    Returns:
        The last observation. The env is stopped on every way out.
    """
    applied: FloatArray | None = None
    try:
        controller.reset(goal)
        for _ in range(num_steps):
            begin = time.monotonic()
            observation = env.observe()
            planned = time.monotonic()
            action = controller.act(observation, applied)
            plan_s = time.monotonic() - planned
            applied = env.apply(action)
            step = Step(observation, action, applied, plan_s)
            for recorder in recorders:
                recorder.record(step)
            if realtime:
                time.sleep(max(0.0, begin + env.control_dt - time.monotonic()))
        last = env.observe()
        for recorder in recorders:
            recorder.finish(last)
        return last
    finally:
        env.stop()
